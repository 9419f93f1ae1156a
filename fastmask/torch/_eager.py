"""Calls outside of torch.compile, as autograd functions: 15 us a call, custom operators of PyTorch 2.13 cost 150."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd.function import once_differentiable

from fastmask import kernels
from fastmask.ops._products import segment_sum
from fastmask.packing import take_rows
from fastmask.torch._tape import Gradients, Inputs, Job, Outputs, Tensor, as_array, forward, taped_forward

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
    @once_differentiable
    def backward(ctx: Any, d_sequence: Tensor | None, *d_states: Tensor | None) -> Gradients:
        *tensors, sequence = ctx.saved_tensors
        return None, *ctx.tape.gradients(_inputs(tensors), sequence, d_sequence, d_states)


def _inputs(tensors: Any) -> Inputs:
    values, *weights_and_states = tensors
    return Inputs(values, tuple(weights_and_states[:4]), tuple(weights_and_states[4:]))


def recurrent(job: Job, inputs: Inputs, differentiable: bool) -> Outputs:
    """Run a layer; with ``differentiable`` PyTorch records it."""
    if not differentiable:
        return forward(job, inputs)
    sequence, *states = _Recurrent.apply(job, inputs.values, *inputs.weights, *inputs.states)
    return sequence, tuple(states)


class _TakeRows(torch.autograd.Function):
    """``source[index]``, zeros where the index is -1. ``inverse`` takes gradients back if no row is taken twice."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, index: Indices, inverse: Indices | None) -> Tensor:
        ctx.index, ctx.inverse, ctx.count = index, inverse, source.shape[0]
        return torch.from_numpy(take_rows(as_array(source), index))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None, None]:
        rows = np.ascontiguousarray(as_array(d))
        if ctx.inverse is not None:
            return torch.from_numpy(take_rows(rows, ctx.inverse)), None, None
        return torch.from_numpy(segment_sum(kernels.module(rows.dtype), rows, ctx.index, ctx.count)), None, None


def take(source: Tensor, index: Indices, inverse: Indices | None) -> Tensor:
    """Rows (m, F) of ``source`` (n, F) by an index (m,); zeros where it is -1."""
    rows: Tensor = _TakeRows.apply(source, index, inverse)
    return rows
