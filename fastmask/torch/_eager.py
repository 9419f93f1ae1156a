"""Calls that nothing but autograd watches, as autograd functions: 15 us a call, custom operators of PyTorch 2.13 cost
150. What else watches them, such as ``torch.vmap``, or records gradients of gradients, sees PyTorch's own operators."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastmask import kernels
from fastmask.batch.packing import Packing, take_rows
from fastmask.core.stored import stored_property
from fastmask.ops._products import segment_sum
from fastmask.torch import _plain
from fastmask.torch._checks import HALVES, differentiable
from fastmask.torch._kept import KeptProgram, forward
from fastmask.torch._tape import Gradients, Inputs, Job, Options, Outputs, as_array, make_job, taped_forward
from fastmask.torch._ways import Way, differentiate_plainly, values_of, way

Indices = NDArray[np.int64]


class _Recurrent(torch.autograd.Function):
    """Arguments: the job, then values, four weights and the states. Results: the sequence or None, the states."""

    @staticmethod
    def forward(ctx: Any, job: Job, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        (sequence, states), ctx.tape = taped_forward(job, _inputs(tensors))
        # The sequence is the memory of the states that the tape reads: PyTorch must notice if it is changed.
        ctx.save_for_backward(*tensors, sequence)
        ctx.set_materialize_grads(False)
        return (sequence, *states)

    @staticmethod
    def backward(ctx: Any, d_sequence: Tensor | None, *d_states: Tensor | None) -> Gradients:
        *tensors, sequence = ctx.saved_tensors
        if differentiate_plainly((d_sequence, *d_states)):
            return None, *_plain.gradients(ctx.tape.job, _inputs(tensors), d_sequence, d_states)
        return None, *ctx.tape.gradients(_inputs(tensors), sequence, d_sequence, d_states)


def _inputs(tensors: Any) -> Inputs:
    values, *weights_and_states = tensors
    return Inputs(values, tuple(weights_and_states[:4]), tuple(weights_and_states[4:]))


def recurrent(job: Job, inputs: Inputs, recorded: bool, kept: KeptProgram | None = None) -> Outputs:
    """Run a layer; with ``recorded`` PyTorch records it."""
    if kept is None and way(inputs.tensors) is not Way.KERNELS:
        return _plain.run(job, inputs)
    if not recorded:
        return forward(job, inputs, kept)
    sequence, *states = _Recurrent.apply(job, *inputs.tensors)
    return sequence, tuple(states)


class _TakeRows(torch.autograd.Function):
    """``source[index]``, zeros where the index is -1. ``inverse`` takes gradients back if no row is taken twice."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, index: Indices, inverse: Indices | None) -> Tensor:
        ctx.index, ctx.inverse, ctx.count = index, inverse, source.shape[0]
        return torch.from_numpy(take_rows(as_array(source), index))

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None, None]:
        if differentiate_plainly((d,)):
            return _plain.sum_rows(d, ctx.index, ctx.count), None, None
        rows = np.ascontiguousarray(as_array(d))
        if ctx.inverse is not None:
            return torch.from_numpy(take_rows(rows, ctx.inverse)), None, None
        return torch.from_numpy(segment_sum(kernels.module(rows.dtype), rows, ctx.index, ctx.count)), None, None


def take(source: Tensor, index: Indices, inverse: Indices | None) -> Tensor:
    """Rows (m, F) of ``source`` (n, F) by an index (m,); zeros where it is -1."""
    if way((source,)) is not Way.KERNELS or not source.is_cpu or source.dtype in HALVES:
        return _plain.take(source, index)
    if not differentiable((source,)):
        return torch.from_numpy(take_rows(as_array(source), index))
    rows: Tensor = _TakeRows.apply(source, index, inverse)
    return rows


# Plans of so few tokens are kept: making one takes as long as a step.
_SMALL = 64


@lru_cache(maxsize=16)
def _small_plan(batch: int, steps: int, time_major: bool) -> EagerPlan:
    return EagerPlan(Packing.full(batch, steps), time_major)


class EagerPlan:
    """How padded tensors become packed ones and back.

    Parameters
    ----------
    packing : Packing
    time_major : bool, default False
        Padded tensors are (T, B, F) instead of (B, T, F).
    """

    def __init__(self, packing: Packing, time_major: bool = False) -> None:
        self.packing = packing
        self.time_major = time_major

    @classmethod
    def from_mask(cls, mask: Tensor, time_major: bool = False) -> EagerPlan:
        """The plan of a mask (B, T), or (T, B) if ``time_major``."""
        grid = values_of("mask", mask)
        return cls(Packing.from_mask(grid.T if time_major else grid), time_major)

    @classmethod
    def from_lengths(cls, lengths: Tensor, steps: int, time_major: bool = False) -> EagerPlan:
        """The plan of rows whose first ``lengths[b]`` of ``steps`` steps count."""
        return cls(Packing.from_lengths(values_of("lengths", lengths), steps), time_major)

    @classmethod
    def full(cls, batch: int, steps: int, time_major: bool = False) -> EagerPlan:
        """The plan of a batch whose every step counts."""
        small = batch * steps <= _SMALL
        return _small_plan(batch, steps, time_major) if small else cls(Packing.full(batch, steps), time_major)

    @classmethod
    def from_batch_sizes(cls, batch_sizes: Tensor, sorted_indices: Tensor | None) -> EagerPlan:
        """The plan of a ``torch.nn.utils.rnn.PackedSequence``."""
        order = None if sorted_indices is None else values_of("sorted_indices", sorted_indices)
        return cls(Packing.from_batch_sizes(values_of("batch_sizes", batch_sizes), order))

    @property
    def batch_size(self) -> int:
        """Rows of the batch."""
        return self.packing.batch_size

    @property
    def sizes(self) -> tuple[Tensor, Tensor]:
        """``batch_sizes`` and ``sorted_indices`` of a PackedSequence."""
        return torch.from_numpy(self.packing.batch_sizes), torch.from_numpy(self.packing.sorted_indices)

    def with_time_major(self, time_major: bool) -> EagerPlan:
        """The same plan for padded tensors of the other form."""
        return self if time_major == self.time_major else EagerPlan(self.packing, time_major)

    @stored_property
    def _positions(self) -> Indices:
        """Place of each packed token in the flattened padded tensor."""
        return self._places(self.packing)

    def _places(self, packing: Packing) -> Indices:
        if not self.time_major:
            return packing.positions
        return (packing.positions - packing.rows * packing.total_length) * packing.batch_size + packing.rows

    def _cells(self, packing: Packing, repeat: bool) -> Indices:
        """Packed token that each place of the flattened padded tensor shows, or -1."""
        cells = packing.grid(repeat)
        if not self.time_major:
            return cells
        return np.ascontiguousarray(cells.reshape(packing.batch_size, packing.total_length).T).reshape(-1)

    def pack(self, x: Tensor) -> Tensor:
        """The valid tokens (N, F) of a padded tensor."""
        features = x.shape[2]
        if not self.packing.masked:
            rows = x if self.time_major or 1 in x.shape[:2] else x.transpose(0, 1)
            return rows.reshape(self.packing.tokens, features)
        rows = x.reshape(x.shape[0] * x.shape[1], features)
        return take(rows, self._positions, self._cells(self.packing, False))

    def unpack(self, values: Tensor, *, repeat: bool = False, flipped: bool = False) -> Tensor:
        """The padded tensor of values (N, H).

        Parameters
        ----------
        values : tensor (N, H)
        repeat : bool, default False
            Masked places show the valid token before them; otherwise zeros.
        flipped : bool, default False
            The values are in the order of a run from the end, and so are the steps of the result.
        """
        batch, steps, units = self.packing.batch_size, self.packing.total_length, values.shape[1]
        if not self.packing.masked:
            # A run over whole rows has the order of the padded tensor, whichever way it goes.
            if not self.time_major and (steps == 1 or batch == 1):
                return values.view(batch, steps, units)
            padded = values.view(steps, batch, units)
            return padded if self.time_major else padded.transpose(0, 1)
        packing = self.packing.reversed if flipped else self.packing
        rows = take(values, self._cells(packing, repeat), None if repeat else self._places(packing))
        return rows.view(*((steps, batch) if self.time_major else (batch, steps)), units)

    def reverse(self, values: Tensor) -> Tensor:
        """Values of a run from the end in the order of time, or the other way round."""
        return take(values, self.packing.reverse, self.packing.reverse)

    def run(
        self, options: Options, inputs: Inputs, recorded: bool, index: Tensor | None = None,
        kept: KeptProgram | None = None,
    ) -> Outputs:
        """Run a layer on packed values."""
        places = None if index is None else values_of("index", index)
        return recurrent(make_job(options, inputs, self.packing, places), inputs, recorded, kept)
