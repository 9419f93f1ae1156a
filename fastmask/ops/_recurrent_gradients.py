"""The gradients of inputs, states and weights that the three recurrent operations have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastmask import threads
from fastmask.kernels.memory import aligned_empty, aligned_zeros
from fastmask.ops._arrays import Array, check_float, check_shape, product_panels, thread_count
from fastmask.ops._cell_gradients import MOST_AT_ONCE, gradients_at_once
from fastmask.ops._products import Task, clearing_tasks, gradient_tasks, multiply, product_tasks, segment_sum
from fastmask.ops._recurrent import Problem

# These products do not wait for one another: they are worth a second thread from half of the usual work on. An LSTM of
# 64 units takes 0.78 ms for both passes over a row of 300 steps, and 0.83 ms with one thread for them.
_SHARED_WELL = 2.0


class RecurrentGradients(NamedTuple):
    """Gradients of a recurrent operation.

    Attributes
    ----------
    inputs : array like the values of the input, (U, F)
    kernel, recurrent_kernel : arrays like the weights
    bias : array like the bias, or None if there is none
    initial_state : tuple of arrays (B, H), or None if no initial state was given
    """

    inputs: Array
    kernel: Array
    recurrent_kernel: Array
    bias: Array | None
    initial_state: tuple[Array, ...] | None


StateGradients = Sequence[Array | None]
Pullback = Callable[..., RecurrentGradients]


class Once:
    """Guards buffers that a pullback overwrites."""

    def __init__(self) -> None:
        self._used = False

    def use(self) -> None:
        """RuntimeError at the second call."""
        if self._used:
            raise RuntimeError("pullback: it was called already and has used up what the forward pass stored; "
                               "call the vjp function again.")
        self._used = True


def sequence_gradient(problem: Problem, d_sequence: Array | None) -> Array | None:
    """The gradient of the outputs of all steps, [N, H], checked."""
    if d_sequence is None:
        return None
    checked = check_float("d_sequence", d_sequence, 2, problem.dtype)
    check_shape("d_sequence", checked, (problem.plan.tokens, problem.units))
    return checked


def state_gradients(problem: Problem, d_states: StateGradients | None, count: int) -> list[Array]:
    """Gradients of the final states in sorted order, in buffers of our own."""
    plan = problem.plan
    given = problem.check_states("d_states", d_states, count)
    return [
        aligned_zeros((max(1, plan.batch_size), problem.units), problem.dtype)
        if state is None or plan.batch_size == 0
        else state.take(plan.sorted_indices, axis=0)
        for state in given
    ]


def unsort(problem: Problem, states: Sequence[Array]) -> tuple[Array, ...] | None:
    """Gradients of the initial states in the order of the batch; None if none were given."""
    if problem.zero_state:
        return None
    return tuple(state.take(problem.plan.unsorted_indices, axis=0) for state in states)


class Gradients(NamedTuple):
    """Gradients of the values and of the weights; the recurrent side is as wide as its columns of ``d``."""

    inputs: Array
    kernel: Array
    bias: Array
    recurrent_kernel: Array
    recurrent_bias: Array | None


def gradients(
    problem: Problem, runs: Sequence[Any], h: Array, d: Array, *, first: int = 0, columns: int | None = None,
    recurrent_bias: bool = False, more: Sequence[Task] = (),
) -> Gradients:
    """Gradients from ``d`` [N, *], those of pre-activations.

    As many columns of ``d`` as the kernel has belong to the inputs: those from ``first`` on in the order of the
    kernel's, and those before it to the last of the kernel's. ``columns`` of them (as many by default) from ``first``
    on belong to the previous states, found in ``h``. ``more``: tasks that run besides.
    """
    width, dtype = problem.gates * problem.units, problem.dtype
    recurrent = width if columns is None else columns
    operations = 2.0 * _multiplications(problem) * width
    count = thread_count(_SHARED_WELL * operations)
    if count == 1 and _runs_at_once(problem, runs, operations):
        inputs, kernel, bias, recurrent_kernel, second = gradients_at_once(
            runs[0], problem.values, problem.weights, h, d, recurrent, recurrent_bias=recurrent_bias
        )
        threads.run(more)
    else:
        kernel, bias = aligned_empty((problem.features, width), dtype), aligned_empty(width, dtype)
        recurrent_kernel = aligned_empty((problem.units, recurrent), dtype)
        second = aligned_empty(recurrent, dtype) if recurrent_bias else None
        tasks, finish = _input_tasks(problem, d[:, :width], kernel, bias, first)
        side = d[:, first : first + recurrent]
        threads.run(
            [*_recurrent_tasks(problem, h, side, recurrent_kernel, second), *tasks, *more],
            count,
        )
        inputs = finish()
    return Gradients(inputs, kernel, bias, recurrent_kernel, second)


def _multiplications(problem: Problem) -> float:
    """Multiplications for one column of the weights in the gradients of weights and inputs; at least 1."""
    stored = problem.plan.tokens if problem.index is None else problem.values.shape[0]
    return float(max(1, problem.plan.tokens * problem.units + 2 * stored * problem.features))


def _runs_at_once(problem: Problem, runs: Sequence[Any], operations: float) -> bool:
    """Whether one compiled call makes all gradients: little work, no dropout, no shared values."""
    return (
        len(runs) == 1
        and operations < MOST_AT_ONCE
        and problem.plan.tokens * problem.features * problem.units > 0
        and problem.input_mask is None
        and problem.recurrent_mask is None
        and problem.index is None
    )


def _first_token(problem: Problem, bias: bool) -> int:
    """Where the gradient of a recurrent matrix begins: a zero initial state adds nothing, but to a bias."""
    return int(problem.plan.batch_sizes[0]) if problem.zero_state and not bias and problem.plan.tokens else 0


def _sides(width: int, first: int) -> list[tuple[slice, slice]]:
    """Columns of ``d`` and of the kernel that belong to each other, in the order of a sum over them."""
    sides = [(slice(first, width), slice(0, width - first))]
    if first:
        sides.append((slice(0, first), slice(width - first, width)))
    return sides


def _input_tasks(
    problem: Problem, d: Array, dkernel: Array, dbias: Array, first: int
) -> tuple[list[Task], Callable[[], Array]]:
    """Tasks for the gradients of inputs, kernel and input bias, and what gives that of the inputs after them."""
    module = problem.kernel
    if problem.input_mask is not None:
        return [], partial(_masked_input_gradients, problem, d, dkernel, dbias, first, problem.input_mask)
    rows = problem.rows
    if problem.index is not None and rows is not None:
        d, rows = segment_sum(module, d, rows, problem.values.shape[0]), None
    dx = aligned_empty((problem.values.shape[0], problem.features), problem.dtype)
    width = d.shape[1]
    share = d.shape[0] * problem.features / (_multiplications(problem) * max(1, width))
    tasks: list[Task] = []
    pieces = []
    for side, columns in _sides(width, first):
        tasks += gradient_tasks(
            module, problem.values, d[:, side], dkernel[:, columns], bias=dbias[columns], x_index=rows,
            share=share * (side.stop - side.start),
        )
        pieces.append((d[:, side], product_panels(module, problem.weights[:, columns].T)))
    tasks += product_tasks(module, pieces, dx, out_index=rows)
    if rows is not None:
        tasks += clearing_tasks(dx, rows)
    return tasks, lambda: dx


def _masked_input_gradients(
    problem: Problem, d: Array, dkernel: Array, dbias: Array, first: int, mask: Array
) -> Array:
    module, plan, width = problem.kernel, problem.plan, d.shape[1]
    total = aligned_zeros((plan.tokens, problem.features), problem.dtype)
    part = aligned_empty(total.shape, problem.dtype)
    step = width // mask.shape[0]
    for group in range(mask.shape[0]):
        values = problem.masked_values(mask, group)
        for side, columns in _sides(width, first) if step == width else [_side_of(group * step, step, width, first)]:
            piece = d[:, side]
            threads.run(gradient_tasks(module, values, piece, dkernel[:, columns], bias=dbias[columns]))
            multiply(module, piece, problem.weights[:, columns].T, part)
            total += part * mask[group][plan.rows]
    rows = np.arange(plan.tokens) if problem.rows is None else problem.rows
    return segment_sum(module, total, rows, problem.values.shape[0])


def _side_of(column: int, count: int, width: int, first: int) -> tuple[slice, slice]:
    """Columns of ``d`` for some of the kernel's, and these: those of one gate, which lie side by side."""
    begin = (column + first) % width
    return slice(begin, begin + count), slice(column, column + count)


def _recurrent_tasks(problem: Problem, h: Array, d: Array, out: Array, bias: Array | None) -> list[Task]:
    """Tasks that fill ``out`` with the gradient of a recurrent matrix, previous states times ``d`` [N, columns]."""
    plan, mask = problem.plan, problem.recurrent_mask
    if mask is None:
        first = _first_token(problem, bias is not None)
        share = plan.tokens * problem.units / _multiplications(problem)
        return gradient_tasks(problem.kernel, h, d, out, bias=bias, x_index=plan.previous, begin=first, share=share)
    tasks: list[Task] = []
    width = d.shape[1] // mask.shape[0]
    for group in range(mask.shape[0]):
        masked = h[plan.previous] * mask[group][plan.rows]
        columns = slice(group * width, (group + 1) * width)
        tasks += gradient_tasks(
            problem.kernel, masked, d[:, columns], out[:, columns], bias=None if bias is None else bias[columns]
        )
    return tasks
