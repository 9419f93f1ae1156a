"""Embedding, Masking, Dense and Activation in float64."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from .common import BATCH, FEATURES, MASKS, STEPS, UNITS, generator, mask_of, normal, record_call, set_random_weights

ACTIVATIONS = (
    "linear", "relu", "sigmoid", "tanh", "hard_sigmoid", "softmax", "softplus", "softsign", "elu", "selu", "silu",
    "silu", "gelu", "exponential",
)  # fmt: skip


def plain(name: str, config: dict[str, Any], x: np.ndarray) -> dict[str, Any]:
    """Record a layer that is called without a mask."""
    config = {"dtype": "float64", **config}
    layer = getattr(keras.layers, name)(**config)
    layer.build(x.shape)
    set_random_weights(layer, name)
    return {"layer": name, "config": config, "output_mask": mask_of(layer, x, None), **record_call(layer, x)}


def embeddings() -> dict[str, Any]:
    """Record Embedding: ids that occur many times, no mask and mask_zero, ids in one and three axes."""
    config = {"input_dim": 6, "output_dim": 3}
    cases = {}
    for label, shape in (("vector", (5,)), ("matrix", (BATCH, STEPS)), ("cube", (2, 3, 4))):
        ids = generator("ids", *shape).integers(0, 6, shape)
        for mask_zero in (False, True):
            name = f"embedding-{label}-{'mask_zero' if mask_zero else 'plain'}"
            cases[name] = plain("Embedding", config | {"mask_zero": mask_zero}, ids)
    return cases


def maskings() -> dict[str, Any]:
    """Record Masking with both values; one step has a single feature equal to the value."""
    cases = {}
    for value in (0.0, -1.0):
        x = normal(BATCH, STEPS, FEATURES)
        x[~MASKS["empty"]] = value
        x[0, 1, 0] = value
        cases[f"masking-{value}"] = plain("Masking", {"mask_value": value}, x)
    return cases


def record_layers() -> dict[str, Any]:
    """Record every layer that is not recurrent."""
    cases = embeddings() | maskings()
    for activation in ACTIVATIONS:
        config = {"units": UNITS, "activation": activation}
        cases[f"dense-{activation}"] = plain("Dense", config, 2 * normal(BATCH, FEATURES))
        x = 3 * normal(BATCH, STEPS, FEATURES)
        cases[f"activation-{activation}"] = plain("Activation", {"activation": activation}, x)
    cases["dense-no_bias"] = plain("Dense", {"units": UNITS, "use_bias": False}, normal(BATCH, FEATURES))
    sequences = normal(BATCH, STEPS, FEATURES)
    for activation in ("linear", "softmax"):
        config = {"units": UNITS, "activation": activation}
        cases[f"dense-sequences-{activation}"] = plain("Dense", config, sequences)
    return cases
