"""Models and weights in Keras's files (extra ``fastmask[keras]``, which brings h5py).

>>> model.save("model.keras")
>>> model = fm.models.load_model("model.keras")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastmask.core.errors import FileFormatError

if TYPE_CHECKING:
    from fastmask.saving.archive import load_model, model_from_json, save_model
    from fastmask.saving.weights import load_weights, save_weights

_NAMES = {
    "load_model": "archive",
    "model_from_json": "archive",
    "save_model": "archive",
    "load_weights": "weights",
    "save_weights": "weights",
}

__all__ = ["FileFormatError", "load_model", "load_weights", "model_from_json", "save_model", "save_weights"]


def __getattr__(name: str) -> Any:
    """Import what needs models on first use: models themselves import this package."""
    if name in _NAMES:
        return getattr(import_module(f"fastmask.saving.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'fastmask.saving' has no attribute {name!r}")
