"""Models and weights of other libraries.

>>> model = fm.convert.from_onnx("model.onnx")
>>> model = fm.convert.from_torch(module)
>>> layer.set_torch_weights(fm.convert.read_state_dict("weights.safetensors"), "encoder.")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastmask.convert.onnx import from_onnx
    from fastmask.convert.state_dicts import read_state_dict
    from fastmask.convert.torch import from_torch

_NAMES = {
    "from_onnx": "onnx",
    "from_torch": "torch",
    "read_state_dict": "state_dicts",
}

__all__ = ["from_onnx", "from_torch", "read_state_dict"]


def __getattr__(name: str) -> Any:
    """Import a function on first use: each needs another library."""
    if name in _NAMES:
        return getattr(import_module(f"fastmask.convert.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'fastmask.convert' has no attribute {name!r}")
