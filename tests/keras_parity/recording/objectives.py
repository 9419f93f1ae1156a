"""Loss and metrics of compiled models: masks, weights, shapes of targets, batches of unequal size, in float64."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from specs import make_layers, make_named

from .common import MASKS, STEPS, generator, normal, set_random_weights
from .stacks import LAST, MASKING, dense, series

MASK = np.concatenate([MASKS["holes"], MASKS["empty"][:3]])
BATCH = len(MASK)
LOGITS = {"from_logits": True}


def target(kind: str, *shape: int) -> np.ndarray:
    """Return random targets: real numbers, bits, classes 0..2, or one-hot rows over the last axis."""
    random = generator("target", kind, shape)
    if kind == "real":
        return random.standard_normal(shape)
    if kind == "bits":
        return random.integers(0, 2, shape).astype(float)
    if kind == "classes":
        return random.integers(0, 3, shape)
    return np.eye(shape[-1])[random.integers(0, shape[-1], shape[:-1])]


# label: (last layer, loss, kind of target, its shape after the batch axis, metrics)
TIMED = {
    "mse": (dense(2), "mse", "real", (STEPS, 2), ["mae", "accuracy"]),
    "mae": (dense(2), "mae", "real", (STEPS, 2), ["mse"]),
    "binary": (dense(1, "sigmoid"), "binary_crossentropy", "bits", (STEPS, 1), ["accuracy", "binary_accuracy"]),
    "multi_label": (dense(3, "sigmoid"), "binary_crossentropy", "bits", (STEPS, 3), ["accuracy", "binary_accuracy"]),
    "binary_logits": (dense(3), ["BinaryCrossentropy", LOGITS], "bits", (STEPS, 3), []),
    "one_hot": (dense(3, "softmax"), "categorical_crossentropy", "one_hot", (STEPS, 3), ["accuracy", "mae"]),
    "one_hot_logits": (dense(3), ["CategoricalCrossentropy", LOGITS], "one_hot", (STEPS, 3), ["categorical_accuracy"]),
    "classes": (dense(3, "softmax"), "sparse_categorical_crossentropy", "classes", (STEPS,), ["accuracy"]),
    "class_column": (dense(3, "softmax"), "sparse_categorical_crossentropy", "classes", (STEPS, 1), ["accuracy"]),
    "class_logits": (
        dense(3), ["SparseCategoricalCrossentropy", LOGITS], "classes", (STEPS,), ["sparse_categorical_accuracy"],
    ),
    "sum": (dense(2), ["MeanSquaredError", {"reduction": "sum"}], "real", (STEPS, 2), []),
    "weight_mean": (dense(2), ["MeanSquaredError", {"reduction": "mean_with_sample_weight"}], "real", (STEPS, 2), []),
    "huber": (dense(2), ["Huber", {"delta": 0.5}], "real", (STEPS, 2), ["cosine_similarity", "mape"]),
    "hinge": (dense(2), "hinge", "bits", (STEPS, 2), ["squared_hinge"]),
    "poisson": (dense(2, "softplus"), "poisson", "bits", (STEPS, 2), ["msle"]),
    "divergence": (dense(3, "softmax"), "kl_divergence", "one_hot", (STEPS, 3), ["categorical_hinge"]),
    "cosine": (dense(3), "cosine_similarity", "real", (STEPS, 3), ["mae"]),
    "ignored": (
        dense(3, "softmax"), ["SparseCategoricalCrossentropy", {"ignore_class": 1}], "classes", (STEPS,), ["acc"],
    ),
    "threshold": (
        dense(1, "sigmoid"), "bce", "bits", (STEPS, 1), [["BinaryAccuracy", {"threshold": 0.25, "name": "quarter"}]],
    ),
}  # fmt: skip
# Keras squeezes the prediction (B, T, 1) to (B, T) here and averages over time, which fails under a mask.
FLAT = {
    "mse_flat_target": (dense(1), "mse", "real", (STEPS,), ["mae"]),
    "binary_flat_target": (dense(1, "sigmoid"), "binary_crossentropy", "bits", (STEPS,), ["acc"]),
}
FINAL = {
    "mse": (dense(2), "mse", "real", (2,), ["mae", "accuracy"]),
    "mse_flat_target": (dense(1), "mse", "real", (), ["mae"]),
    "binary": (dense(1, "sigmoid"), "binary_crossentropy", "bits", (1,), ["accuracy"]),
    "binary_flat_target": (dense(1, "sigmoid"), "binary_crossentropy", "bits", (), ["accuracy"]),
    "one_hot": (dense(3, "softmax"), "categorical_crossentropy", "one_hot", (3,), ["accuracy"]),
    "classes": (dense(3, "softmax"), "sparse_categorical_crossentropy", "classes", (), ["accuracy"]),
    "class_column": (dense(3, "softmax"), "sparse_categorical_crossentropy", "classes", (1,), ["accuracy"]),
}
FRONTS = {"masked": [MASKING], "unmasked": [], "last": [MASKING, ["LSTM", LAST]]}


def made(metrics: list[Any]) -> list[Any]:
    """Build the metrics that are more than a name."""
    return [make_named(keras.metrics, metric) for metric in metrics]


def case(front: str, row: tuple[Any, ...], x: np.ndarray, weight: np.ndarray | None) -> dict[str, Any]:
    """Record evaluate (batches of 3), test_on_batch and one SGD step of learning rate 1 (that is, the gradient)."""
    last, loss, kind, shape, metrics = row
    specs = [*FRONTS[front], last]
    model = keras.Sequential(make_layers(keras.layers, specs, "float64"))
    model.build((None, *x.shape[1:]))
    weights = set_random_weights(model, "objective")
    model.compile(
        keras.optimizers.SGD(1.0), make_named(keras.losses, loss), metrics=made(metrics),
        weighted_metrics=None if weight is None else made(metrics), run_eagerly=True,
    )  # fmt: skip
    y = target(kind, len(x), *shape)
    arguments = {"sample_weight": weight, "return_dict": True}
    return {
        "layers": specs,
        "weights": weights,
        "loss": loss,
        "metrics": metrics,
        "inputs": x,
        "targets": y,
        "sample_weight": weight,
        "evaluate": model.evaluate(x, y, batch_size=3, verbose=0, **arguments),
        "test_on_batch": model.test_on_batch(x, y, **arguments),
        "train_on_batch": model.train_on_batch(x, y, **arguments),
        "trained_weights": model.get_weights(),
    }


def record_objectives() -> dict[str, Any]:
    """Record time series targets with and without mask, one target a row, weights, and a batch that is all padding."""
    keras.config.set_floatx("float64")
    keras.utils.set_random_seed(0)
    masked, full = series(MASK), normal(*MASK.shape, 2)
    step_weight = generator("weight").uniform(0.0, 2.0, MASK.shape)
    row_weight = generator("weight").uniform(0.0, 2.0, BATCH)
    cases = {}
    for label, row in TIMED.items():
        cases[f"masked-{label}"] = case("masked", row, masked, None)
        cases[f"masked-{label}-step_weight"] = case("masked", row, masked, step_weight)
    for label in ("mse", "binary", "one_hot", "classes"):
        row = TIMED[label]
        cases[f"masked-{label}-column_weight"] = case("masked", row, masked, row_weight[:, None])
        cases[f"masked-{label}-all_padding"] = case("masked", row, np.zeros_like(masked), None)
        cases[f"unmasked-{label}"] = case("unmasked", row, full, None)
        cases[f"unmasked-{label}-step_weight"] = case("unmasked", row, full, step_weight)
    for label, row in FLAT.items():
        cases[f"unmasked-{label}"] = case("unmasked", row, full, None)
    for label, row in FINAL.items():
        cases[f"last-{label}"] = case("last", row, masked, None)
        cases[f"last-{label}-row_weight"] = case("last", row, masked, row_weight)
    return cases
