"""Loss functions on plain arrays, entry by entry and reduced with weights, in float64."""

from __future__ import annotations

from functools import partial
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
        "counts": (random.poisson(2.0, shape).astype(float), 3 * rates),
        "signs": (2 * bits - 1, prediction),
        "bit_margins": (bits, prediction),
        "one_hot_margins": (np.eye(CLASSES)[classes], prediction),
        "divergence": (simplex, saturated),
        "lonely": (real[..., :1], prediction[..., :1]),
    }


LOGITS = {"from_logits": True}
SMOOTH = {"label_smoothing": 0.1}
LOSSES: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("MeanSquaredError", {}, "real"),
    ("MeanAbsoluteError", {}, "real"),
    ("MeanAbsolutePercentageError", {}, "real"),
    ("MeanSquaredLogarithmicError", {}, "counts"),
    ("MeanSquaredLogarithmicError", {}, "real"),
    ("Huber", {}, "real"),
    ("Huber", {"delta": 0.5}, "real"),
    ("LogCosh", {}, "real"),
    ("CosineSimilarity", {}, "real"),
    ("CosineSimilarity", {"axis": 1}, "real"),
    ("Hinge", {}, "signs"),
    ("Hinge", {}, "bit_margins"),
    ("SquaredHinge", {}, "signs"),
    ("CategoricalHinge", {}, "one_hot_margins"),
    ("KLDivergence", {}, "divergence"),
    ("Poisson", {}, "counts"),
    ("MeanSquaredError", {}, "lonely"),
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
    ("SparseCategoricalCrossentropy", {"ignore_class": 0}, "classes"),
)
REDUCTIONS = ("sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", "none", None)
MASK = np.array([[1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0]], bool)


def reduced(make: Any, y_true: np.ndarray, y_pred: np.ndarray, weights: Any, mask: Any) -> tuple[Any, Any]:
    """Return the value of a loss and the gradient of its sum."""
    import tensorflow as tf
    from keras.src.backend import set_keras_mask

    prediction = tf.constant(y_pred)
    with tf.GradientTape() as tape:
        tape.watch(prediction)
        masked = tf.identity(prediction)
        if mask is not None:
            set_keras_mask(masked, tf.constant(mask))
        value = make(tf.constant(y_true), masked, None if weights is None else tf.constant(weights))
    return value.numpy(), tape.gradient(value, prediction).numpy()


def reductions(make: Any, y_true: np.ndarray, y_pred: np.ndarray, weights: np.ndarray) -> list[dict[str, Any]]:
    """Record every reduction with and without weights and mask; gradients for some of them."""
    cases = []
    for reduction in REDUCTIONS:
        for weight in (None, weights):
            for mask in (None, MASK):
                value, gradient = reduced(make(reduction=reduction), y_true, y_pred, weight, mask)
                kept = weight is not None and mask is not None and reduction in REDUCTIONS[2:4]
                cases.append({
                    "reduction": reduction, "weighted": weight is not None, "masked": mask is not None,
                    "value": value, "gradient": gradient if kept or reduction == "sum_over_batch_size" else None,
                })  # fmt: skip
    return cases


def case(name: str, config: dict[str, Any], kind: str) -> dict[str, Any]:
    """Record one loss: each entry, the gradient of the mean, the config, and all reductions."""
    import tensorflow as tf

    y_true, y_pred = targets()[kind]
    make = getattr(keras.losses, name)
    prediction = tf.constant(y_pred)
    with tf.GradientTape() as tape:
        tape.watch(prediction)
        mean = make(**config)(tf.constant(y_true), prediction)
    weights = generator("loss weights").uniform(0.0, 2.0, (BATCH, STEPS))
    plain = config.get("axis", -1) == -1
    return {
        "loss": [name, config],
        "y_true": y_true,
        "y_pred": y_pred,
        "entries": make(**config, reduction="none")(y_true, y_pred).numpy(),
        "mean": mean.numpy(),
        "gradient": tape.gradient(mean, prediction).numpy(),
        "sample_weight": weights,
        "mask": MASK,
        "reductions": reductions(partial(make, **config), y_true, y_pred, weights) if plain else [],
        "config": make(**config).get_config(),
    }


def record_losses() -> dict[str, Any]:
    """Record every loss."""
    keras.config.set_floatx("float64")
    return {
        "-".join([name, *(f"{key}={value}" for key, value in config.items()), kind]): case(name, config, kind)
        for name, config, kind in LOSSES
    }
