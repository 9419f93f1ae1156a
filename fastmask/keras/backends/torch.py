"""PyTorch: the differentiable functions of `fastmask.torch`."""

from collections.abc import Sequence
from typing import Any

import torch

from fastmask.keras.recurrence import Recurrence
from fastmask.torch import functional
from fastmask.torch._tape import Options


def run(recurrence: Recurrence, tensors: Sequence[Any], mask: Any, training: bool) -> list[Any]:
    """Return the results of a layer."""
    x, kernel, recurrent_kernel, bias, states = recurrence.split(tensors)
    grid = None if mask is None else _grid(mask, x)
    options = Options.of(recurrence.spec, recurrence.return_sequences)
    weights = kernel, recurrent_kernel, bias
    sequence, finals = functional.run(options, x, weights, states, grid, repeat=not recurrence.zero_output_for_mask)
    return [_last(recurrence, finals[0], grid) if sequence is None else sequence, *finals]


def refusal(sequences: Any) -> str | None:
    """Return why a tensor cannot be run: it has to be on the CPU, and not be traced by TorchScript."""
    if sequences.device.type != "cpu":
        return f"its input is on {sequences.device.type!r}, the kernels run on the CPU"
    if torch.jit.is_tracing():
        return "it is traced by TorchScript, which cannot record the kernels"
    return None


def _grid(mask: Any, x: Any) -> Any:
    """Return a mask as bool (B, T)."""
    grid = mask if mask.dim() == 2 else mask[..., 0]
    grid = grid if grid.dtype == torch.bool else grid != 0
    return grid.expand(x.shape[:2]) if grid.shape[0] == 1 else grid


def _last(recurrence: Recurrence, last: Any, mask: Any) -> Any:
    """Return what a layer shows of its last output."""
    if mask is None:
        return last
    final = 0 if recurrence.spec.go_backwards else -1
    shown = mask[:, final] if recurrence.zero_output_for_mask else mask.any(dim=1)
    return torch.where(shown[:, None], last, torch.zeros_like(last))
