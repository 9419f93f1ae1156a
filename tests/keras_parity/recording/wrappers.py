"""Bidirectional and TimeDistributed in float64, with the mask given to the call."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from .common import BATCH, FEATURES, MASKS, STEPS, UNITS, mask_of, normal, record_call, set_random_weights
from .recurrent import KINDS, STATES

MODES = ("concat", "sum", "mul", "ave", None)


def bidirectional(kind: str, mask: str, mode: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """Record a Bidirectional layer; it starts from given states if it returns them."""
    name, defaults = KINDS[kind]
    config = {"units": UNITS, "dtype": "float64", **defaults, **options}
    layer = keras.layers.Bidirectional(getattr(keras.layers, name)(**config), merge_mode=mode, dtype="float64")
    layer.build((BATCH, STEPS, FEATURES))
    set_random_weights(layer, kind)
    given = 2 * STATES[name] if options.get("return_state") else 0
    states = [normal(BATCH, UNITS, names=("state", i)) for i in range(given)]
    x = normal(BATCH, STEPS, FEATURES)
    recorded = record_call(layer, x, MASKS[mask], states)
    output_mask = mask_of(layer, x, MASKS[mask])
    return {"layer": name, "config": config, "merge_mode": mode, "output_mask": output_mask, **recorded}


def time_distributed(activation: str, mask: str) -> dict[str, Any]:
    """Record TimeDistributed(Dense); the padding holds zeros and nothing looks at the outputs there."""
    config = {"units": UNITS, "activation": activation, "dtype": "float64"}
    layer = keras.layers.TimeDistributed(keras.layers.Dense(**config), dtype="float64")
    layer.build((BATCH, STEPS, FEATURES))
    set_random_weights(layer, "dense")
    x = normal(BATCH, STEPS, FEATURES)
    if MASKS[mask] is not None:
        x = np.where(MASKS[mask][..., None], x, 0.0)
    recorded = record_call(layer, x, MASKS[mask], seen=MASKS[mask])
    return {"layer": "Dense", "config": config, "output_mask": mask_of(layer, x, MASKS[mask]), **recorded}


def record_wrappers() -> dict[str, Any]:
    """Record all merge modes of every kind, states, and TimeDistributed."""
    cases = {}
    for mode in MODES:
        for label, options in (("last", {}), ("sequence", {"return_sequences": True})):
            for mask in ("none", "holes", "leading", "empty"):
                cases[f"bidirectional-lstm-{mode}-{label}-{mask}"] = bidirectional("lstm", mask, mode, options)
            for kind in ("simple_rnn", "gru", "gru_reset_before"):
                cases[f"bidirectional-{kind}-{mode}-{label}-empty"] = bidirectional(kind, "empty", mode, options)
    for kind in KINDS:
        for label, options in (("last", {}), ("sequence", {"return_sequences": True})):
            options = {"return_state": True, **options}
            name = f"bidirectional-{kind}-concat-{label}_state-empty"
            cases[name] = bidirectional(kind, "empty", "concat", options)
    for activation in ("linear", "tanh", "softmax"):
        for mask in ("none", "empty"):
            cases[f"time_distributed-{activation}-{mask}"] = time_distributed(activation, mask)
    return cases
