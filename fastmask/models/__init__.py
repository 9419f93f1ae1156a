"""Models: `Sequential` stacks and graphs of layers with several inputs and outputs."""

from typing import TYPE_CHECKING, Any

from fastmask.layers.base.serialization import register
from fastmask.layers.input import Input
from fastmask.models.functional import Model
from fastmask.models.sequential import Sequential

if TYPE_CHECKING:
    from fastmask.saving import load_model

__all__ = ["Input", "Model", "Sequential", "load_model"]

register({"Functional": Model, "Model": Model, "Sequential": Sequential})


def __getattr__(name: str) -> Any:
    """Import what reads files on first use."""
    if name == "load_model":
        from fastmask.saving import load_model

        return load_model
    raise AttributeError(f"module 'fastmask.models' has no attribute {name!r}")
