"""What predict() returns for stacks of layers, at masked places too, in float64."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from specs import make_layers

from .common import FEATURES, MASKS, STEPS, UNITS, generator, normal, set_random_weights

VOCABULARY = 7
SEQUENCE = {"units": UNITS, "return_sequences": True}
LAST = {"units": UNITS}
EMBEDDING = ["Embedding", {"input_dim": VOCABULARY, "output_dim": 3, "mask_zero": True}]
UNMASKED_EMBEDDING = ["Embedding", {"input_dim": VOCABULARY, "output_dim": 3}]
MASKING = ["Masking", {"mask_value": 0.0}]


def dense(units: int, activation: str = "linear") -> list[Any]:
    """Describe a Dense layer."""
    return ["Dense", {"units": units, "activation": activation}]


STACKS: dict[str, list[Any]] = {
    "two_lstms": [EMBEDDING, ["LSTM", SEQUENCE], ["LSTM", SEQUENCE], dense(2)],
    "tagger": [EMBEDDING, ["Bidirectional", {}, ["LSTM", SEQUENCE]], ["TimeDistributed", {}, dense(4, "softmax")]],
    "series_classifier": [MASKING, ["GRU", LAST], dense(1, "sigmoid")],
    "classifier": [EMBEDDING, ["LSTM", LAST], dense(3, "softmax")],
    "dense_first": [EMBEDDING, dense(4, "tanh"), ["SimpleRNN", SEQUENCE], dense(2)],
    "no_recurrence": [EMBEDDING, dense(3, "softmax")],
    "series_dense": [MASKING, dense(3, "sigmoid")],
    "series_dense_first": [MASKING, dense(4, "relu"), ["Bidirectional", {}, ["GRU", LAST]], dense(2)],
    "zero_output": [EMBEDDING, ["LSTM", SEQUENCE | {"zero_output_for_mask": True}], dense(2, "sigmoid")],
    "dropout": [EMBEDDING, ["Dropout", {"rate": 0.5}], ["LSTM", SEQUENCE], ["TimeDistributed", {}, dense(2)]],
    "activation": [EMBEDDING, ["Activation", {"activation": "tanh"}], ["GRU", SEQUENCE], dense(2, "elu")],
    "softmax_last": [MASKING, ["LSTM", SEQUENCE], ["Activation", {"activation": "softmax"}]],
    "backwards": [EMBEDDING, ["GRU", SEQUENCE | {"go_backwards": True}], dense(2)],
    "backwards_below": [EMBEDDING, ["GRU", SEQUENCE | {"go_backwards": True}], ["LSTM", LAST], dense(2)],
    "backwards_last": [EMBEDDING, ["SimpleRNN", LAST | {"go_backwards": True}], dense(2)],
    "two_bidirectionals": [
        MASKING,
        ["Bidirectional", {"merge_mode": "sum"}, ["GRU", SEQUENCE]],
        ["Bidirectional", {"merge_mode": "mul"}, ["LSTM", SEQUENCE]],
        ["Bidirectional", {"merge_mode": "ave"}, ["SimpleRNN", SEQUENCE]],
    ],
    "unmasked": [UNMASKED_EMBEDDING, ["LSTM", SEQUENCE], ["GRU", LAST], dense(2)],
    "unmasked_series": [["SimpleRNN", SEQUENCE], ["TimeDistributed", {}, dense(2)]],
}


def token_ids(mask: np.ndarray) -> np.ndarray:
    """Return ids that are zero exactly where ``mask`` is false."""
    ids = generator("ids", *mask.shape).integers(1, VOCABULARY, mask.shape)
    return np.where(mask, ids, 0).astype(np.int32)


def series(mask: np.ndarray, features: int = FEATURES) -> np.ndarray:
    """Return a series that is zero exactly where ``mask`` is false."""
    return np.where(mask[..., None], normal(*mask.shape, features), 0.0)


def stack(specs: list[Any], masks: tuple[str, ...]) -> dict[str, Any]:
    """Record predict() over the rows of several masks, in batches of three."""
    mask = np.concatenate([MASKS[name] for name in masks])
    x = token_ids(mask) if specs[0][0] == "Embedding" else series(mask)
    model = keras.Sequential(make_layers(keras.layers, specs, "float64"))
    model.build((None, STEPS) if x.ndim == 2 else (None, STEPS, FEATURES))
    weights = set_random_weights(model, "stack")
    y = model.predict(x, batch_size=3, verbose=0)
    return {"layers": specs, "inputs": x, "weights": weights, "outputs": y}


def record_stacks() -> dict[str, Any]:
    """Record every stack."""
    keras.config.set_floatx("float64")
    return {name: stack(specs, ("holes", "leading", "empty")) for name, specs in STACKS.items()}
