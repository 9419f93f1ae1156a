"""One step of a recurrent layer for a few rows, without a plan and without packing weights: for streams."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastmask import kernels
from fastmask.ops._activations import recurrent_code
from fastmask.ops._arrays import Array, check_float, check_shape

States = tuple[Array, ...]
_GATES = {"simple_rnn": 1, "lstm": 4, "gru": 3}


class Cell:
    """A recurrent layer that takes one step at a time.

    The results are those of the operation on sequences, bit for bit. The weights are read once a row and step,
    as they lie in memory: from about eight rows on, the operation on packed sequences is faster.

    Parameters
    ----------
    op : {"simple_rnn", "lstm", "gru"}
        A GRU is one with ``reset_after=True``.
    kernel : array (F, gates * H), float32 or float64
        Kept, not copied, as are the others: a step uses what stands in them then. Fastest if it starts at a
        multiple of 64 bytes.
    recurrent_kernel : array (H, gates * H)
    bias : array (gates * H,), for a GRU (2, gates * H), optional
    activation, recurrent_activation : str or None
        As of the operation; a SimpleRNN has only the first.

    Raises
    ------
    TypeError, ValueError
        If an array has the wrong dtype or shape, or is not C-contiguous.
    """

    def __init__(
        self, op: str, kernel: Array, recurrent_kernel: Array, bias: Array | None = None, *,
        activation: str | None = "tanh", recurrent_activation: str | None = "sigmoid",
    ) -> None:
        if op not in _GATES:
            raise ValueError(f"op: expected one of {', '.join(_GATES)}, got {op!r}.")
        gates = _GATES[op]
        self.op = op
        self.kernel = _as_it_lies("kernel", kernel, 2)
        self.dtype = self.kernel.dtype
        self.recurrent_kernel = _as_it_lies("recurrent_kernel", recurrent_kernel, 2, self.dtype)
        self.features, self.units = self.kernel.shape[0], self.recurrent_kernel.shape[0]
        check_shape("recurrent_kernel", self.recurrent_kernel, (self.units, gates * self.units))
        check_shape("kernel", self.kernel, (self.features, gates * self.units))
        self.bias = bias
        if bias is not None:
            shape = (2, 3 * self.units) if op == "gru" else (gates * self.units,)
            self.bias = _as_it_lies("bias", bias, len(shape), self.dtype)
            check_shape("bias", self.bias, shape)
        self._codes: tuple[int, ...] = (recurrent_code("activation", activation),)
        if op != "simple_rnn":
            self._codes += (recurrent_code("recurrent_activation", recurrent_activation),)
        self._state_count = 2 if op == "lstm" else 1

    def holds(self, kernel: Array, recurrent_kernel: Array, bias: Array | None) -> bool:
        """Whether these very arrays are its weights."""
        return kernel is self.kernel and recurrent_kernel is self.recurrent_kernel and bias is self.bias

    def __call__(self, x: Array, states: Sequence[Array] | None = None) -> States:
        """Return the states after one step, (h, c) of an LSTM and (h,) otherwise, new arrays (B, H).

        Parameters
        ----------
        x : array (B, F)
        states : one or two arrays (B, H), optional
            Zeros by default.

        Raises
        ------
        TypeError, ValueError
            If an array has the wrong dtype or shape.
        """
        x = check_float("x", x, 2, self.dtype)
        rows = x.shape[0]
        check_shape("x", x, (rows, self.features))
        if states is not None:
            states = self._check_states(states, rows)
        return self.step(x, states)

    def step(self, x: Array, states: Sequence[Array] | None) -> States:
        """The call without checks: C-contiguous arrays of the right shapes and dtype."""
        shape = x.shape[0], self.units
        module = kernels.module(self.dtype)
        weights = self.kernel, self.recurrent_kernel, self.bias
        before = None if states is None else states[0]
        if self.op == "lstm":
            h = np.empty(shape, self.dtype)
            c = np.zeros(shape, self.dtype) if states is None else states[1].copy()
            scratch = np.empty((2, 4 * self.units + module.lanes), self.dtype)
            module.lstm_cell(x, *weights, before, *self._codes, scratch, h, c)
            return h, c
        if self.op == "gru":
            h = np.zeros(shape, self.dtype) if before is None else before.copy()
            scratch = np.empty((2, 3 * self.units), self.dtype)
            module.reset_after_cell(x, *weights, before, *self._codes, scratch, h)
            return (h,)
        h = np.empty(shape, self.dtype)
        module.simple_rnn_cell(x, *weights, before, *self._codes, np.empty(self.units, self.dtype), h)
        return (h,)

    def _check_states(self, states: Sequence[Array], rows: int) -> States:
        if len(states) != self._state_count:
            raise ValueError(f"states: expected {self._state_count} arrays, got {len(states)}.")
        checked = tuple(check_float(f"states[{i}]", state, 2, self.dtype) for i, state in enumerate(states))
        for i, state in enumerate(checked):
            check_shape(f"states[{i}]", state, (rows, self.units))
        return checked


def _as_it_lies(name: str, value: Array, ndim: int, dtype: np.dtype[np.generic] | None = None) -> Array:
    checked = check_float(name, value, ndim, dtype)
    if checked is not value:
        raise ValueError(f"{name}: expected a C-contiguous, aligned array in native byte order.")
    return checked
