"""Checks of tensors that come from outside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastmask.core.arguments import check_shape as check_shape
from fastmask.torch._ways import INSTEAD, Way

_FLOATS = (torch.float32, torch.float64)
_PLAIN = (Tensor, torch.nn.Parameter)
HALVES = (torch.float16, torch.bfloat16)


def are_usual(tensors: Iterable[Any], dtype: torch.dtype) -> bool:
    """Whether these are dense tensors in the memory of the CPU with this dtype, and it is float32 or float64."""
    if dtype not in _FLOATS:
        return False
    for tensor in tensors:
        if type(tensor) in _PLAIN:
            dense = tensor.dtype is dtype and tensor.is_cpu and tensor.layout is torch.strided
        else:
            dense = isinstance(tensor, Tensor) and tensor.dtype is dtype and _is_dense(tensor)
        if not dense:
            return False
    return True


def _is_dense(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.layout is torch.strided


def check_tensor(name: str, tensor: Tensor, dtype: torch.dtype | None = None) -> None:
    """TypeError or ValueError unless ``tensor`` is a dense float32 or float64 tensor in the memory of the CPU."""
    if type(tensor) in _PLAIN and tensor.is_cpu and tensor.layout is torch.strided:
        # The short way of almost every tensor.
        found = tensor.dtype
        if found in _FLOATS and (dtype is None or found is dtype):
            return
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if not _is_dense(tensor):
        raise ValueError(
            f"{name}: expected a dense tensor on the CPU, got {tensor.layout} on {tensor.device}; {INSTEAD}"
        )
    if tensor.dtype not in _FLOATS:
        raise TypeError(f"{name}: expected torch.float32 or torch.float64, got {tensor.dtype}")
    if dtype is not None and tensor.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype}, as the other tensors, got {tensor.dtype}")


def check_mask(mask: Tensor, shape: Sequence[int], found: Way = Way.KERNELS) -> Tensor:
    """``mask`` as a bool tensor.

    TypeError or ValueError unless it is one on the CPU of the shape given, or one of 0 and 1 in a call whose way is
    ``Way.KERNELS``: others do not look at the numbers.
    """
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask: expected a bool tensor, got {type(mask).__name__}")
    if mask.dtype is not torch.bool:
        mask = exactly(mask, torch.bool, found)
    if mask.dtype is not torch.bool or mask.device.type != "cpu":
        raise TypeError(f"mask: expected a torch.bool tensor on the CPU, got {mask.dtype} on {mask.device}")
    check_shape("mask", mask, shape)
    return mask


def exactly(tensor: Tensor, dtype: torch.dtype, found: Way) -> Tensor:
    """Real numbers as another dtype, if it has all of them and the call may look at them; else the tensor as it is."""
    if found is not Way.KERNELS or tensor.dtype.is_complex or not tensor.is_cpu:
        return tensor
    converted = tensor.detach().to(dtype)
    return converted if torch.equal(converted.to(tensor.dtype), tensor) else tensor


def widen(tensor: Tensor) -> Tensor:
    """Under autocast a tensor of half precision in float32; any other as it is."""
    if tensor.dtype in HALVES and torch.is_autocast_enabled("cpu"):
        return tensor.float()
    return tensor


def differentiable(tensors: Iterable[Tensor | None]) -> bool:
    """Whether PyTorch is to record what is done with these tensors."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
