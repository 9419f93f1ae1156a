"""Models: `Sequential` stacks and graphs of layers with several inputs and outputs."""

from typing import TYPE_CHECKING, Any

from fastmask import saving
from fastmask.layers.base.serialization import register
from fastmask.layers.input import Input
from fastmask.models.cloning import clone_model
from fastmask.models.functional import Model
from fastmask.models.sequential import Sequential

if TYPE_CHECKING:
    from fastmask.saving import load_model, model_from_json, save_model

__all__ = ["Input", "Model", "Sequential", "clone_model", "load_model", "model_from_json", "save_model"]

register({"Functional": Model, "Model": Model, "Sequential": Sequential})


def __getattr__(name: str) -> Any:
    """Import what reads and writes files on first use."""
    if name in __all__:
        return getattr(saving, name)
    raise AttributeError(f"module 'fastmask.models' has no attribute {name!r}")
