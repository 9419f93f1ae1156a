"""Models and weights of other libraries.

>>> model = fm.convert.from_onnx("model.onnx")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastmask.convert.onnx import from_onnx

_NAMES = {
    "from_onnx": "onnx",
}

__all__ = ["from_onnx"]


def __getattr__(name: str) -> Any:
    """Import a function on first use: each needs another library."""
    if name in _NAMES:
        return getattr(import_module(f"fastmask.convert.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'fastmask.convert' has no attribute {name!r}")
