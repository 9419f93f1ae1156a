"""Models: `Sequential` stacks and graphs of layers with several inputs and outputs."""

from fastmask.layers.input import Input
from fastmask.models.functional import Model
from fastmask.models.sequential import Sequential

__all__ = ["Input", "Model", "Sequential"]
