"""Functional models in float64: outputs, losses and weights of training steps, fit() and its History."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from graphs import GRAPHS, Maker

from .common import MASKS, generator, normal, set_random_weights
from .stacks import series, token_ids

CLASSES = "sparse_categorical_crossentropy"
COMPILED: dict[str, dict[str, Any]] = {
    "residual": {"loss": "mse", "metrics": ["mae"]},
    "shared": {"loss": "mse"},
    "encoder_decoder": {"loss": CLASSES, "metrics": ["accuracy"]},
    "several_outputs": {
        "loss": [CLASSES, "mse"],
        "loss_weights": [1.0, 0.25],
        "metrics": [["accuracy"], ["mae"]],
    },
    "named_outputs": {
        "loss": {"far": "mse", "both": "mae"},
        "loss_weights": {"far": 0.5, "both": 2.0},
        "metrics": {"far": ["mae"]},
    },
    "explicit_masks": {"loss": ["mse", "mae"], "metrics": [["mae"], None]},
}


def data(name: str) -> tuple[Any, Any, Any]:
    """Return inputs, targets and sample weights."""
    mask = np.concatenate([MASKS[kind] for kind in ("holes", "leading", "empty")])
    other = np.concatenate([MASKS[kind] for kind in ("right", "left", "holes")])
    random, rows = generator("graphs", name), len(mask)
    words, second = token_ids(mask), token_ids(other) * random.integers(0, 2, other.shape).astype(np.int32)
    if name == "residual":
        return words, normal(*mask.shape, 2), random.uniform(0.5, 1.5, mask.shape)
    if name == "shared":
        return [words, second], normal(rows, 1), random.uniform(0.5, 1.5, rows)
    if name == "encoder_decoder":
        return [words, second], random.integers(0, 5, mask.shape), None
    if name == "several_outputs":
        targets = [random.integers(0, 4, mask.shape), normal(rows, 1)]
        return [words, normal(rows, 3)], targets, [random.uniform(0.5, 1.5, mask.shape), np.arange(rows) / 4.0]
    if name == "explicit_masks":
        valid = random.integers(0, 4, mask.shape) > 0
        return [words, series(other), valid], [normal(*mask.shape, 2), normal(rows, 1)], None
    inputs = {"one": series(mask), "two": series(other)}
    weights = {"far": np.arange(rows) / 4.0, "both": np.ones(rows)}
    return inputs, {"far": normal(rows, 1), "both": normal(rows, 2)}, weights


def record(name: str) -> dict[str, Any]:
    """Record one model."""
    keras.utils.clear_session()
    model = GRAPHS[name](Maker(keras, "float64"))
    x, y, sample_weight = data(name)
    weights = set_random_weights(model, name)
    outputs = model.predict(x, batch_size=5, verbose=0)
    model.compile(keras.optimizers.SGD(0.25), run_eagerly=True, **COMPILED[name])
    evaluated = model.evaluate(x, y, batch_size=5, sample_weight=sample_weight, verbose=0)
    history = model.fit(x, y, batch_size=5, epochs=3, sample_weight=sample_weight, shuffle=False, verbose=0)
    return {
        "inputs": x,
        "targets": y,
        "sample_weight": sample_weight,
        "compiled": COMPILED[name],
        "weights": weights,
        "paths": [weight.path for weight in model.weights],
        "layers": [layer.name for layer in model.layers if isinstance(layer, keras.Layer)],
        "outputs": outputs,
        "evaluated": np.asarray(evaluated).tolist(),
        "history": history.history,
        "trained_weights": model.get_weights(),
        "config": model.get_config(),
    }


def record_graphs() -> dict[str, Any]:
    """Record every graph."""
    keras.config.set_floatx("float64")
    return {name: record(name) for name in GRAPHS}
