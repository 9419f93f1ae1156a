"""Custom operators, which torch.compile puts into its graphs as they are.

A tape cannot be a tensor. The operator that runs a layer returns a handle instead, an int64 tensor of one element whose
memory belongs to a :class:`_Ticket`: when PyTorch frees the last tensor that holds it, the tape goes, too, whether a
backward pass came or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from itertools import count
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from fastmask import kernels
from fastmask.batch.packing import Packing, take_rows
from fastmask.ops._embedding import distinct_ids
from fastmask.ops._products import segment_sum
from fastmask.ops.rnn import CELLS
from fastmask.torch import _plain
from fastmask.torch._checks import check_shape
from fastmask.torch._kept import forward
from fastmask.torch._tape import Gradients, Inputs, Job, Options, TensorTape, as_array, make_job, taped_forward
from fastmask.torch._ways import INSTEAD, check_no_tangents, differentiate_plainly, refuse, values_of

Function = TypeVar("Function", bound=Callable[..., Any])

_tapes: dict[int, TensorTape] = {}
_numbers = count(1)


class _Ticket:
    """Memory of a handle; the tape of this number lasts as long as the memory."""

    def __init__(self, tape: TensorTape) -> None:
        self._memory = np.array([next(_numbers)])
        self._number = int(self._memory[0])
        self.__array_interface__ = self._memory.__array_interface__
        _tapes[self._number] = tape

    def __del__(self) -> None:
        _tapes.pop(self._number, None)


class _UnknownSize(DynamicOutputShapeException):
    """What torch.compile takes for its own exception, with words for the reader of a traceback."""

    def __str__(self) -> str:
        return (
            "mask, lengths: expected none for fake tensors without a ShapeEnv, as the number of steps that count is "
            f"not known of them; {INSTEAD}"
        )


def _dynamic_sizes(count: int) -> list[Any]:
    try:
        return [torch.library.get_ctx().new_dynamic_size() for _ in range(count)]
    except DynamicOutputShapeException as error:
        raise _UnknownSize(error.func) from None


def _fake(operator: Any) -> Callable[[Function], Function]:
    """Register the function that makes the operator's results from fake tensors.

    All that records the operators calls it; the ONNX exporter cannot translate them.
    """

    def register(function: Function) -> Function:
        @wraps(function)
        def checked(*arguments: Any, **keywords: Any) -> Any:
            if torch.onnx.is_in_onnx_export():
                refuse("torch.onnx.export")
            return function(*arguments, **keywords)

        operator.register_fake(checked)
        return function

    return register


# -- plans and rows ---------------------------------------------------------------------------------------


@torch.library.custom_op("fastmask::plan", mutates_args=())
def plan(mask: Tensor, repeat: bool, flipped: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Plan of a mask (B, T): batch_sizes (S,), sorted_indices (B,), positions (N,), cells (B * T,) of the input,
    positions and cells of the output."""
    packing = Packing.from_mask(as_array(mask))
    out = packing.reversed if flipped else packing
    arrays = (packing.batch_sizes, packing.sorted_indices, packing.positions, packing.grid(),
              out.positions if flipped else out.positions.copy(), out.grid(repeat))
    steps, order, positions, cells, shown_positions, shown = (torch.from_numpy(array) for array in arrays)
    return steps, order, positions, cells, shown_positions, shown


@_fake(plan)
def _(mask: Tensor, repeat: bool, flipped: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    steps, tokens = _dynamic_sizes(2)
    sizes = (steps, mask.shape[0], tokens, mask.numel(), tokens, mask.numel())
    a, b, c, d, e, f = (mask.new_empty(size, dtype=torch.int64) for size in sizes)
    return a, b, c, d, e, f


@torch.library.custom_op("fastmask::sorted_order", mutates_args=())
def sorted_order(batch_sizes: Tensor) -> Tensor:
    """The order 0, 1, ... of the rows of a batch that came sorted."""
    return torch.arange(int(batch_sizes[0]) if batch_sizes.numel() else 0)


@_fake(sorted_order)
def _(batch_sizes: Tensor) -> Tensor:
    return batch_sizes.new_empty(_dynamic_sizes(1)[0])


@torch.library.custom_op("fastmask::take_rows", mutates_args=())
def take(source: Tensor, index: Tensor, inverse: Tensor | None) -> Tensor:
    """``source[index]``, zeros where the index is -1. ``inverse`` takes gradients back if no row is taken twice."""
    return torch.from_numpy(take_rows(as_array(source), as_array(index)))


@_fake(take)
def _(source: Tensor, index: Tensor, inverse: Tensor | None) -> Tensor:
    return source.new_empty((index.shape[0], source.shape[1]))


@torch.library.custom_op("fastmask::sum_rows", mutates_args=())
def sum_rows(rows: Tensor, index: Tensor, count: int) -> Tensor:
    """``out[index[n]] += rows[n]`` over ``count`` rows; an index of -1 is left out."""
    array = np.ascontiguousarray(as_array(rows))
    return torch.from_numpy(segment_sum(kernels.module(array.dtype), array, as_array(index), count))


@_fake(sum_rows)
def _(rows: Tensor, index: Tensor, count: int) -> Tensor:
    return rows.new_empty((count, rows.shape[1]))


def _save_take(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    source, index, inverse = inputs
    ctx.count = source.shape[0]
    ctx.save_for_backward(index, inverse)


def _take_backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
    index, inverse = ctx.saved_tensors
    if inverse is not None:
        return take(d, inverse, index), None, None
    return sum_rows(d, index, ctx.count), None, None


take.register_autograd(_take_backward, setup_context=_save_take)


def _save_sum(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[1])


def _sum_backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
    return take(d, ctx.saved_tensors[0], None), None, None


sum_rows.register_autograd(_sum_backward, setup_context=_save_sum)


@torch.library.custom_op("fastmask::reverse_rows", mutates_args=())
def reverse(values: Tensor, batch_sizes: Tensor) -> Tensor:
    """Packed values (N, H) in the opposite order of time."""
    packing = Packing.from_batch_sizes(as_array(batch_sizes))
    return torch.from_numpy(take_rows(as_array(values), packing.reverse))


@_fake(reverse)
def _(values: Tensor, batch_sizes: Tensor) -> Tensor:
    return values.new_empty(values.shape)


def _save_reverse(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[1])


def _reverse_backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
    return reverse(d, ctx.saved_tensors[0]), None


reverse.register_autograd(_reverse_backward, setup_context=_save_reverse)


@torch.library.custom_op("fastmask::distinct", mutates_args=())
def distinct(ids: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    """The distinct ones (U,) of ids (N,), and the place of each id among them (N,)."""
    unique, index = distinct_ids(as_array(ids), vocabulary)
    return torch.from_numpy(unique), torch.from_numpy(index)


@_fake(distinct)
def _(ids: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    size = _dynamic_sizes(1)[0]
    return ids.new_empty(size, dtype=torch.int64), ids.new_empty(ids.shape, dtype=torch.int64)


# -- layers -----------------------------------------------------------------------------------------------


def _job(options: Options, inputs: Inputs, index: Tensor | None, batch_sizes: Tensor, sorted_indices: Tensor) -> Job:
    check_no_tangents()
    packing = Packing.from_batch_sizes(as_array(batch_sizes), as_array(sorted_indices))
    job = make_job(options, inputs, packing, None if index is None else as_array(index))
    for state in inputs.states:
        check_shape("h, c", state, (packing.batch_size, job.spec.units))
    return job


@torch.library.custom_op("fastmask::recurrent", mutates_args=())
def recurrent(
    values: Tensor, kernel: Tensor, recurrent_kernel: Tensor, bias: Tensor | None, recurrent_bias: Tensor | None,
    h: Tensor | None, c: Tensor | None, index: Tensor | None, batch_sizes: Tensor, sorted_indices: Tensor,
    taped: bool, cell: str, layout: str, activation: str, recurrent_activation: str, reset_after: bool,
    go_backwards: bool, return_sequences: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run a layer: its sequence, h, c and the handle of its tape, empty tensors where there is none."""
    options = Options(cell, layout, activation, recurrent_activation, reset_after, go_backwards, return_sequences)
    inputs = _inputs((values, kernel, recurrent_kernel, bias, recurrent_bias, h, c))
    job = _job(options, inputs, index, batch_sizes, sorted_indices)
    if taped:
        (sequence, states), tape = taped_forward(job, inputs)
        handle = torch.from_numpy(np.asarray(_Ticket(tape)))
    else:
        sequence, states = forward(job, inputs)
        handle = torch.empty(0, dtype=torch.int64)
    nothing = values.new_empty(0)
    c_out = states[1] if len(states) > 1 else nothing.clone()
    return nothing if sequence is None else sequence, states[0], c_out, handle


@_fake(recurrent)
def _(
    values: Tensor, kernel: Tensor, recurrent_kernel: Tensor, bias: Tensor | None, recurrent_bias: Tensor | None,
    h: Tensor | None, c: Tensor | None, index: Tensor | None, batch_sizes: Tensor, sorted_indices: Tensor,
    taped: bool, cell: str, layout: str, activation: str, recurrent_activation: str, reset_after: bool,
    go_backwards: bool, return_sequences: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tokens = (values if index is None else index).shape[0]
    units = recurrent_kernel.shape[0 if layout == "keras" else 1]
    state = (sorted_indices.shape[0], units)
    return (
        values.new_empty((tokens, units) if return_sequences else 0),
        values.new_empty(state),
        values.new_empty(state if len(CELLS[cell].states) > 1 else 0),
        values.new_empty(int(taped), dtype=torch.int64),
    )


def _inputs(tensors: Sequence[Tensor | None]) -> Inputs:
    values, kernel, recurrent_kernel, bias, recurrent_bias, *states = tensors
    present = tuple(state for state in states if state is not None)
    return Inputs(values, (kernel, recurrent_kernel, bias, recurrent_bias), present)


@torch.library.custom_op("fastmask::recurrent_backward", mutates_args=())
def recurrent_backward(
    handle: Tensor, sequence: Tensor | None, d_sequence: Tensor | None, d_h: Tensor | None, d_c: Tensor | None,
    values: Tensor, kernel: Tensor, recurrent_kernel: Tensor, bias: Tensor | None, recurrent_bias: Tensor | None,
    h: Tensor | None, c: Tensor | None, index: Tensor | None, batch_sizes: Tensor, sorted_indices: Tensor,
    cell: str, layout: str, activation: str, recurrent_activation: str, reset_after: bool, go_backwards: bool,
    return_sequences: bool,
) -> list[Tensor]:
    """Gradients of those of the first seven arguments of ``recurrent`` that are there."""
    options = Options(cell, layout, activation, recurrent_activation, reset_after, go_backwards, return_sequences)
    inputs = _inputs((values, kernel, recurrent_kernel, bias, recurrent_bias, h, c))
    tape = _tapes.pop(int(handle), None)
    if tape is None:
        tape = TensorTape(_job(options, inputs, index, batch_sizes, sorted_indices), None, ())
    gradients = tape.gradients(inputs, sequence, d_sequence, (d_h, d_c)[: len(CELLS[cell].states)])
    return [gradient for gradient in gradients if gradient is not None]


@_fake(recurrent_backward)
def _(
    handle: Tensor, sequence: Tensor | None, d_sequence: Tensor | None, d_h: Tensor | None, d_c: Tensor | None,
    values: Tensor, kernel: Tensor, recurrent_kernel: Tensor, bias: Tensor | None, recurrent_bias: Tensor | None,
    h: Tensor | None, c: Tensor | None, index: Tensor | None, batch_sizes: Tensor, sorted_indices: Tensor,
    cell: str, layout: str, activation: str, recurrent_activation: str, reset_after: bool, go_backwards: bool,
    return_sequences: bool,
) -> list[Tensor]:
    given = (values, kernel, recurrent_kernel, bias, recurrent_bias, h, c)
    return [tensor.new_empty(tensor.shape) for tensor in given if tensor is not None]


_DIFFERENTIABLE = 7


def _save_recurrent(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensors, ctx.options = inputs[:10], inputs[11:]
    ctx.save_for_backward(*tensors, output[0], output[3])
    ctx.set_materialize_grads(False)


def _recurrent_backward(
    ctx: Any, d_sequence: Tensor | None, d_h: Tensor | None, d_c: Tensor | None, d_handle: None
) -> tuple[Tensor | None, ...]:
    *tensors, sequence, handle = ctx.saved_tensors
    options = Options(*ctx.options)
    if not options.return_sequences:
        sequence = d_sequence = None
    if differentiate_plainly((d_sequence, d_h, d_c)):
        found = _plain_gradients(options, tensors, d_sequence, (d_h, d_c)[: len(CELLS[options.cell].states)])
    else:
        present = iter(recurrent_backward(handle, sequence, d_sequence, d_h, d_c, *tensors, *options))
        found = tuple(None if tensor is None else next(present) for tensor in tensors[:_DIFFERENTIABLE])
    return (*found, *(None,) * (_DIFFERENTIABLE + 3 + 1 + len(options) - len(found)))


def _plain_gradients(
    options: Options, tensors: Sequence[Any], d_sequence: Tensor | None, d_states: Sequence[Tensor | None]
) -> Gradients:
    index, *plan = tensors[_DIFFERENTIABLE:]
    packing = Packing.from_batch_sizes(*(values_of("batch_sizes, sorted_indices", tensor) for tensor in plan))
    inputs = _inputs(tensors[:_DIFFERENTIABLE])
    job = make_job(options, inputs, packing, None if index is None else values_of("index", index))
    return _plain.gradients(job, inputs, d_sequence, d_states)


recurrent.register_autograd(_recurrent_backward, setup_context=_save_recurrent)
