"""Shares of right predictions."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmask.batch.tokens import class_numbers, floats, same_shape
from fastmask.losses.classes import kind_of_targets
from fastmask.metrics.base import Metric

Array = NDArray[Any]


class Accuracy(Metric):
    """The accuracy that fits the shapes, as the name "accuracy" has it in Keras's `compile`.

    One output per token, or predictions (B,): `BinaryAccuracy`. Targets with one class number per token:
    `SparseCategoricalAccuracy`. Otherwise `CategoricalAccuracy`.
    """

    identifier = "accuracy"
    direction = "up"

    def per_token(self, y_true: Array, y_pred: Array) -> Array:
        """Return the accuracy of every token."""
        kind = kind_of_targets(y_true, y_pred)
        if kind == "binary":
            return binary_accuracy(y_true, y_pred)
        if kind == "classes":
            return sparse_categorical_accuracy(y_true, y_pred)
        return categorical_accuracy(y_true, y_pred)


class BinaryAccuracy(Metric):
    """Share of yes/no outputs on the right side of the threshold.

    Parameters
    ----------
    name : str, default "binary_accuracy"
    dtype : optional
        As in `Metric`.
    threshold : float, default 0.5
        An output above it is a yes.
    """

    identifier = "binary_accuracy"
    direction = "up"
    options = ("threshold",)

    def __init__(self, name: str | None = None, dtype: Any = None, threshold: float = 0.5) -> None:
        super().__init__(name, dtype)
        self.threshold = threshold

    def per_token(self, y_true: Array, y_pred: Array) -> Array:
        """Return 1.0 for every output that is right and 0.0 for the others."""
        return binary_accuracy(y_true, y_pred, self.threshold)


class CategoricalAccuracy(Metric):
    """Share of tokens whose largest output is that of the one-hot target."""

    identifier = "categorical_accuracy"
    direction = "up"
    vectors = True

    def per_token(self, y_true: Array, y_pred: Array) -> Array:
        """Return 1.0 for every token that is right and 0.0 for the others."""
        return categorical_accuracy(y_true, y_pred)


class SparseCategoricalAccuracy(Metric):
    """Share of tokens whose largest output is that of the target class."""

    identifier = "sparse_categorical_accuracy"
    direction = "up"
    vectors = True

    def per_token(self, y_true: Array, y_pred: Array) -> Array:
        """Return 1.0 for every token that is right and 0.0 for the others."""
        return sparse_categorical_accuracy(y_true, y_pred)


class TopKCategoricalAccuracy(Metric):
    """Share of tokens whose one-hot target is among the `k` largest outputs.

    Parameters
    ----------
    k : int, default 5
    name : str, default "top_k_categorical_accuracy"
    dtype : optional
        As in `Metric`.
    """

    identifier = "top_k_categorical_accuracy"
    direction = "up"
    vectors = True
    options = ("k",)

    def __init__(self, k: int = 5, name: str | None = None, dtype: Any = None) -> None:
        super().__init__(name, dtype)
        self.k = k

    def per_token(self, y_true: Array, y_pred: Array) -> Array:
        """Return 1.0 for every token that is right and 0.0 for the others."""
        return top_k_categorical_accuracy(y_true, y_pred, self.k)


class SparseTopKCategoricalAccuracy(TopKCategoricalAccuracy):
    """Share of tokens whose target class is among the `k` largest outputs.

    Parameters
    ----------
    k : int, default 5
    name : str, default "sparse_top_k_categorical_accuracy"
    dtype : optional
        As in `Metric`.
    """

    identifier = "sparse_top_k_categorical_accuracy"

    def per_token(self, y_true: Array, y_pred: Array) -> Array:
        """Return 1.0 for every token that is right and 0.0 for the others."""
        return sparse_top_k_categorical_accuracy(y_true, y_pred, self.k)


def binary_accuracy(y_true: ArrayLike, y_pred: ArrayLike, threshold: float = 0.5) -> Array:
    """Return 1.0 for every output on the right side of the threshold, else 0.0."""
    prediction = floats(y_pred)
    return _number(same_shape(np.asarray(y_true), prediction) == (prediction > threshold))


def categorical_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """Return 1.0 for every token whose largest output is that of the one-hot target, else 0.0."""
    prediction = floats(y_pred)
    target = np.argmax(same_shape(np.asarray(y_true), prediction), axis=-1)
    return _number(target == np.argmax(prediction, axis=-1))


def sparse_categorical_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """Return 1.0 for every token whose largest output is that of the target class, else 0.0."""
    prediction = floats(y_pred)
    return _number(_classes(y_true, prediction) == np.argmax(prediction, axis=-1))


def top_k_categorical_accuracy(y_true: ArrayLike, y_pred: ArrayLike, k: int = 5) -> Array:
    """Return 1.0 for every token whose one-hot target is among the `k` largest outputs, else 0.0."""
    prediction = floats(y_pred)
    target = np.argmax(same_shape(np.asarray(y_true), prediction), axis=-1)
    return _among_largest(target, prediction, k)


def sparse_top_k_categorical_accuracy(y_true: ArrayLike, y_pred: ArrayLike, k: int = 5) -> Array:
    """Return 1.0 for every token whose target class is among the `k` largest outputs, else 0.0."""
    prediction = floats(y_pred)
    return _among_largest(_classes(y_true, prediction), prediction, k)


def _classes(y_true: ArrayLike, y_pred: Array) -> Array:
    """Return the class number of every token; a missing one, NaN, is -1, which no output is of."""
    labels = np.asarray(y_true)
    if labels.dtype.kind == "f":
        labels = np.where(np.isnan(labels), -1, labels)
    return class_numbers(labels, y_pred)


def _among_largest(label: Array, prediction: Array, k: int) -> Array:
    """Say which labels have fewer than `k` outputs above theirs; no output of a class, no hit."""
    exists = (label >= 0) & (label < prediction.shape[-1])
    own = np.take_along_axis(prediction, np.where(exists, label, 0)[..., None], -1)
    hits = exists & (np.sum(prediction > own, axis=-1) < k) & np.isfinite(own[..., 0])
    return _number(hits)


def _number(hits: Array) -> Array:
    return np.asarray(hits, dtype=np.float64)
