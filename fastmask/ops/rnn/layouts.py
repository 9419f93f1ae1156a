"""Weights of recurrent cells as PyTorch stores them, and the one table of the orders of gates.

PyTorch stores (gates * units, features) and two biases; the operations take Keras's (features, gates * units) and one
bias, two for a GRU. See ``torch.nn.GRU`` and ``torch.nn.LSTM`` in PyTorch's reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

GATES = {
    "keras": {"simple_rnn": "h", "lstm": "ifgo", "gru": "zrh"},
    "onnx": {"simple_rnn": "h", "lstm": "iofg", "gru": "zrh"},
    "torch": {"simple_rnn": "h", "lstm": "ifgo", "gru": "rzh"},
}


def reordered(rows: Array, cell: str, given: str, wanted: str) -> Array:
    """Rows [gates * units, ...] with the gates of a cell in the order of another library, two keys of :data:`GATES`."""
    old, new = GATES[given][cell], GATES[wanted][cell]
    if old == new:
        return rows
    order = [old.index(gate) for gate in new]
    return np.ascontiguousarray(rows.reshape(len(old), -1, *rows.shape[1:])[order]).reshape(rows.shape)


def from_torch(cell: str, weights: Sequence[Array]) -> list[Array]:
    """[kernel, recurrent_kernel, bias] of (weight_ih, weight_hh, bias_ih, bias_hh), or of the first two alone."""
    kernel, recurrent_kernel, *biases = [reordered(weight, cell, "torch", "keras") for weight in weights]
    bias = [np.stack(biases) if cell == "gru" else biases[0] + biases[1]] if biases else []
    return [kernel.T, recurrent_kernel.T, *bias]


def to_torch(cell: str, weights: Sequence[Array]) -> list[Array]:
    """What :func:`from_torch` takes, of what it returns; the second bias is zero where there is one."""
    kernel, recurrent_kernel, *bias = weights
    found = [kernel.T, recurrent_kernel.T]
    if bias:
        found += [*bias[0]] if cell == "gru" else [bias[0], np.zeros_like(bias[0])]
    return [reordered(np.ascontiguousarray(rows), cell, "keras", "torch") for rows in found]
