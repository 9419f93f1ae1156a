"""A few steps of a recurrent layer for a few rows, without packing weights: for streams and short sequences."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmask import kernels
from fastmask.ops._activations import recurrent_code
from fastmask.ops._arrays import Array, check_float, check_shape

States = tuple[Array, ...]
_GATES = {"simple_rnn": 1, "lstm": 4, "gru": 3}
# Up to so many tokens, or floating-point operations, packed weights do not make up for being packed.
_MOST_TOKENS = 4
_MOST_OPERATIONS = 4_000_000
# Up to so many, if calls like it need little but their steps (`Repetition`): a SimpleRNN of 128 units takes 15 and
# 16 us for 10 steps, and 40 and 36 us for 30.
_MOST_OPERATIONS_IF_REPEATED = 1_200_000
# Packed weights that are there already win from the second token on, if they are not small.
_MOST_TOKENS_IF_PACKED = 1


def is_small(tokens: int, weights: int, packed: bool, repeated: bool) -> bool:
    """Whether a :class:`Cell` runs so many tokens sooner than an operation on packed weights, of so many numbers.

    packed: whether the weights stay packed from call to call. repeated: whether a `Repetition` can run them.
    """
    most = _MOST_TOKENS_IF_PACKED if packed else _MOST_TOKENS
    most_operations = _MOST_OPERATIONS_IF_REPEATED if repeated else _MOST_OPERATIONS
    return tokens <= most or 2 * tokens * weights <= most_operations


class Cell:
    """A recurrent layer that takes one step at a time.

    The results are those of the operation on sequences, bit for bit. The weights are read once a row and step,
    as they lie in memory: the operation on sequences packs them from about eight rows on, and runs others so, too.

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
        self._flat_bias = None if self.bias is None else self.bias.reshape(-1)
        self.codes = recurrent_code("activation", activation), 0
        if op != "simple_rnn":
            self.codes = self.codes[0], recurrent_code("recurrent_activation", recurrent_activation)
        self._state_count = 2 if op == "lstm" else 1
        self._compiled: tuple[ModuleType | None, Any] = (None, None)

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
        return self.run(x[:, None], None, states)[1]

    def run(
        self, x: Array, mask: NDArray[np.bool_] | None, states: Sequence[Array] | None, *,
        go_backwards: bool = False, return_sequences: bool = False,
    ) -> tuple[Array | None, States]:
        """Run over a padded batch, without checks: C-contiguous arrays of the right shapes and dtypes.

        Parameters
        ----------
        x : array (B, T, F)
        mask : bool array (B, T) or None
            Which steps count; all without it.
        states : sequence of one or two arrays (B, H), or None
            Zeros if None; not written to.
        go_backwards, return_sequences : bool, default False

        Returns
        -------
        sequence : array (B, T, H) or None
            The outputs in the order of the run; at a masked step the one before it, or zeros.
        states : tuple of arrays (B, H)
        """
        rows, steps, _ = x.shape
        after = initial_states(states, (rows, self.units), self.dtype, self._state_count)
        sequence = np.empty((rows, steps, self.units), self.dtype) if return_sequences else None
        self.compiled().run_grid(
            x, None if mask is None else mask.view(np.uint8), after, sequence, go_backwards, states is None
        )
        return sequence, after

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_compiled": (None, None)}

    def compiled(self) -> Any:
        """The kernel's cell, of the instruction set in use."""
        module, cell = self._compiled
        wanted = kernels.module(self.dtype)
        if module is not wanted:
            code = {"simple_rnn": wanted.SIMPLE_RNN, "lstm": wanted.LSTM, "gru": wanted.GRU}[self.op]
            cell = wanted.Cell(code, *self.codes, self.kernel, self.recurrent_kernel, self._flat_bias)
            self._compiled = wanted, cell
        return cell

    def _check_states(self, states: Sequence[Array], rows: int) -> States:
        if len(states) != self._state_count:
            raise ValueError(f"states: expected {self._state_count} arrays, got {len(states)}.")
        checked = tuple(check_float(f"states[{i}]", state, 2, self.dtype) for i, state in enumerate(states))
        for i, state in enumerate(checked):
            check_shape(f"states[{i}]", state, (rows, self.units))
        return checked


def initial_states(
    states: Sequence[Array | None] | None, shape: tuple[int, int], dtype: np.dtype[Any], count: int
) -> States:
    """Copies of the states (B, H) to start from; zeros where there is none."""
    if states is None:
        return tuple([np.zeros(shape, dtype) for _ in range(count)])
    return tuple([np.zeros(shape, dtype) if state is None else state.copy() for state in states])


def _as_it_lies(name: str, value: Array, ndim: int, dtype: np.dtype[np.generic] | None = None) -> Array:
    checked = check_float(name, value, ndim, dtype)
    if checked is not value:
        raise ValueError(f"{name}: expected a C-contiguous, aligned array in native byte order.")
    return checked
