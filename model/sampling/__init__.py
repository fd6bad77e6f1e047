"""Drawing images, value by value, in the time of one forward pass."""

from model.sampling.engines import Engine, fill
from model.sampling.noise import uniforms, uniforms_of_scales

__all__ = ["Engine", "fill", "uniforms", "uniforms_of_scales"]
