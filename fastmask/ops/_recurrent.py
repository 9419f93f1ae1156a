"""What the three recurrent operations share: checks, buffers, shards of rows, gradients of inputs and weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from fastmask import kernels, threads
from fastmask.kernels.memory import aligned_empty, aligned_zeros
from fastmask.ops._arrays import (
    Array,
    Indices,
    check_float,
    check_list,
    check_packed,
    check_shape,
    pad_gates,
    product_panels,
    round_up,
    thread_count,
    unpad_gates,
)
from fastmask.ops._cells import initial_states, is_small
from fastmask.ops._packed import PackedWeights
from fastmask.ops._products import (
    Task,
    clearing_tasks,
    gradient_tasks,
    multiply,
    multiply_tasks,
    product_tasks,
    segment_sum,
)
from fastmask.packing import PackedSequence, Packing
from fastmask.stored import stored_property

# Input products of a block of steps stay in the second-level cache until those steps have run.
_BLOCK_BYTES = 512 * 1024


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


States = tuple[Array, ...]
StateGradients = Sequence[Array | None]
Result = tuple[PackedSequence | None, States]
Pullback = Callable[..., RecurrentGradients]


class Problem:
    """One call of a recurrent operation: checked arguments, padded weights and buffers.

    ``order`` says where each gate of the input side comes from among Keras's gates; the recurrent side
    keeps Keras's order.
    """

    def __init__(
        self, x: PackedSequence, kernel: Array, recurrent_kernel: Array, order: Sequence[int],
        initial_state: Sequence[Array] | None, states: int, go_backwards: bool, return_sequences: bool,
        input_mask: Array | None, recurrent_mask: Array | None, training: bool, packed: PackedWeights | None = None,
    ) -> None:
        self.values = check_float("x", check_packed("x", x).values, 2)
        self.dtype: np.dtype[Any] = self.values.dtype
        self.plan: Packing = x.packing
        self.order = order
        self.gates = len(order)
        self.recurrent_kernel = check_float("recurrent_kernel", recurrent_kernel, 2, self.dtype, strided=True)
        self.units = self.recurrent_kernel.shape[0]
        self.features = self.values.shape[1]
        self.weights = check_float("kernel", kernel, 2, self.dtype, strided=True)
        check_shape("recurrent_kernel", self.recurrent_kernel, (self.units, self.gates * self.units))
        check_shape("kernel", self.weights, (self.features, self.gates * self.units))
        self.kernel: ModuleType = kernels.module(self.dtype)
        self.padded = round_up(self.units, self.kernel.lanes)
        self.packed = packed
        self.source = x.source
        self.training = training
        self.every_step = training or return_sequences
        self.return_sequences = return_sequences
        self.go_backwards = go_backwards
        self.input_mask = self._check_mask("input_mask", input_mask, self.features)
        self.recurrent_mask = self._check_mask("recurrent_mask", recurrent_mask, self.units)
        self.places = x.index
        self.index = None if x.apart else x.index
        self.zero_state = initial_state is None
        self.initial_state = self._check_states("initial_state", initial_state, states)
        self.rows = self._token_rows()

    @stored_property
    def padded_kernel(self) -> Array:
        """The kernel in the order of the input side, each gate padded to whole vectors."""
        return pad_gates(self.weights, self.order, self.padded)

    @stored_property
    def padded_recurrent_kernel(self) -> Array:
        """The recurrent kernel in Keras's order, each gate padded to whole vectors."""
        return pad_gates(self.recurrent_kernel, range(self.gates), self.padded)

    def kept(self, name: str, weights: Array, make: Callable[[], Array]) -> Array:
        """What ``make`` packs of some weights, from an earlier call if it is there."""
        if self.packed is None:
            return make()
        return self.packed.get((name, self.kernel, self.order, weights.shape), make)

    def padded_bias(self, bias: Array | None) -> Array | None:
        """A bias of the input side, padded like the kernel."""
        if bias is None:
            return None
        return self.kept("bias", bias, lambda: np.ascontiguousarray(pad_gates(bias, self.order, self.padded)))

    def kernel_panels(self) -> Array:
        """The kernel in panels."""
        return self.kept("kernel", self.weights, lambda: product_panels(self.kernel, self.padded_kernel))

    @property
    def operations(self) -> float:
        """Floating-point operations of the steps: products, and about as many for a gate as for 20 of its products."""
        features = self.features if self.index is None and self.input_mask is None else 0
        return float(2 * self.plan.tokens * self.gates * self.units * (self.units + features + 20))

    def _check_mask(self, name: str, mask: Array | None, width: int) -> Array | None:
        if mask is None:
            return None
        checked = check_float(name, mask, None, self.dtype)
        if checked.ndim == 2:
            checked = checked[None]
        if checked.shape not in ((1, self.plan.batch_size, width), (self.gates, self.plan.batch_size, width)):
            raise ValueError(
                f"{name}: expected shape {(self.plan.batch_size, width)} or "
                f"{(self.gates, self.plan.batch_size, width)}, got {np.shape(mask)}."
            )
        return checked

    def _check_states(self, name: str, states: Sequence[Array | None] | None, count: int) -> list[Array | None]:
        if states is None:
            return [None] * count
        if len(check_list(name, states)) != count:
            raise ValueError(f"{name}: expected {count} arrays, got {len(states)}.")
        checked: list[Array | None] = []
        for i, state in enumerate(states):
            if state is None:
                checked.append(None)
                continue
            array = check_float(f"{name}[{i}]", state, 2, self.dtype)
            check_shape(f"{name}[{i}]", array, (self.plan.batch_size, self.units))
            checked.append(array)
        return checked

    def _token_rows(self) -> Indices | None:
        """Row of the values of each token in the order in which the layer runs; None: token n is row n."""
        if self.go_backwards:
            reverse = self.plan.reverse
            return reverse if self.places is None else self.places[reverse]
        return self.places

    def check_bias(self, bias: Array | None, shape: Sequence[int]) -> Array | None:
        """The bias, checked."""
        if bias is None:
            return None
        checked = check_float("bias", bias, len(shape), self.dtype)
        check_shape("bias", checked, shape)
        return checked

    def state_buffer(self, initial: Array | None) -> Array:
        """A buffer of states for every step, or of two halves, that starts with the initial state in sorted order."""
        rows = self.plan.batch_size
        buffer = aligned_empty((rows + (self.plan.tokens if self.every_step else rows), self.units), self.dtype)
        buffer[:rows] = 0 if initial is None else initial[self.plan.sorted_indices]
        return buffer

    def final_state(self, buffer: Array) -> Array:
        """The state of each row after its last valid step, in the order of the batch."""
        if self.every_step:
            return buffer.take(self.plan.last_steps, axis=0)
        # Two halves that steps write in turn: a row of odd length ends in the second.
        half = (self.plan.lengths & 1) * self.plan.batch_size
        return buffer.take(self.plan.unsorted_indices + half, axis=0)

    def sequence(self, buffer: Array | None) -> PackedSequence | None:
        """The outputs of all steps in the order in which they were made; they stand at the end of a buffer."""
        if not self.return_sequences or buffer is None:
            return None
        plan = self.plan.reversed if self.go_backwards else self.plan
        return PackedSequence(buffer[buffer.shape[0] - plan.tokens :], plan, None, None, repeat=True)

    # -- forward ------------------------------------------------------------------------------------------

    @property
    def small(self) -> bool:
        """Whether :meth:`run_cell` is the quicker way, and can be taken."""
        return (
            not self.training
            and self.input_mask is None
            and self.recurrent_mask is None
            and is_small(self.plan.tokens, self.weights.size + self.recurrent_kernel.size, self.packed is not None)
            and self.plan.tokens * self.features * self.units > 0
            and self.weights.flags.c_contiguous
            and self.recurrent_kernel.flags.c_contiguous
        )

    def run_cell(self, bias: Array | None, activation: int, recurrent_activation: int = 0) -> Result:
        """The whole operation without packed weights, with the same bits. bias: checked, in Keras's order."""
        plan = self.plan
        given = None if self.zero_state else self.initial_state
        states = initial_states(given, (plan.batch_size, self.units), self.dtype, len(self.initial_state))
        sequence = np.empty((plan.tokens, self.units), self.dtype) if self.return_sequences else None
        flat_bias = None if bias is None else bias.reshape(-1)
        cell = self.kernel.Cell(
            self.gates, self.weights, self.recurrent_kernel, flat_bias, activation, recurrent_activation
        )
        cell.run_packed(
            self.values, self.rows, plan.batch_sizes, plan.offsets, plan.sorted_indices, self.zero_state, states[0],
            states[1] if len(states) == 2 else None, sequence,
        )
        return self.sequence(sequence), states

    def shards(self) -> list[tuple[int, int]]:
        """Ranges of sorted rows with about as many tokens each."""
        parts = thread_count(self.operations)
        if parts > 1:
            rows = int(self.plan.batch_sizes[0])
            # Twice as many shards as threads, if they have rows enough: a thread that is held up does less.
            # One row takes as long as two, whose weights are read once.
            parts = 2 * parts if rows >= 64 * parts else max(1, min(parts, rows // 2))
        if parts == 1:
            return [(0, self.plan.batch_size)]
        total = np.cumsum(self.plan.sorted_lengths)
        inner = np.searchsorted(total, self.plan.tokens * np.arange(1, parts) / parts) + 1
        edges = sorted({0, *inner.tolist(), self.plan.batch_size})
        return list(pairwise(edges))

    def runs(self, bias: Array | None, z: Array | None) -> list[Any]:
        """One prepared `Recurrence` for each shard. z: where the products of every token go, if they are kept."""
        columns = self.gates * self.padded
        x: Array | None = self.values
        panels = None
        table, rows = self._product_table(bias)
        if table is not None:
            x, z = None, table
        else:
            panels = self.kernel_panels()
        runs = []
        for begin, end in self.shards():
            run = self.kernel.Recurrence(self.plan.batch_sizes, self.plan.offsets, self.plan.batch_size, begin, end)
            first = min(int(self.plan.batch_sizes[0]), end) - begin if self.plan.tokens else 0
            most = min(_BLOCK_BYTES // (max(1, columns) * self.dtype.itemsize), self.plan.tokens)
            capacity = max(first, most, 1)
            scratch = np.empty((2, capacity), np.int64)
            out = aligned_empty((capacity, columns), self.dtype) if z is None else z
            run.set_inputs(x, rows, panels, bias, out, z is not None, scratch)
            runs.append(run)
        return runs

    def _product_table(self, bias: Array | None) -> tuple[Array | None, Indices | None]:
        """Products of the inputs, if they are better made before the first step: distinct tokens, input dropout.

        With the row of each token, of the table or of the inputs; None: token n is row n.
        """
        if self.input_mask is not None:
            return self._masked_products(self.input_mask, bias), None
        if self.index is None or self.rows is None:
            return None, self.rows
        if self.packed is not None and self.source is not None:
            key = self.kernel, self.order, self.weights.shape, bias is None
            row_bytes = self.gates * self.padded * self.dtype.itemsize
            kept = self.packed.table_products(self.source, key, row_bytes, partial(self._products, bias))
            if kept is not None:
                return kept, self.source.ids[self.rows]
        return self._products(bias, self.values), self.rows

    def _products(self, bias: Array | None, values: Array) -> Array:
        out = aligned_empty((values.shape[0], self.gates * self.padded), self.dtype)
        threads.run(product_tasks(self.kernel, [(values, self.kernel_panels())], out, start=bias))
        return out

    def _gate_columns(self, group: int, groups: int) -> slice:
        """Columns of the input products that belong to mask ``group`` of ``groups`` (given in Keras's order)."""
        if groups == 1:
            return slice(0, self.gates * self.padded)
        gate = list(self.order).index(group)
        return slice(gate * self.padded, (gate + 1) * self.padded)

    def _masked_values(self, mask: Array, group: int) -> Array:
        """Each token in running order times its row's input mask."""
        out = aligned_empty((self.plan.tokens, self.features), self.dtype)
        self.kernel.scale_rows(self.values, self.rows, mask[group], self.plan.rows, out)
        return out

    def _masked_products(self, mask: Array, bias: Array | None) -> Array:
        z = aligned_empty((self.plan.tokens, self.gates * self.padded), self.dtype)
        for group in range(mask.shape[0]):
            columns = self._gate_columns(group, mask.shape[0])
            start = None if bias is None else np.ascontiguousarray(bias[columns])
            matrix = self.padded_kernel[:, columns]
            multiply(self.kernel, self._masked_values(mask, group), matrix, z[:, columns], start=start)
        return z

    def dropouts(self, columns: int, count: int) -> list[Any]:
        """Recurrent dropout for each shard, or None; the first ``columns`` of the recurrent kernel belong to it."""
        if self.recurrent_mask is None:
            return [None] * count
        groups = self.recurrent_mask.shape[0]
        width = columns // groups
        masks = np.ascontiguousarray(self.recurrent_mask[:, self.plan.sorted_indices])
        parts = [self.padded_recurrent_kernel[:, g * width : (g + 1) * width] for g in range(groups)]
        forward = np.stack([product_panels(self.kernel, part) for part in parts])
        backward = np.stack([product_panels(self.kernel, part.T) for part in parts])
        rows = max(1, self.plan.batch_size)
        made = []
        for _ in range(count):
            scratch, dh = (aligned_empty((rows, self.units), self.dtype) for _ in range(2))
            z = aligned_empty((rows, columns), self.dtype)
            made.append(self.kernel.RecurrentDropout(masks, forward, backward, width, scratch, z, dh))
        return made

    # -- backward -----------------------------------------------------------------------------------------

    def check_sequence_gradient(self, d_sequence: Array | None) -> Array | None:
        """The gradient of the outputs of all steps, [N, H], or None."""
        if d_sequence is None:
            return None
        checked = check_float("d_sequence", d_sequence, 2, self.dtype)
        check_shape("d_sequence", checked, (self.plan.tokens, self.units))
        return checked

    def state_gradients(self, d_states: StateGradients | None, count: int) -> list[Array]:
        """Gradients of the final states in sorted order, in buffers of our own."""
        given = self._check_states("d_states", d_states, count)
        shape = (max(1, self.plan.batch_size), self.units)
        return [
            aligned_zeros(shape, self.dtype)
            if state is None or self.plan.batch_size == 0
            else state.take(self.plan.sorted_indices, axis=0)
            for state in given
        ]

    def unsort(self, states: Sequence[Array]) -> tuple[Array, ...] | None:
        """Gradients of the initial states in the order of the batch; None if none were given."""
        if self.zero_state:
            return None
        return tuple(state.take(self.plan.unsorted_indices, axis=0) for state in states)

    def input_tasks(
        self, d: Array, split_at: int = 0
    ) -> tuple[list[Task], Callable[[], tuple[Array, Array, Array]]]:
        """Work for the gradients of inputs, kernel and input bias from ``d`` [N, gates * padded] (may be a slice).

        Returns tasks, and a function to call after them for (inputs, kernel, bias). ``split_at``: as for
        :func:`multiply_tasks`.
        """
        dkernel = aligned_zeros((self.features, self.gates * self.padded), self.dtype)
        dbias = aligned_zeros(self.gates * self.padded, self.dtype)
        finish: Callable[[], Array]
        if self.input_mask is not None:
            finish = partial(self._masked_input_gradients, d, dkernel, dbias, self.input_mask)
            tasks: list[Task] = []
        else:
            rows = self.rows
            if self.index is not None and rows is not None:
                d, rows = segment_sum(self.kernel, d, rows, self.values.shape[0]), None
            dx = aligned_empty((self.values.shape[0], self.features), self.dtype)
            share = d.shape[0] * self.features / max(1.0, self._products_back)
            tasks = gradient_tasks(self.kernel, self.values, d, dkernel, bias=dbias, x_index=rows, share=share)
            tasks += multiply_tasks(self.kernel, d, self.padded_kernel.T, dx, out_index=rows, split_at=split_at)
            if rows is not None:
                tasks += clearing_tasks(dx, rows)
            finish = partial(_same, dx)

        def gather() -> tuple[Array, Array, Array]:
            inputs = finish()
            return (
                inputs,
                unpad_gates(dkernel, self.order, self.units),
                unpad_gates(dbias, self.order, self.units),
            )

        return tasks, gather

    def _masked_input_gradients(self, d: Array, dkernel: Array, dbias: Array, mask: Array) -> Array:
        total = aligned_zeros((self.plan.tokens, self.features), self.dtype)
        part = aligned_empty(total.shape, self.dtype)
        for group in range(mask.shape[0]):
            columns = self._gate_columns(group, mask.shape[0])
            piece = np.ascontiguousarray(d[:, columns])
            dmatrix = aligned_zeros((self.features, piece.shape[1]), self.dtype)
            db = aligned_zeros(piece.shape[1], self.dtype)
            threads.run(gradient_tasks(self.kernel, self._masked_values(mask, group), piece, dmatrix, bias=db))
            dkernel[:, columns] = dmatrix
            dbias[columns] = db
            multiply(self.kernel, piece, self.padded_kernel[:, columns].T, part)
            total += part * mask[group][self.plan.rows]
        rows = np.arange(self.plan.tokens) if self.rows is None else self.rows
        return segment_sum(self.kernel, total, rows, self.values.shape[0])

    @property
    def _products_back(self) -> float:
        """Multiplications for one column of the weights in the gradients of weights and inputs."""
        stored = self.plan.tokens if self.index is None else self.values.shape[0]
        return float(self.plan.tokens * self.units + 2 * stored * self.features)

    @property
    def threads_back(self) -> int:
        """How many threads the gradients of weights and inputs are worth."""
        return thread_count(2.0 * self._products_back * self.gates * self.padded)

    def recurrent_tasks(self, h: Array, d: Array, out: Array, bias: Array | None = None) -> list[Task]:
        """Tasks that add the gradient of a recurrent matrix, previous states times ``d`` [N, columns], to ``out``."""
        if self.recurrent_mask is None:
            # A zero initial state adds nothing; only a bias needs the first step.
            first = int(self.plan.batch_sizes[0]) if self.zero_state and bias is None and self.plan.tokens else 0
            share = self.plan.tokens * self.units / max(1.0, self._products_back)
            return gradient_tasks(
                self.kernel, h, d, out, bias=bias, x_index=self.plan.previous, begin=first, share=share
            )
        tasks: list[Task] = []
        groups = self.recurrent_mask.shape[0]
        width = d.shape[1] // groups
        for group in range(groups):
            masked = h[self.plan.previous] * self.recurrent_mask[group][self.plan.rows]
            columns = slice(group * width, (group + 1) * width)
            tasks.append(partial(self._masked_recurrent, masked, d[:, columns], out, columns, bias))
        return tasks

    def _masked_recurrent(self, h: Array, d: Array, out: Array, columns: slice, bias: Array | None) -> None:
        part = aligned_zeros((self.units, d.shape[1]), self.dtype)
        part_bias = None if bias is None else aligned_zeros(d.shape[1], self.dtype)
        for task in gradient_tasks(self.kernel, h, d, part, bias=part_bias):
            task()
        out[:, columns] += part
        if bias is not None:
            bias[columns] += part_bias


def _same(array: Array) -> Array:
    return array


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
