"""Metrics over several batches: unweighted, weighted, masked and both, in float64."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from specs import make_named

from .common import generator
from .losses import CLASSES, LOGITS

SHAPES = ((4, 3), (2, 3), (3, 3))  # Keras weighs each batch by 1 / T
WAYS = ("plain", "weighted", "masked", "both")

METRICS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("BinaryAccuracy", {}, "bits"),
    ("BinaryAccuracy", {"threshold": 0.25}, "bits"),
    ("CategoricalAccuracy", {}, "one_hot"),
    ("SparseCategoricalAccuracy", {}, "classes"),
    ("SparseCategoricalAccuracy", {}, "class_column"),
    ("TopKCategoricalAccuracy", {"k": 2}, "one_hot"),
    ("SparseTopKCategoricalAccuracy", {"k": 2}, "classes"),
    ("MeanSquaredError", {}, "real"),
    ("RootMeanSquaredError", {}, "real"),
    ("MeanAbsoluteError", {}, "real"),
    ("MeanAbsolutePercentageError", {}, "real"),
    ("MeanSquaredLogarithmicError", {}, "counts"),
    ("CosineSimilarity", {}, "real"),
    ("LogCoshError", {}, "real"),
    ("Hinge", {}, "signs"),
    ("SquaredHinge", {}, "signs"),
    ("CategoricalHinge", {}, "one_hot"),
    ("KLDivergence", {}, "distribution"),
    ("Poisson", {}, "counts"),
    ("BinaryCrossentropy", {}, "bits"),
    ("BinaryCrossentropy", LOGITS | {"label_smoothing": 0.25}, "bit_logits"),
    ("CategoricalCrossentropy", {"label_smoothing": 0.25}, "one_hot"),
    ("SparseCategoricalCrossentropy", {}, "classes"),
    ("SparseCategoricalCrossentropy", LOGITS, "class_logits"),
    ("TruePositives", {}, "bits"),
    ("FalsePositives", {"thresholds": [0.25, 0.75]}, "bits"),
    ("TrueNegatives", {"thresholds": 0.4}, "bits"),
    ("FalseNegatives", {"thresholds": [0.0, 0.5, 1.0]}, "bits"),
    ("Precision", {}, "bits"),
    ("Precision", {"thresholds": [0.2, 0.5, 0.9]}, "bits"),
    ("Precision", {"top_k": 2}, "one_hot"),
    ("Precision", {"class_id": 1}, "one_hot"),
    ("Recall", {}, "bits"),
    ("Recall", {"top_k": 1, "class_id": 0}, "one_hot"),
    ("Recall", {"thresholds": [0.2, 0.5, 0.9]}, "bits"),
    *(("AUC", {"curve": curve, "summation_method": method, "num_thresholds": 11}, "bits")
      for curve in ("ROC", "PR", "PRGAIN") for method in ("interpolation", "minoring", "majoring")),
    ("AUC", {}, "bit"),
    ("AUC", {"thresholds": [0.3, 0.4, 0.8]}, "bits"),
    ("AUC", {"from_logits": True}, "bit_logits"),
    ("AUC", {"num_thresholds": 2}, "bit_logits"),
    ("AUC", {"num_thresholds": 11}, "bit_logits"),
    ("AUC", {"thresholds": []}, "bit_logits"),
    ("AUC", {"thresholds": [1.0, 0.0, 0.6]}, "bit_logits"),
    ("AUC", {"multi_label": True, "curve": "PR"}, "flat_bits"),
    ("AUC", {"multi_label": True, "label_weights": [1.0, 0.5, 2.0], "num_thresholds": 20}, "flat_bits"),
)  # fmt: skip


def batch(kind: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (y_true, y_pred) of one batch."""
    random = generator("metrics", kind, index)
    shape = (*SHAPES[index], 1 if kind == "bit" else CLASSES)
    rates, scores = random.uniform(0.0, 1.0, shape), random.standard_normal(shape)
    classes = random.integers(0, CLASSES, shape[:2])
    if kind in ("bits", "bit", "flat_bits"):
        bits = random.integers(0, 2, shape).astype(float)
        rates = rates.round(1) if index == 1 else rates
        return (bits[:, 0], rates[:, 0]) if kind == "flat_bits" else (bits, rates)
    simplex = rates / rates.sum(-1, keepdims=True)
    other = random.uniform(0.0, 1.0, shape)
    return {
        "bit_logits": (random.integers(0, 2, shape).astype(float), scores),
        "one_hot": (np.eye(CLASSES)[classes], simplex),
        "classes": (classes, simplex),
        "class_column": (classes[..., None], simplex),
        "class_logits": (classes, scores),
        "real": (random.standard_normal(shape), scores),
        "counts": (random.poisson(2.0, shape).astype(float), 3 * rates + 0.1),
        "signs": (random.choice([-1.0, 1.0], shape), scores),
        "distribution": (other / other.sum(-1, keepdims=True), simplex),
    }[kind]


def update(metric: Any, y_true: np.ndarray, y_pred: np.ndarray, weight: Any, mask: Any) -> None:
    """Update a metric; those that do not look at the mask get weights of 0 instead."""
    from keras.src.backend import set_keras_mask
    from keras.src.metrics import MeanMetricWrapper

    single = "TopK" in type(metric).__name__  # TensorFlow's in_top_k takes nothing else
    prediction = keras.ops.convert_to_tensor(y_pred.astype("float32") if single else y_pred)
    if mask is not None and isinstance(metric, MeanMetricWrapper):
        set_keras_mask(prediction, keras.ops.convert_to_tensor(mask))
    elif mask is not None:
        weight = mask.astype(float) if weight is None else weight * mask
    metric.update_state(y_true, prediction, None if weight is None else keras.ops.convert_to_tensor(weight))


def case(name: str, config: dict[str, Any], kind: str) -> dict[str, Any]:
    """Record the result after every batch, in every way."""
    batches = [batch(kind, index) for index in range(len(SHAPES))]
    shapes = [y_pred.shape[:-1] for _, y_pred in batches]
    weights = [generator("metric weights", shape).uniform(0.0, 2.0, shape) for shape in shapes]
    masks = [generator("metric masks", shape).uniform(size=shape) < 0.6 for shape in shapes]
    results: dict[str, list[Any]] = {}
    for way in WAYS:
        metric = make_named(keras.metrics, [name, config | {"name": "own"}])
        results[way] = []
        for (y_true, y_pred), weight, mask in zip(batches, weights, masks, strict=True):
            weighted, masked = way in ("weighted", "both"), way in ("masked", "both")
            update(metric, y_true, y_pred, weight if weighted else None, mask if masked else None)
            results[way].append(np.asarray(keras.ops.convert_to_numpy(metric.result()), float))
    recorded = make_named(keras.metrics, [name, config]).get_config()
    return {
        "metric": [name, config],
        "batches": [list(one) for one in batches],
        "weights": weights,
        "masks": masks,
        "results": results,
        "config": {key: value for key, value in recorded.items() if key not in ("dtype", "label_weights")},
    }


def record_metrics() -> dict[str, Any]:
    """Record every metric."""
    keras.config.set_floatx("float64")
    cases = {}
    for name, config, kind in METRICS:
        keras.utils.clear_session()
        label = "-".join([name, *(f"{key}={value}" for key, value in config.items()), kind])
        cases[label] = case(name, config, kind)
    return cases
