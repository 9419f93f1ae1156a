"""SimpleRNN, LSTM and GRU in float64, with the mask given to the call."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .common import BATCH, FEATURES, MASKS, STEPS, UNITS, as_list, mask_of, normal, record_call, set_random_weights

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "simple_rnn": ("SimpleRNN", {}),
    "lstm": ("LSTM", {}),
    "gru": ("GRU", {"reset_after": True}),
    "gru_reset_before": ("GRU", {"reset_after": False}),
}
STATES = {"SimpleRNN": 1, "LSTM": 2, "GRU": 1}
SEQUENCE, BACKWARDS = {"return_sequences": True}, {"go_backwards": True}
ZEROS, STATE = {"zero_output_for_mask": True}, {"return_state": True}
OPTIONS: dict[str, dict[str, Any]] = {
    "last": {},
    "sequence": SEQUENCE,
    "last_backwards": BACKWARDS,
    "sequence_backwards": SEQUENCE | BACKWARDS,
    "last_zeros": ZEROS,
    "sequence_zeros": SEQUENCE | ZEROS,
    "last_state": STATE,
    "sequence_state": SEQUENCE | STATE,
    "sequence_state_backwards_zeros": SEQUENCE | STATE | BACKWARDS | ZEROS,
}
EVERY_MASK = ("last", "sequence", "sequence_state")
HARD_MASKS = ("holes", "leading", "empty")
ACTIVATIONS = ("linear", "relu", "sigmoid", "hard_sigmoid", "softsign", "elu")
RECURRENT_ACTIVATIONS = ("hard_sigmoid", "tanh", "linear", "softsign")


def case(kind: str, mask: str, options: dict[str, Any], size: tuple[int, ...] = ()) -> dict[str, Any]:
    """Record one layer on one batch; it starts from given states if it returns them."""
    name, defaults = KINDS[kind]
    batch, steps, features, units = size or (BATCH, STEPS, FEATURES, UNITS)
    config = {"units": units, "dtype": "float64", **defaults, **options}
    layer = getattr(keras.layers, name)(**config)
    layer.build((batch, steps, features))
    set_random_weights(layer, kind)
    x = normal(batch, steps, features)
    given = STATES[name] if options.get("return_state") else 0
    states = [normal(batch, units, names=("state", i)) for i in range(given)]
    grid = MASKS[mask]
    recorded = record_call(layer, x, grid, states)
    return {"layer": name, "config": config, "output_mask": mask_of(layer, x, grid), **recorded}


def stateful(kind: str, options: dict[str, Any]) -> dict[str, Any]:
    """Record the outputs of calls that each go on from the states of the one before."""
    name, defaults = KINDS[kind]
    config = {"units": UNITS, "dtype": "float64", "stateful": True, **defaults, **options}
    layer = getattr(keras.layers, name)(**config)
    layer.build((BATCH, STEPS, FEATURES))
    set_random_weights(layer, kind)
    calls = []
    for mask in ("holes", "empty", "leading", "none"):
        x = normal(BATCH, STEPS, FEATURES, names=(mask,))
        y = layer(tf.constant(x), mask=None if MASKS[mask] is None else tf.constant(MASKS[mask]))
        calls.append({"inputs": x, "mask": MASKS[mask], "outputs": [np.asarray(part) for part in as_list(y)]})
    return {"layer": name, "config": config, "inputs": x, "weights": layer.get_weights(), "calls": calls}


def record_stateful() -> dict[str, Any]:
    """Record every kind, with the last outputs and with sequences."""
    state = {"return_state": True}
    return {
        f"{kind}-{label}": stateful(kind, options)
        for kind in KINDS for label, options in (("last", state), ("sequence", SEQUENCE | state))
    }  # fmt: skip


def record_recurrent() -> dict[str, Any]:
    """Record every kind under masks x options, then activations, no bias and a size beyond one vector."""
    cases = {}
    for kind, (name, _) in KINDS.items():
        for label, options in OPTIONS.items():
            for mask in MASKS if label in EVERY_MASK else HARD_MASKS:
                cases[f"{kind}-{label}-{mask}"] = case(kind, mask, options)
        for activation in ACTIVATIONS:
            options = SEQUENCE | {"activation": activation}
            cases[f"{kind}-activation-{activation}"] = case(kind, "leading", options)
        for activation in RECURRENT_ACTIVATIONS if name != "SimpleRNN" else ():
            options = SEQUENCE | {"recurrent_activation": activation}
            cases[f"{kind}-recurrent_activation-{activation}"] = case(kind, "leading", options)
        options = SEQUENCE | {"use_bias": False}
        cases[f"{kind}-no_bias"] = case(kind, "empty", options)
        cases[f"{kind}-larger"] = case(kind, "holes", SEQUENCE | STATE, (4, 5, 6, 9))
    return cases
