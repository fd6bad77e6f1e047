"""Samplers: they draw images value by value, at the cost of one forward pass."""

from model.sampling.engines import Engine, fill
from model.sampling.noise import uniforms, uniforms_of_scales

__all__ = ["Engine", "fill", "uniforms", "uniforms_of_scales"]
