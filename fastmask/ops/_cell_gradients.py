"""Forward pass and pullback of a recurrent layer over small batches, past the checks and choices of a `Problem`."""

from __future__ import annotations

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
    run: Any, values: Array, kernel: Array, h: Array, d: Array, columns: int, *, recurrent_bias: bool
) -> tuple[Array, Array, Array, Array, Array | None]:
    """Gradients of values, kernel, bias, recurrent kernel and its bias or None, all in one compiled call.

    columns: of the recurrent kernel.
    """
    dtype, (features, width), stored, units = d.dtype, kernel.shape, values.shape[0], h.shape[1]
    inputs = (aligned_zeros if stored > d.shape[0] else aligned_empty)((stored, features), dtype)
    dkernel, bias = aligned_empty((features, width), dtype), aligned_empty(width, dtype)
    recurrent = aligned_empty((units, columns), dtype)
    second = aligned_empty(columns, dtype) if recurrent_bias else None
    run.gradients(d, h, kernel, inputs, (dkernel, bias), (recurrent, second))
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

    def __init__(self, cell: Cell, values: Array, plan: Packing) -> None:
        self.cell, self.values, self.plan = cell, values, plan
        self.dtype = cell.dtype
        self.module = module = kernels.module(cell.dtype)
        self.columns = cell.kernel.shape[1]
        panels = product_panels(module, cell.kernel)
        program = module.Program(
            self.code(), *cell.codes, (cell.features, cell.units), (panels, self.input_bias()), self.recurrent()
        )
        (self.run,) = recurrences(module, program, plan, (values, plan.positions, None), self.columns, self.dtype)
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

    def code(self) -> int:
        """The kernels' number of the cell."""
        raise NotImplementedError

    def recurrent(self) -> tuple[Array, None, Array | None]:
        """Panels of the recurrent side, and its bias."""
        raise NotImplementedError

    def forward(self) -> None:
        """Run all steps."""
        raise NotImplementedError

    def backward(self, transposed: Any, dh: Array) -> Array:
        """Return the gradients of pre-activations, from those of the last outputs in sorted order."""
        raise NotImplementedError

    @property
    def has_recurrent_bias(self) -> bool:
        """Whether there is a bias of the recurrent side."""
        return False

    def pullback(self, dy: Array) -> tuple[Array, list[Array]]:
        """The gradients of the values and of the weights, from that of the output. It can be called once."""
        module, cell = self.module, self.cell
        transposed = module.Transposed(product_panels(module, cell.recurrent_kernel.T), None)
        d = self.backward(transposed, dy.take(self.plan.sorted_indices, axis=0))
        inputs, kernel, bias, recurrent, recurrent_bias = gradients_at_once(
            self.run, self.values, cell.kernel, self.h, d, self.columns, recurrent_bias=self.has_recurrent_bias
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

    def code(self) -> int:
        return int(self.module.SIMPLE_RNN)

    def recurrent(self) -> tuple[Array, None, Array | None]:
        return product_panels(self.module, self.cell.recurrent_kernel), None, None

    def forward(self) -> None:
        self.run.forward((self.h,), None, True, True, None)

    def backward(self, transposed: Any, dh: Array) -> Array:
        d = aligned_empty((self.plan.tokens, self.columns), self.dtype)
        self.run.backward(transposed, (self.h,), d, None, (dh,))
        return d


class LstmPass(CellPass):
    """A batch's way through an LSTM."""

    def code(self) -> int:
        return int(self.module.LSTM)

    def recurrent(self) -> tuple[Array, None, Array | None]:
        return gate_panels(self.module, self.cell.recurrent_kernel, 4), None, None

    def forward(self) -> None:
        self.c = self.states()
        self.gates = aligned_empty((self.plan.tokens, self.columns), self.dtype)
        self.run.forward((self.h, self.c), self.gates, True, True, None)

    def backward(self, transposed: Any, dh: Array) -> Array:
        dc = aligned_zeros(dh.shape, self.dtype)
        self.run.backward(transposed, (self.h, self.c), self.gates, None, (dh, dc))
        return self.gates


class GruPass(CellPass):
    """A batch's way through a GRU that resets after the product. The gradients of the candidate come first."""

    def code(self) -> int:
        return int(self.module.GRU)

    def input_bias(self) -> Array | None:
        bias = self.cell.bias
        return None if bias is None else readable_bias(self.module, bias[0])

    def recurrent(self) -> tuple[Array, None, Array | None]:
        bias = self.cell.bias
        second = None if bias is None else readable_bias(self.module, bias[1])
        return gate_panels(self.module, self.cell.recurrent_kernel, 3), None, second

    def forward(self) -> None:
        self.gates = aligned_empty((self.plan.tokens, 4 * self.cell.units), self.dtype)
        self.run.forward((self.h,), self.gates, True, True, None)

    def backward(self, transposed: Any, dh: Array) -> Array:
        self.run.backward(transposed, (self.h,), self.gates, None, (dh,))
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
