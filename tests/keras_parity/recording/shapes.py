"""Losses and metrics on targets, predictions and weights of every shape that Keras takes, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from .common import generator

B, T, C = 6, 3, 2
SHAPES = ((B,), (B, 1), (B, C), (B, T, C))
WEIGHTS = (None, (), (B,), (B, 1), (1, C), (B, C), (B, T), (1, T), (B, T, 1), (B, 1, C), (B, T, C))
REDUCTIONS = ("sum_over_batch_size", "sum", "none")

# What is the mean of its outputs, what takes the outputs of a token together, and the same with class numbers.
MEANS = {
    "MeanSquaredError", "MeanAbsoluteError", "MeanAbsolutePercentageError", "MeanSquaredLogarithmicError", "Huber",
    "LogCosh", "Hinge", "SquaredHinge", "Poisson", "BinaryCrossentropy",
}  # fmt: skip
VECTORS = {"CosineSimilarity", "CategoricalHinge", "KLDivergence", "CategoricalCrossentropy"}
CLASSES = {"SparseCategoricalCrossentropy", "SparseCategoricalAccuracy", "SparseTopKCategoricalAccuracy"}
LOSSES = sorted(MEANS | VECTORS | {"SparseCategoricalCrossentropy"})
COUNTS = ("TruePositives", "FalsePositives", "TrueNegatives", "FalseNegatives", "Precision", "Recall", "AUC")
METRICS = sorted(
    {name.replace("LogCosh", "LogCoshError") for name in MEANS - {"Huber"}} | VECTORS | CLASSES | {*COUNTS}
    | {"RootMeanSquaredError", "BinaryAccuracy", "CategoricalAccuracy", "TopKCategoricalAccuracy"}
)  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "TopKCategoricalAccuracy": {"k": 1}, "SparseTopKCategoricalAccuracy": {"k": 1}, "AUC": {"num_thresholds": 5},
}  # fmt: skip


def batch(name: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return (y_true, y_pred): bits or classes, and probabilities."""
    random = generator("shapes", shape)
    y_pred, bits = random.uniform(0.05, 0.95, shape).round(3), random.integers(0, 2, shape).astype(float)
    return (bits[..., 0] if name in CLASSES else bits), y_pred


def weights(shape: tuple[int, ...] | None) -> Any:
    """Return sample weights."""
    return None if shape is None else generator("shapes weights", shape).uniform(0.2, 2.0, shape).round(3)


def fits(weight: tuple[int, ...] | None, shape: tuple[int, ...]) -> bool:
    """Whether each axis of the weights is that of the predictions or 1: Keras's rule for metrics."""
    return weight is None or (
        len(weight) <= max(len(shape), 2) and all(own in (1, n) for own, n in zip(weight, (*shape, 1), strict=False))
    )


def attempt(function: Callable[[], Any]) -> Any:
    """Return a result as an array, or None where Keras raises."""
    try:
        return np.asarray(keras.ops.convert_to_numpy(function()), float)
    except Exception:  # whatever the backend raises
        return None


def record_loss(name: str, y_true: np.ndarray, y_pred: np.ndarray, weight: Any) -> dict[str, Any]:
    """Return the value by reduction, and the gradient of the mean."""
    import tensorflow as tf

    def slope() -> Any:
        prediction = tf.constant(y_pred)
        with tf.GradientTape() as tape:
            tape.watch(prediction)
            value = getattr(keras.losses, name)()(y_true, prediction, weight)
        return tape.gradient(value, prediction)

    def value(reduction: str) -> Any:
        return attempt(lambda: getattr(keras.losses, name)(reduction=reduction)(y_true, y_pred, weight))

    return {"values": {reduction: value(reduction) for reduction in REDUCTIONS}, "gradient": attempt(slope)}


def record_metric(name: str, y_true: np.ndarray, y_pred: np.ndarray, weight: Any) -> dict[str, Any]:
    """Return the result of one update."""
    metric = getattr(keras.metrics, name)(**OPTIONS.get(name, {}))
    single = "TopK" in name  # TensorFlow's in_top_k takes nothing else

    def result() -> Any:
        metric.update_state(y_true, y_pred.astype("float32") if single else y_pred, weight)
        return metric.result()

    return {"options": OPTIONS.get(name, {}), "result": attempt(result)}


def record_shapes() -> dict[str, Any]:
    """Record every loss and metric with predictions and weights of every shape."""
    keras.config.set_floatx("float64")
    cases = {}
    for kind, names, record in (("losses", LOSSES, record_loss), ("metrics", METRICS, record_metric)):
        for name in names:
            for shape in SHAPES:
                if name in CLASSES and shape[-1] != C:
                    continue
                y_true, y_pred = batch(name, shape)
                found = [
                    {"weight": weights(weight)} | record(name, y_true, y_pred, weights(weight))
                    for weight in WEIGHTS if fits(weight, shape)
                ]  # fmt: skip
                cases[f"{kind}-{name}-{shape}"] = {
                    "kind": kind, "name": name, "y_true": y_true, "y_pred": y_pred, "found": found,
                }  # fmt: skip
    return cases
