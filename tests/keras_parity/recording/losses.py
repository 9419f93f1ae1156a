"""Loss functions on plain arrays, entry by entry and reduced with weights, in float64."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from .common import generator

BATCH, STEPS, CLASSES = 3, 4, 3


def targets() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return (y_true, y_pred) by kind of loss."""
    random = generator("losses")
    shape = (BATCH, STEPS, CLASSES)
    real, prediction = random.standard_normal(shape), random.standard_normal(shape)
    bits = random.integers(0, 2, shape).astype(float)
    classes = random.integers(0, CLASSES, shape[:2])
    rates = random.uniform(0.05, 0.95, shape)
    saturated = rates.copy()
    saturated[0, 0], saturated[0, 1] = (0.0, 1.0, 0.5), (1e-9, 1 - 1e-9, 1.0)
    simplex = rates / rates.sum(-1, keepdims=True)
    return {
        "real": (real, prediction),
        "bits": (bits, saturated),
        "bit_logits": (bits, 4 * prediction),
        "one_hot": (np.eye(CLASSES)[classes], saturated),
        "one_hot_logits": (np.eye(CLASSES)[classes], 4 * prediction),
        "distribution": (simplex, rates),
        "classes": (classes, simplex),
        "class_logits": (classes, 4 * prediction),
        "class_column": (classes[..., None], simplex),
    }


LOGITS = {"from_logits": True}
SMOOTH = {"label_smoothing": 0.1}
LOSSES: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("MeanSquaredError", {}, "real"),
    ("MeanAbsoluteError", {}, "real"),
    ("BinaryCrossentropy", {}, "bits"),
    ("BinaryCrossentropy", SMOOTH, "bits"),
    ("BinaryCrossentropy", LOGITS, "bit_logits"),
    ("BinaryCrossentropy", LOGITS | SMOOTH, "bit_logits"),
    ("CategoricalCrossentropy", {}, "one_hot"),
    ("CategoricalCrossentropy", {}, "distribution"),
    ("CategoricalCrossentropy", SMOOTH, "one_hot"),
    ("CategoricalCrossentropy", LOGITS, "one_hot_logits"),
    ("CategoricalCrossentropy", LOGITS | SMOOTH, "one_hot_logits"),
    ("SparseCategoricalCrossentropy", {}, "classes"),
    ("SparseCategoricalCrossentropy", {}, "class_column"),
    ("SparseCategoricalCrossentropy", LOGITS, "class_logits"),
    ("SparseCategoricalCrossentropy", LOGITS | {"ignore_class": 1}, "class_logits"),
)
REDUCTIONS = ("sum_over_batch_size", "sum", "mean_with_sample_weight")


def case(name: str, config: dict[str, Any], kind: str) -> dict[str, Any]:
    """Record one loss: each entry, the gradient of the mean, and reductions with and without weights."""
    import tensorflow as tf

    y_true, y_pred = targets()[kind]
    make = getattr(keras.losses, name)
    prediction = tf.constant(y_pred)
    with tf.GradientTape() as tape:
        tape.watch(prediction)
        mean = make(**config)(tf.constant(y_true), prediction)
    weights = generator("loss weights").uniform(0.0, 2.0, (BATCH, STEPS))
    reduced = {
        reduction: make(**config, reduction=reduction)(y_true, y_pred, weights).numpy() for reduction in REDUCTIONS
    }
    return {
        "loss": [name, config],
        "y_true": y_true,
        "y_pred": y_pred,
        "entries": make(**config, reduction="none")(y_true, y_pred).numpy(),
        "mean": mean.numpy(),
        "gradient": tape.gradient(mean, prediction).numpy(),
        "sample_weight": weights,
        "weighted": reduced,
    }


def record_losses() -> dict[str, Any]:
    """Record every loss."""
    keras.config.set_floatx("float64")
    return {
        "-".join([name, *(f"{key}={value}" for key, value in config.items()), kind]): case(name, config, kind)
        for name, config, kind in LOSSES
    }
