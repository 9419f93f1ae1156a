"""Which steps of a batch count, as a layer is told: from a mask, from lengths, or by a PackedSequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fastmask.torch._checks import check_mask
from fastmask.torch._eager import EagerPlan
from fastmask.torch._kept import KeptProgram
from fastmask.torch._tape import Inputs, Options, Outputs
from fastmask.torch._traced import TracedPlan
from fastmask.torch._ways import Way


class Plan(Protocol):
    """How padded tensors become packed ones and back, and the runs of layers in between."""

    @property
    def batch_size(self) -> int:
        """Rows of the batch."""
        ...

    @property
    def sizes(self) -> tuple[Tensor, Tensor]:
        """``batch_sizes`` and ``sorted_indices`` of a PackedSequence."""
        ...

    def with_time_major(self, time_major: bool) -> Any:
        """The same plan with padded tensors (T, B, F), or (B, T, F)."""
        ...

    def pack(self, x: Tensor) -> Tensor:
        """The valid tokens (N, F) of a padded tensor."""
        ...

    def unpack(self, values: Tensor, *, repeat: bool = False, flipped: bool = False) -> Tensor:
        """The padded tensor of values (N, H). Masked places show zeros, or with ``repeat`` the token before them.

        ``flipped``: values and result are in the order of a run from the end.
        """
        ...

    def reverse(self, values: Tensor) -> Tensor:
        """Values of a run from the end in the order of time, or the other way round."""
        ...

    def run(
        self, options: Options, inputs: Inputs, recorded: bool, index: Tensor | None = None,
        kept: KeptProgram | None = None,
    ) -> Outputs:
        """Run a layer on values (U, F); with an index (N,) token n is ``values[index[n]]``.

        ``recorded``: PyTorch is to record the run for a backward pass. ``kept``: a program for runs that are not, in
        calls whose way is ``Way.KERNELS``.
        """
        ...


def _plan_type(found: Way) -> type[EagerPlan] | type[TracedPlan]:
    return TracedPlan if found is Way.OPERATORS else EagerPlan


def padded_plan(
    found: Way, shape: Sequence[int], mask: Tensor | None, lengths: Tensor | Sequence[int] | None,
    time_major: bool = False,
) -> Plan:
    """The plan of padded tensors whose first two dimensions are ``shape``; the mask has this shape, too."""
    steps, batch = shape if time_major else (shape[1], shape[0])
    if mask is not None and lengths is not None:
        raise ValueError("mask, lengths: expected one of them, got both")
    if mask is not None:
        mask = check_mask(mask, shape, found)
        return _plan_type(found).from_mask(mask, time_major)
    if lengths is not None:
        return _plan_type(found).from_lengths(_checked_lengths(lengths, batch), steps, time_major)
    return _plan_type(found).full(batch, steps, time_major)


def _checked_lengths(lengths: Tensor | Sequence[int], batch: int) -> Tensor:
    tensor = torch.as_tensor(lengths)
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype is torch.bool:
        raise TypeError(f"lengths: expected integers, got {tensor.dtype}")
    if tuple(tensor.shape) != (batch,) or tensor.device.type != "cpu":
        raise ValueError(
            f"lengths: expected shape ({batch},) on the CPU, got {tuple(tensor.shape)} on {tensor.device}"
        )
    return tensor.to(torch.int64)


def packed_plan(found: Way, batch_sizes: Tensor, sorted_indices: Tensor | None) -> Plan:
    """The plan of a ``torch.nn.utils.rnn.PackedSequence``."""
    return _plan_type(found).from_batch_sizes(batch_sizes, sorted_indices)
