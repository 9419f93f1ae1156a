"""What the three recurrent operations share: checks, weights as the kernels read them, buffers, shards of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from fastmask import kernels, threads
from fastmask.kernels.memory import aligned_empty
from fastmask.ops._arrays import (
    Array,
    Indices,
    check_float,
    check_list,
    check_packed,
    check_shape,
    product_panels,
    readable_bias,
)
from fastmask.ops._cells import initial_states, is_small
from fastmask.ops._packed import PackedWeights
from fastmask.ops._products import multiply, product_tasks
from fastmask.ops._repeated import Repetition
from fastmask.ops._sharing import form_team, recurrences, unit_parts
from fastmask.packing import PackedSequence, Packing
from fastmask.stored import stored_property

States = tuple[Array, ...]
Result = tuple[PackedSequence | None, States]


class Problem:
    """One call of a recurrent operation: checked arguments and buffers."""

    def __init__(
        self, x: PackedSequence, kernel: Array, recurrent_kernel: Array, gates: int,
        initial_state: Sequence[Array] | None, states: int, go_backwards: bool, return_sequences: bool,
        input_mask: Array | None, recurrent_mask: Array | None, training: bool, packed: PackedWeights | None = None,
    ) -> None:
        self.values = check_float("x", check_packed("x", x).values, 2)
        self.dtype: np.dtype[Any] = self.values.dtype
        self.plan: Packing = x.packing
        self.gates = gates
        self.recurrent_kernel = check_float("recurrent_kernel", recurrent_kernel, 2, self.dtype, strided=True)
        self.units: int = self.recurrent_kernel.shape[0]
        self.features = self.values.shape[1]
        self.weights = check_float("kernel", kernel, 2, self.dtype, strided=True)
        check_shape("recurrent_kernel", self.recurrent_kernel, (self.units, self.gates * self.units))
        check_shape("kernel", self.weights, (self.features, self.gates * self.units))
        self.kernel: ModuleType = kernels.module(self.dtype)
        self.packed = packed
        self.source = x.source
        self.training = training
        self.every_step = training or return_sequences
        self.return_sequences = return_sequences
        self.go_backwards = go_backwards
        self.input_mask = self.recurrent_mask = None
        if input_mask is not None:
            self.input_mask = self._check_mask("input_mask", input_mask, self.features)
        if recurrent_mask is not None:
            self.recurrent_mask = self._check_mask("recurrent_mask", recurrent_mask, self.units)
        self.places = x.index
        self.index = None if x.apart else x.index
        self.zero_state = initial_state is None
        self.initial_state = self.check_states("initial_state", initial_state, states)
        self.rows = self._token_rows()

    def kept(self, name: str, weights: Array, make: Callable[[], Array]) -> Array:
        """What ``make`` packs of some weights, from an earlier call if it is there."""
        if self.packed is None:
            return make()
        return self.packed.get((name, self.kernel, self.gates, weights.shape), make)

    def input_bias(self, bias: Array | None) -> Array | None:
        """A bias of the input side, as the kernels read it."""
        if bias is None:
            return None
        return self.kept("bias", bias, lambda: readable_bias(self.kernel, bias))

    def kernel_panels(self) -> Array:
        """The kernel in panels."""
        return self.kept("kernel", self.weights, lambda: product_panels(self.kernel, self.weights))

    @property
    def token_operations(self) -> float:
        """Floating-point operations for a token: products, and about as many for a gate as for 20 of its products."""
        features = self.features if self.index is None and self.input_mask is None else 0
        return float(2 * self.gates * self.units * (self.units + features + 20))

    @property
    def operations(self) -> float:
        """Floating-point operations of all steps."""
        return self.plan.tokens * self.token_operations

    def leave_repetition(self, program: Any, states: int) -> None:
        """Leave with the packed weights what calls like this one need; see `Repetition`."""
        if self.packed is not None:
            self.packed.repetition = Repetition(self, program, states)

    @property
    def lacks_repetition(self) -> bool:
        """Whether a `Repetition` could run it, and no earlier call has left one."""
        return self.repeatable and self.packed is not None and self.packed.repetition is None

    @property
    def repeatable(self) -> bool:
        """Whether a `Repetition` could run it."""
        return (
            self.packed is not None
            and self.input_mask is None
            and self.recurrent_mask is None
            and self.zero_state
            and not self.return_sequences
            and not self.go_backwards
            and self.index is None
            and self.source is None
        )

    def _check_mask(self, name: str, mask: Array, width: int) -> Array:
        checked = check_float(name, mask, None, self.dtype)
        if checked.ndim == 2:
            checked = checked[None]
        if checked.shape not in ((1, self.plan.batch_size, width), (self.gates, self.plan.batch_size, width)):
            raise ValueError(
                f"{name}: expected shape {(self.plan.batch_size, width)} or "
                f"{(self.gates, self.plan.batch_size, width)}, got {np.shape(mask)}."
            )
        return checked

    def check_states(self, name: str, states: Sequence[Array | None] | None, count: int) -> list[Array | None]:
        """So many states (B, H) or gradients of them, checked; None for each that is not given."""
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
        return buffer.take(self.plan.last_steps if self.every_step else self.plan.last_halves, axis=0)

    def sequence(self, buffer: Array | None) -> PackedSequence | None:
        """The outputs of all steps in the order in which they were made; they stand at the end of a buffer."""
        if not self.return_sequences or buffer is None:
            return None
        plan = self.plan.reversed if self.go_backwards else self.plan
        return PackedSequence(buffer[buffer.shape[0] - plan.tokens :], plan, None, None, repeat=True)

    @property
    def small(self) -> bool:
        """Whether :meth:`run_cell` is the quicker way, and can be taken."""
        return (
            not self.training
            and self.input_mask is None
            and self.recurrent_mask is None
            and is_small(
                self.plan.tokens, self.weights.size + self.recurrent_kernel.size, self.packed is not None,
                self.repeatable,
            )
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
        code = {1: self.kernel.SIMPLE_RNN, 3: self.kernel.GRU, 4: self.kernel.LSTM}[self.gates]
        cell = self.kernel.Cell(
            code, activation, recurrent_activation, self.weights, self.recurrent_kernel, flat_bias
        )
        cell.run_packed(
            self.values, self.rows, (plan.batch_sizes, plan.offsets, plan.sorted_indices), states, sequence,
            self.zero_state,
        )
        return self.sequence(sequence), states

    @property
    def divisible(self) -> bool:
        """Whether threads can share the units of a step."""
        return self.recurrent_mask is None

    @stored_property
    def parts(self) -> int:
        """How many threads share the units of every step; 1: threads share the rows."""
        if not self.divisible:
            return 1
        return unit_parts(self.kernel, self.plan, self.units, self.recurrent_kernel.nbytes, self.operations)

    @property
    def has_table(self) -> bool:
        """Whether products of the inputs are made before the first step."""
        return self.input_mask is not None or self.index is not None

    def program(
        self, cell: int, codes: tuple[int, int], bias: Array | None,
        recurrent: tuple[Array | None, Array | None, Array | None],
    ) -> Any:
        """The prepared weights. bias: of the input side."""
        panels = None if self.has_table else self.kernel_panels()
        return self.kernel.Program(cell, *codes, (self.features, self.units), (panels, bias), recurrent)

    def runs(self, program: Any, bias: Array | None, z: Array | None) -> list[Any]:
        """A prepared `Run` for each range of rows, or for each part of the units.

        z: where the products of every token go, if they are kept.
        """
        x: Array | None = self.values
        rows = self.rows
        if self.has_table:
            x = None
            z, rows = self._product_table(bias)
        runs = recurrences(
            self.kernel, program, self.plan, (x, rows, z), self.gates * self.units, self.dtype,
            operations=self.operations, parts=self.parts,
        )
        form_team(self, runs)
        return runs

    def _product_table(self, bias: Array | None) -> tuple[Array, Indices | None]:
        """Products of the inputs, which are better made before the first step: distinct tokens, input dropout.

        With the row of each token; None: token n is row n.
        """
        if self.input_mask is not None:
            return self._masked_products(self.input_mask, bias), None
        if self.rows is not None and self.packed is not None and self.source is not None:
            key = self.kernel, self.gates, self.weights.shape, bias is None
            row_bytes = self.gates * self.units * self.dtype.itemsize
            kept = self.packed.table_products(self.source, key, row_bytes, partial(self._products, bias))
            if kept is not None:
                return kept, self.source.ids[self.rows]
        return self._products(bias, self.values), self.rows

    def _products(self, bias: Array | None, values: Array) -> Array:
        out = aligned_empty((values.shape[0], self.gates * self.units), self.dtype)
        threads.run(product_tasks(self.kernel, [(values, self.kernel_panels())], out, start=bias))
        return out

    def gate_columns(self, group: int, groups: int) -> slice:
        """Columns of the input products that belong to mask ``group`` of ``groups``."""
        if groups == 1:
            return slice(0, self.gates * self.units)
        return slice(group * self.units, (group + 1) * self.units)

    def masked_values(self, mask: Array, group: int) -> Array:
        """Each token in running order times its row's input mask."""
        out = aligned_empty((self.plan.tokens, self.features), self.dtype)
        self.kernel.scale_rows(self.values, self.rows, mask[group], self.plan.rows, out)
        return out

    def _masked_products(self, mask: Array, bias: Array | None) -> Array:
        z = aligned_empty((self.plan.tokens, self.gates * self.units), self.dtype)
        for group in range(mask.shape[0]):
            columns = self.gate_columns(group, mask.shape[0])
            start = None if bias is None else readable_bias(self.kernel, bias[columns])
            matrix = self.weights[:, columns]
            multiply(self.kernel, self.masked_values(mask, group), matrix, z[:, columns], start=start)
        return z

    def dropout(self, columns: int, reset_mask: Array | None = None) -> Any:
        """Recurrent dropout, or None; the first ``columns`` of the recurrent kernel belong to it."""
        if self.recurrent_mask is None:
            return None
        groups = self.recurrent_mask.shape[0]
        width = columns // groups
        masks = np.ascontiguousarray(self.recurrent_mask[:, self.plan.sorted_indices])
        parts = [self.recurrent_kernel[:, g * width : (g + 1) * width] for g in range(groups)]
        forward = np.stack([product_panels(self.kernel, part) for part in parts])
        backward = np.stack([product_panels(self.kernel, part.T) for part in parts])
        return self.kernel.RecurrentDropout(masks, forward, backward, reset_mask)
