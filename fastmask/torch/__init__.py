"""PyTorch modules and functions on fastmask's kernels; needs ``pip install 'fastmask[torch]'``."""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("fastmask.torch needs PyTorch: pip install 'fastmask[torch]'.") from error

from fastmask.torch import functional

__all__ = ["functional"]
