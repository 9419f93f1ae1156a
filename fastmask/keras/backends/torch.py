"""PyTorch: an autograd function."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fastmask.keras import recurrence as arrays
from fastmask.keras.recurrence import Recurrence


def run(recurrence: Recurrence, tensors: Sequence[Any], mask: Any, training: bool) -> list[Any]:
    """Return the results of a layer."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return list(_Run.apply(recurrence, mask, *tensors))
    results = arrays.run(recurrence, _arrays(tensors), None if mask is None else mask.numpy())
    return [torch.from_numpy(np.ascontiguousarray(result)) for result in results]


def refusal(sequences: Any) -> str | None:
    """Return why a tensor cannot be run: it has to be on the CPU, and not be compiled."""
    if sequences.device.type != "cpu":
        return f"its input is on {sequences.device.type!r}, the kernels run on the CPU"
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "it is compiled by PyTorch, which cannot look into the kernels"
    return None


def is_placeholder(sequences: Any) -> bool:
    """Return whether a tensor has a shape and no values."""
    return bool(sequences.device.type == "meta")


class _Run(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, recurrence: Recurrence, mask: Any, *tensors: Any) -> tuple[Any, ...]:
        ctx.recurrence, ctx.mask = recurrence, None if mask is None else mask.numpy()
        ctx.save_for_backward(*tensors)
        results, ctx.pullback = arrays.run_vjp(recurrence, _arrays(tensors), ctx.mask)
        return tuple(torch.from_numpy(np.ascontiguousarray(result)) for result in results)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *d_results: Any) -> tuple[Any, ...]:
        pullback, ctx.pullback = ctx.pullback, None
        if pullback is None:  # a second backward through a retained graph
            _, pullback = arrays.run_vjp(ctx.recurrence, _arrays(ctx.saved_tensors), ctx.mask)
        found = pullback(*_arrays(d_results))
        return None, None, *[torch.from_numpy(np.ascontiguousarray(gradient)) for gradient in found]


def _arrays(tensors: Sequence[Any]) -> list[Any]:
    return [tensor.detach().numpy() for tensor in tensors]
