"""The training loop, and what outlives a step: the state, checkpoints, metrics and the request to stop."""
