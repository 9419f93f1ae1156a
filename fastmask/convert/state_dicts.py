"""Weights that PyTorch or another library has written, as arrays by name."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmask.core.errors import FileFormatError, reading
from fastmask.saving import safetensors


def require_torch() -> ModuleType:
    """Return PyTorch; ImportError if it is not installed, which names the extra that brings it."""
    try:
        return import_module("torch")
    except ImportError as error:
        raise ImportError("modules and .pt files need PyTorch: pip install 'fastmask[torch]'") from error


def read_state_dict(path: Any) -> dict[str, NDArray[Any]]:
    """Return the arrays in a file of weights, for ``set_torch_weights``.

    Parameters
    ----------
    path : str or path-like
        A ``.safetensors`` file, or one that ``torch.save`` wrote of a state dict, which is read by
        ``torch.load(weights_only=True)``; known by its content.

    Returns
    -------
    dict of str to ndarray
        bfloat16 as float32.

    Raises
    ------
    FileFormatError
        If the file is malformed or holds anything else.
    MemoryError
        If memory is short.
    ImportError
        If PyTorch is missing, for files other than ``.safetensors`` (``pip install "fastmask[torch]"``).
    FileNotFoundError

    Notes
    -----
    Reading runs no code of the file, as far as PyTorch's `weights_only` keeps that promise.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(9)
    if safetensors.is_safetensors(start) or path.name.endswith(safetensors.ENDING):
        with reading(path):
            return safetensors.read(path)
    torch = require_torch()
    with reading(path):
        return _arrays(torch.load(path, map_location="cpu", weights_only=True), torch)


def _arrays(found: Any, torch: Any) -> dict[str, NDArray[Any]]:
    if not isinstance(found, Mapping):
        raise FileFormatError(f"expected a state dict, got a {type(found).__name__}")
    others = [name for name, value in found.items() if not isinstance(value, torch.Tensor)]
    if others:
        first = f"{others[0]!r}, a {type(found[others[0]]).__name__}"
        raise FileFormatError(f"expected tensors by name, got {first}; such a part of a checkpoint has to be taken out")
    return {str(name): _array(value, torch) for name, value in found.items()}


def _array(tensor: Any, torch: Any) -> NDArray[Any]:
    wide = tensor.float() if tensor.dtype is torch.bfloat16 else tensor
    array: NDArray[Any] = np.array(wide.detach().numpy())
    return array
