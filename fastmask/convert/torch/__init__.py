"""Modules of PyTorch as models; needs ``pip install 'fastmask[torch]'``."""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("fastmask.convert.from_torch needs PyTorch: pip install 'fastmask[torch]'") from error

from fastmask.convert.torch.conversion import from_torch

__all__ = ["from_torch"]
