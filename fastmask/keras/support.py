"""Which layers, and which calls of them, the kernels can run; all others stay with Keras."""

import logging
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import keras

from fastmask.keras.recurrence import Recurrence
from fastmask.ops.rnn import RNNSpec

logger = logging.getLogger("fastmask")

BACKENDS = ("tensorflow", "torch", "jax", "numpy")
CELLS = {keras.layers.LSTMCell: "lstm", keras.layers.GRUCell: "gru", keras.layers.SimpleRNNCell: "simple_rnn"}
_ACTIVATIONS = ("linear", "tanh", "sigmoid", "hard_sigmoid", "relu", "softsign", "elu")
_DTYPES = ("float32", "float64")
_logged: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


def layer_refusal(layer: Any) -> str | None:
    """Return why no call of a layer can run on the kernels, None if calls can."""
    backend = keras.config.backend()
    if backend not in BACKENDS:
        return f"the backend {backend!r} is none of {', '.join(BACKENDS)}"
    cell = layer.cell
    if type(cell) not in CELLS:
        return f"its cell is a {type(cell).__name__}"
    for argument in ("activation",) if CELLS[type(cell)] == "simple_rnn" else ("activation", "recurrent_activation"):
        function = getattr(cell, argument)
        if _activation_name(function) is None:
            name = getattr(function, "__name__", function)
            return f"{argument}={name} is none of {', '.join(_ACTIVATIONS)}"
    for owner in (layer, cell):
        if owner.compute_dtype not in _DTYPES or owner.compute_dtype != owner.variable_dtype:
            return f"its dtype policy is {owner.dtype_policy.name!r}, neither float32 nor float64"
    return None


def training_refusal(layer: Any) -> str | None:
    """Return why calls with ``training=True`` stay with Keras, None if they do not."""
    cell = layer.cell
    if getattr(cell, "recurrent_dropout", 0):
        return f"recurrent_dropout={cell.recurrent_dropout} in training"
    dropout = getattr(cell, "dropout", 0)
    if dropout >= 1:
        return f"dropout={dropout} in training"
    if dropout and getattr(cell, "implementation", 2) == 1:
        return "dropout with implementation=1 in training"
    return None


def call_refusal(layer: Any, sequences: Any, states: Sequence[Any], mask: Any, training: Any) -> str | None:
    """Return why one call stays with Keras, None if the kernels can run it."""
    found = layer_refusal(layer) or (training_refusal(layer) if training else None)
    if found is not None:
        return found
    dtype = keras.backend.standardize_dtype(sequences.dtype)
    if dtype != layer.cell.variable_dtype:
        return f"its input is {dtype}, its weights are {layer.cell.variable_dtype}"
    if any(state.shape[0] == 1 for state in states) and sequences.shape[0] not in (1, None):
        return "its initial state has one row, which is for all rows of the input"
    if mask is not None:
        shape = tuple(mask.shape)
        if len(shape) != 2 and not (len(shape) == 3 and shape[2] == 1):
            return f"its mask has shape {shape}, neither (batch, steps) nor (batch, steps, 1)"
        if layer.unroll and layer.zero_output_for_mask:
            return "unroll=True with zero_output_for_mask=True and a mask, which Keras's backends treat differently"
    return None


def recurrence_of(layer: Any) -> Recurrence:
    """Return what a layer computes; it is one that `layer_refusal` has nothing against."""
    cell = layer.cell
    name = CELLS[type(cell)]
    recurrent = None if name == "simple_rnn" else _activation_name(cell.recurrent_activation)
    spec = RNNSpec(
        name, cell.kernel.shape[0], cell.units, cell.variable_dtype, _activation_name(cell.activation), recurrent,
        getattr(cell, "reset_after", False), cell.bias is not None, layer.go_backwards,
    )  # fmt: skip
    return Recurrence(
        spec,
        return_sequences=layer.return_sequences,
        zero_output_for_mask=layer.zero_output_for_mask,
        shows_initial_state=keras.config.backend() in ("jax", "numpy") and not layer.unroll,
    )


def log_refusal(layer: Any, reason: str) -> None:
    """Log that a layer stays with Keras, once for each reason."""
    reasons = _logged.setdefault(layer, set())
    if reason not in reasons:
        reasons.add(reason)
        logger.warning("layer %r (%s) runs on Keras's own path: %s", layer.name, type(layer).__name__, reason)


def _activation_name(function: Any) -> str | None:
    """Return the kernels' name of one of Keras's activation functions."""
    if function is None:
        return "linear"
    return next((name for name in _ACTIVATIONS if function is getattr(keras.activations, name)), None)
