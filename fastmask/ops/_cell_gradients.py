"""Forward pass and pullback of a recurrent layer over small batches, past the checks and choices of a `Problem`."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from fastmask import kernels
from fastmask.kernels.memory import aligned_empty, aligned_zeros
from fastmask.ops._arrays import (
    Array,
    gate_panels,
    product_panels,
    readable_bias,
    thread_count,
)
from fastmask.ops._cells import Cell
from fastmask.ops._sharing import recurrences
from fastmask.packing import Packing

# Up to so many operations, a few hundred microseconds, all gradients are made in one call.
MOST_AT_ONCE = 40_000_000


def gradients_at_once(
    run: Any, module: ModuleType, values: Array, kernel: Array, h: Array, d: Array, columns: int, *,
    first: int, first_token: int, recurrent_bias: bool,
) -> tuple[Array, Array, Array, Array, Array | None]:
    """Gradients of values, kernel, bias, recurrent kernel and its bias or None, all in one compiled call.

    columns: of the recurrent kernel. The rest is as for :func:`fastmask.ops._recurrent_gradients.gradients`; tokens
    before first_token have no state before them.
    """
    dtype, (features, width), stored, units = d.dtype, kernel.shape, values.shape[0], h.shape[1]
    inputs = (aligned_zeros if stored > d.shape[0] else aligned_empty)((stored, features), dtype)
    dkernel, bias = aligned_empty((features, width), dtype), aligned_empty(width, dtype)
    recurrent = aligned_empty((units, columns), dtype)
    second = aligned_empty(columns, dtype) if recurrent_bias else None
    scratch = aligned_empty(module.recurrence_scratch_size(features, units, width), dtype)
    module.recurrence_gradients(
        run, d, kernel, inputs, dkernel, bias, h, first_token, first, recurrent, second, scratch
    )
    return inputs, dkernel, bias, recurrent, second


class CellPass:
    """A batch on its way through a cell and back, from states of zeros to the last outputs, in one thread.

    It gives the bits of the operation's vjp, and takes half of its time for a few rows and steps. Nothing is checked.

    Parameters
    ----------
    cell : Cell
        What stands in its weights may change after the pullback.
    values : array (B * T, F)
        The padded batch.
    plan : Packing
    """

    # With which gate, in the gradients of pre-activations, what belongs to the states begins.
    recurrent_gate = 0

    def __init__(self, cell: Cell, values: Array, plan: Packing) -> None:
        self.cell, self.values, self.plan = cell, values, plan
        self.dtype = cell.dtype
        self.module = module = kernels.module(cell.dtype)
        self.columns = cell.kernel.shape[1]
        panels = product_panels(module, cell.kernel)
        inputs = values, plan.positions, panels, self.input_bias()
        (self.run,) = recurrences(module, plan, inputs, None, self.columns, self.dtype)
        self.h = self.states()
        self.forward()

    def states(self) -> Array:
        """A buffer for the states of all tokens that begins with those before the first step, zeros."""
        rows = self.plan.batch_size
        buffer = aligned_empty((rows + self.plan.tokens, self.cell.units), self.dtype)
        buffer[:rows] = 0
        return buffer

    def input_bias(self) -> Array | None:
        """The bias of the input side, as the kernels read it."""
        bias = self.cell.bias
        return None if bias is None else readable_bias(self.module, bias)

    @property
    def output(self) -> Array:
        """The last outputs (B, H)."""
        return self.h.take(self.plan.last_steps, axis=0)

    def forward(self) -> None:
        """Run all steps."""
        raise NotImplementedError

    def backward(self, transposed: Array, dh: Array) -> Array:
        """Return the gradients of pre-activations, from those of the last outputs in sorted order."""
        raise NotImplementedError

    @property
    def has_recurrent_bias(self) -> bool:
        """Whether there is a bias of the recurrent side."""
        return False

    def pullback(self, dy: Array) -> tuple[Array, list[Array]]:
        """The gradients of the values and of the weights, from that of the output. It can be called once."""
        module, cell, first = self.module, self.cell, self.recurrent_gate * self.cell.units
        transposed = product_panels(module, cell.recurrent_kernel.T)
        d = self.backward(transposed, dy.take(self.plan.sorted_indices, axis=0))
        second = self.has_recurrent_bias
        # The state before the first step, zeros, adds nothing but to a bias.
        inputs, kernel, bias, recurrent, recurrent_bias = gradients_at_once(
            self.run, module, self.values, cell.kernel, self.h, d, self.columns, first=first,
            first_token=0 if second else int(self.plan.batch_sizes[0]), recurrent_bias=second,
        )
        weights = [kernel, recurrent]
        if cell.bias is not None:
            weights.append(self.bias_gradient(bias, recurrent_bias))
        return inputs, weights

    def bias_gradient(self, bias: Array, recurrent_bias: Array | None) -> Array:
        """The gradient of the cell's bias from those of its sides."""
        return bias


class SimpleRnnPass(CellPass):
    """A batch's way through a SimpleRNN."""

    def forward(self) -> None:
        panels = product_panels(self.module, self.cell.recurrent_kernel)
        self.module.simple_rnn_forward(self.run, panels, self.h, self.cell.codes[0], True, True, None)

    def backward(self, transposed: Array, dh: Array) -> Array:
        d = aligned_empty((self.plan.tokens, self.columns), self.dtype)
        self.module.simple_rnn_backward(self.run, transposed, self.h, None, dh, d, self.cell.codes[0], None)
        return d


class LstmPass(CellPass):
    """A batch's way through an LSTM."""

    def forward(self) -> None:
        panels = gate_panels(self.module, self.cell.recurrent_kernel, 4)
        self.c = self.states()
        self.gates = aligned_empty((self.plan.tokens, self.columns), self.dtype)
        self.module.lstm_forward(
            self.run, panels, self.h, self.c, self.gates, *self.cell.codes, True, True, None
        )

    def backward(self, transposed: Array, dh: Array) -> Array:
        dc = aligned_zeros(dh.shape, self.dtype)
        self.module.lstm_backward(
            self.run, transposed, self.gates, self.c, None, dh, dc, *self.cell.codes, None
        )
        return self.gates


class GruPass(CellPass):
    """A batch's way through a GRU that resets after the product. The gradients of the candidate come first."""

    recurrent_gate = 1

    def input_bias(self) -> Array | None:
        bias = self.cell.bias
        return None if bias is None else readable_bias(self.module, bias[0])

    def forward(self) -> None:
        bias = self.cell.bias
        second = None if bias is None else readable_bias(self.module, bias[1])
        panels = gate_panels(self.module, self.cell.recurrent_kernel, 3)
        self.gates = aligned_empty((self.plan.tokens, 4 * self.cell.units), self.dtype)
        self.module.gru_forward(
            self.run, panels, None, second, self.h, self.gates, True, *self.cell.codes, True, True, True, None, None
        )

    def backward(self, transposed: Array, dh: Array) -> Array:
        self.module.gru_backward(
            self.run, transposed, None, self.gates, self.h, None, dh, None, *self.cell.codes, True, True, None, None
        )
        return self.gates

    @property
    def has_recurrent_bias(self) -> bool:
        return self.cell.bias is not None

    def bias_gradient(self, bias: Array, recurrent_bias: Array | None) -> Array:
        if recurrent_bias is None:
            return bias
        return np.stack([bias, recurrent_bias])


PASSES: dict[str, type[CellPass]] = {"simple_rnn": SimpleRnnPass, "lstm": LstmPass, "gru": GruPass}


def passes_through(cell: Cell, tokens: int) -> bool:
    """Whether a `CellPass` is the way for so many tokens: not none, and too few to be shared out among threads."""
    operations = 6.0 * tokens * cell.kernel.shape[1] * (cell.units + cell.features)
    return 0 < operations < MOST_AT_ONCE and thread_count(operations) == 1
