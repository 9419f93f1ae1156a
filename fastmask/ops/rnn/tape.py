"""The way back through a run: from gradients of its results to those of inputs, weights and initial states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from fastmask import threads
from fastmask.kernels.memory import aligned_empty, aligned_zeros
from fastmask.ops import tuning
from fastmask.ops._arrays import Array, check_float, check_shape, product_panels, thread_count
from fastmask.ops._products import Task, clearing_tasks, gradient_tasks, multiply, product_tasks, segment_sum
from fastmask.ops.rnn.checks import check_states
from fastmask.ops.rnn.forward import Forward
from fastmask.ops.rnn.schedule import join_team

StateGradients = Sequence[Array | None]


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


class _Sums(NamedTuple):
    """Gradients of values and weights; the recurrent ones are of the columns that meet the states themselves."""

    inputs: Array
    kernel: Array
    bias: Array
    recurrent_kernel: Array
    recurrent_bias: Array | None


class Tape:
    """What a forward pass leaves for the way back. It answers once, and uses up what was stored.

    Parameters
    ----------
    forward : Forward
        A pass that has run, in training.
    """

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self._used = False
        spec = forward.spec
        # With which column of the stored gates, in the gradients of pre-activations, what belongs to the states
        # begins. The gradients of a GRU's candidate are the largest: they come last in the sums over the gates.
        self._first = spec.units if spec.cell == "gru" else 0

    def pullback(
        self, d_sequence: Array | None = None, d_states: StateGradients | None = None
    ) -> RecurrentGradients:
        """Return the gradients of what went into the run.

        Parameters
        ----------
        d_sequence : array (N, H) or None
            Gradient of the outputs of all steps in the order in which they ran; None stands for zeros.
        d_states : sequence of arrays (B, H) or None, or None
            Gradients of the final states.

        Raises
        ------
        TypeError, ValueError
            If an array does not fit.
        RuntimeError
            If it was called before.
        """
        spec, plan = self.forward.spec, self.forward.tokens.plan
        dy = None
        if d_sequence is not None:
            dy = check_float("d_sequence", d_sequence, 2, spec.dtype)
            check_shape("d_sequence", dy, (plan.tokens, spec.units))
        given = check_states("d_states", d_states, spec, plan.batch_size)
        if self._used:
            raise RuntimeError("pullback: it was called already and has used up what the forward pass stored; "
                               "call the vjp function again.")
        self._used = True
        carried = self._final_gradients(given)
        d = self._run_back(dy, carried)
        return self._gradients(d, carried)

    def _final_gradients(self, given: StateGradients) -> tuple[Array, ...]:
        """Gradients of the final states in sorted order, in buffers of our own."""
        plan, shape = self.forward.tokens.plan, (max(1, self.forward.tokens.plan.batch_size), self.forward.spec.units)
        return tuple([
            aligned_zeros(shape, self.forward.spec.dtype)
            if state is None or plan.batch_size == 0
            else state.take(plan.sorted_indices, axis=0)
            for state in given
        ])

    def _run_back(self, dy: Array | None, carried: tuple[Array, ...]) -> Array:
        """Gradients of pre-activations [N, *]; the carried ones become those of the initial states."""
        forward, spec = self.forward, self.forward.spec
        d = forward.gates
        if d is None:
            d = aligned_empty((forward.tokens.plan.tokens, spec.columns), spec.dtype)
        transposed = forward.weights.transposed(forward.module)
        join_team(forward.schedule, forward.module, spec, forward.runs)
        threads.run([partial(run.backward, transposed, forward.states, d, dy, carried) for run in forward.runs])
        return d

    def _gradients(self, d: Array, carried: tuple[Array, ...]) -> RecurrentGradients:
        forward, spec, bias = self.forward, self.forward.spec, self.forward.weights.bias
        candidate: list[Array] = []
        tasks: list[Task] = []
        if spec.resets_before:
            candidate.append(aligned_empty((spec.units, spec.units), spec.dtype))
            tasks = gradient_tasks(forward.module, d[:, 3 * spec.units :], d[:, : spec.units], candidate[0])
        sums = self._sums(d, tasks)
        recurrent = np.concatenate([sums.recurrent_kernel, *candidate], axis=1) if candidate else sums.recurrent_kernel
        d_bias = None if bias is None else sums.bias
        if d_bias is not None and sums.recurrent_bias is not None:
            d_bias = np.stack([d_bias, sums.recurrent_bias])
        initial = None
        if not forward.zero_state:
            plan = forward.tokens.plan
            initial = tuple([state[: plan.batch_size].take(plan.unsorted_indices, axis=0) for state in carried])
        return RecurrentGradients(sums.inputs, sums.kernel, recurrent, d_bias, initial)

    def _sums(self, d: Array, more: Sequence[Task]) -> _Sums:
        """Gradients of values and weights from those of pre-activations; ``more``: tasks that run besides."""
        forward, spec, values = self.forward, self.forward.spec, self.forward.tokens.values
        kernel, bias = aligned_empty(spec.kernel_shape, spec.dtype), aligned_empty(spec.columns, spec.dtype)
        recurrent = aligned_empty((spec.units, spec.recurrent_columns), spec.dtype)
        second = None
        if forward.weights.recurrent_bias is not None:
            second = aligned_empty(spec.recurrent_columns, spec.dtype)
        operations = 2.0 * self._multiplications() * spec.columns
        count = thread_count(tuning.GRADIENT_SHARE * operations)
        if count == 1 and self._at_once(operations):
            make = aligned_zeros if values.shape[0] > d.shape[0] else aligned_empty
            inputs = make(values.shape, spec.dtype)
            forward.runs[0].gradients(
                d, forward.states[0], forward.weights.kernel, inputs, (kernel, bias), (recurrent, second)
            )
            threads.run(more)
        else:
            tasks, finish = self._input_tasks(d[:, : spec.columns], kernel, bias)
            side = d[:, self._first : self._first + spec.recurrent_columns]
            threads.run([*self._recurrent_tasks(side, recurrent, second), *tasks, *more], count)
            inputs = finish()
        return _Sums(inputs, kernel, bias, recurrent, second)

    def _multiplications(self) -> float:
        """Multiplications for one column of the weights in the gradients of weights and inputs; at least 1."""
        spec, tokens = self.forward.spec, self.forward.tokens
        stored = tokens.values.shape[0] if tokens.shared else tokens.plan.tokens
        return float(max(1, tokens.plan.tokens * spec.units + 2 * stored * spec.features))

    def _at_once(self, operations: float) -> bool:
        """Whether one compiled call makes all gradients: little work, no dropout, no shared values."""
        forward, spec = self.forward, self.forward.spec
        return (
            len(forward.runs) == 1
            and operations < tuning.GRADIENTS_AT_ONCE
            and forward.tokens.plan.tokens * spec.features * spec.units > 0
            and forward.dropout is None
            and not forward.tokens.shared
        )

    def _input_tasks(self, d: Array, d_kernel: Array, d_bias: Array) -> tuple[list[Task], Callable[[], Array]]:
        """Tasks for the gradients of inputs, kernel and input bias, and what gives that of the inputs after them."""
        forward, values, module = self.forward, self.forward.tokens.values, self.forward.module
        if forward.dropout is not None and forward.dropout.inputs is not None:
            return [], partial(self._masked_input_gradients, d, d_kernel, d_bias, forward.dropout.inputs)
        rows = forward.rows
        if forward.tokens.shared and rows is not None:
            d, rows = segment_sum(module, d, rows, values.shape[0]), None
        inputs = aligned_empty(values.shape, values.dtype)
        width = d.shape[1]
        share = d.shape[0] * forward.spec.features / (self._multiplications() * max(1, width))
        tasks: list[Task] = []
        pieces = []
        for side, columns in self._sides(width):
            tasks += gradient_tasks(
                module, values, d[:, side], d_kernel[:, columns], bias=d_bias[columns], x_index=rows,
                share=share * (side.stop - side.start),
            )
            pieces.append((d[:, side], product_panels(module, forward.weights.kernel[:, columns].T)))
        tasks += product_tasks(module, pieces, inputs, out_index=rows)
        if rows is not None:
            tasks += clearing_tasks(inputs, rows)
        return tasks, lambda: inputs

    def _sides(self, width: int) -> list[tuple[slice, slice]]:
        """Columns of ``d`` and of the kernel that belong to each other, in the order of a sum over them."""
        first = self._first
        sides = [(slice(first, width), slice(0, width - first))]
        if first:
            sides.append((slice(0, first), slice(width - first, width)))
        return sides

    def _masked_input_gradients(self, d: Array, d_kernel: Array, d_bias: Array, mask: Array) -> Array:
        forward, values, plan, width = self.forward, self.forward.tokens.values, self.forward.tokens.plan, d.shape[1]
        module, kernel = forward.module, forward.weights.kernel
        total = aligned_zeros((plan.tokens, values.shape[1]), values.dtype)
        part = aligned_empty(total.shape, values.dtype)
        step = width // mask.shape[0]
        for group, factors in enumerate(mask):
            tokens = forward.masked_values(factors)
            for side, columns in self._sides(width) if step == width else [self._gate(group * step, step, width)]:
                piece = d[:, side]
                threads.run(gradient_tasks(module, tokens, piece, d_kernel[:, columns], bias=d_bias[columns]))
                multiply(module, piece, kernel[:, columns].T, part)
                total += part * factors[plan.rows]
        rows = np.arange(plan.tokens) if forward.rows is None else forward.rows
        return segment_sum(module, total, rows, values.shape[0])

    def _gate(self, column: int, count: int, width: int) -> tuple[slice, slice]:
        """Columns of ``d`` for some of the kernel's, and these: those of one gate, which lie side by side."""
        begin = (column + self._first) % width
        return slice(begin, begin + count), slice(column, column + count)

    def _recurrent_tasks(self, d: Array, out: Array, bias: Array | None) -> list[Task]:
        """Tasks that fill ``out`` with the gradient of a recurrent matrix, previous states times ``d`` [N, columns]."""
        forward, plan, h = self.forward, self.forward.tokens.plan, self.forward.states[0]
        masks = None if forward.dropout is None else forward.dropout.states
        if masks is None:
            # A zero initial state adds nothing, but to a bias.
            begin = int(plan.batch_sizes[0]) if forward.zero_state and bias is None and plan.tokens else 0
            share = plan.tokens * forward.spec.units / self._multiplications()
            return gradient_tasks(
                forward.module, h, d, out, bias=bias, x_index=plan.previous, begin=begin, share=share
            )
        if forward.spec.resets_before and masks.shape[0] == 3:
            masks = masks[:2]
        tasks: list[Task] = []
        width = d.shape[1] // masks.shape[0]
        for group, factors in enumerate(masks):
            masked = h[plan.previous] * factors[plan.rows]
            columns = slice(group * width, (group + 1) * width)
            tasks += gradient_tasks(
                forward.module, masked, d[:, columns], out[:, columns], bias=None if bias is None else bias[columns]
            )
        return tasks
