"""Evaluation of a checkpoint: likelihood scores, samples, completions and figures."""
