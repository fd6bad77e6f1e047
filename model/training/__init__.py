"""The training loop, its state, checkpoints, metrics, progress output and stop request."""
