"""A recurrent layer that takes one step at a time, without packing weights: for streams."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from fastmask.batch.packing import Packing
from fastmask.ops._arrays import Array, check_float, check_shape
from fastmask.ops.rnn.checks import check_states
from fastmask.ops.rnn.forward import States, Tokens
from fastmask.ops.rnn.program import RNNProgram
from fastmask.ops.rnn.spec import CELLS, RNNSpec


class Cell:
    """A recurrent layer that takes one step at a time.

    The results are those of the operation on sequences, bit for bit. The weights are read once a row and step,
    as they lie in memory.

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
        if op not in CELLS:
            raise ValueError(f"op: expected one of {', '.join(CELLS)}, got {op!r}")
        first = _as_it_lies("kernel", kernel, 2)
        second = _as_it_lies("recurrent_kernel", recurrent_kernel, 2, first.dtype)
        self.spec = RNNSpec(
            op, first.shape[0], second.shape[0], first.dtype.name, activation, recurrent_activation,
            use_bias=bias is not None,
        )
        if bias is not None:
            bias = _as_it_lies("bias", bias, len(self.spec.bias_shape), first.dtype)
        self._program = RNNProgram(self.spec, first, second, bias)

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
        spec = self.spec
        x = check_float("x", x, 2, spec.dtype)
        check_shape("x", x, (x.shape[0], spec.features))
        given = None if states is None else check_states("states", states, spec, x.shape[0])
        return self._program.run_few(Tokens(x, _one_step(x.shape[0])), given, every_step=False)[1]


@lru_cache(maxsize=8)
def _one_step(rows: int) -> Packing:
    return Packing.full(rows, 1)


def _as_it_lies(name: str, value: Array, ndim: int, dtype: np.dtype[np.generic] | None = None) -> Array:
    checked = check_float(name, value, ndim, dtype)
    if checked is not value:
        raise ValueError(f"{name}: expected a C-contiguous, aligned array in native byte order, got another")
    return checked
