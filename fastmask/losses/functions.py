"""Losses as functions: the value of every token."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmask.losses.base import Loss
from fastmask.losses.classes import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    KLDivergence,
    Poisson,
    SparseCategoricalCrossentropy,
)
from fastmask.losses.margins import CategoricalHinge, Hinge, SquaredHinge
from fastmask.losses.regression import (
    CosineSimilarity,
    Huber,
    LogCosh,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
)

Array = NDArray[Any]


def mean_squared_error(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """Return the squared error of every token, averaged over the last axis."""
    return _values(MeanSquaredError("none"), y_true, y_pred)


def mean_absolute_error(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """Return the absolute error of every token, averaged over the last axis."""
    return _values(MeanAbsoluteError("none"), y_true, y_pred)


def mean_absolute_percentage_error(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """Return the absolute error of every token in percent of the target, averaged over the last axis."""
    return _values(MeanAbsolutePercentageError("none"), y_true, y_pred)


def mean_squared_logarithmic_error(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """Return the squared error of the logarithms of every token, averaged over the last axis."""
    return _values(MeanSquaredLogarithmicError("none"), y_true, y_pred)


def huber(y_true: ArrayLike, y_pred: ArrayLike, delta: float = 1.0) -> Array:
    """Return the Huber loss of every token, averaged over the last axis."""
    return _values(Huber(delta, "none"), y_true, y_pred)


def log_cosh(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """Return the logarithm of the hyperbolic cosine of the error, averaged over the last axis."""
    return _values(LogCosh("none"), y_true, y_pred)


def cosine_similarity(y_true: ArrayLike, y_pred: ArrayLike, axis: int = -1) -> Array:
    """Return minus the cosine between target and prediction of every token."""
    return _values(CosineSimilarity(axis, "none"), y_true, y_pred)


def hinge(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """Return the hinge loss of every token, averaged over the last axis."""
    return _values(Hinge("none"), y_true, y_pred)


def squared_hinge(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """Return the squared hinge loss of every token, averaged over the last axis."""
    return _values(SquaredHinge("none"), y_true, y_pred)


def categorical_hinge(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """Return the hinge loss of every token between the true class and its best rival."""
    return _values(CategoricalHinge("none"), y_true, y_pred)


def kl_divergence(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """Return the Kullback-Leibler divergence of every token."""
    return _values(KLDivergence("none"), y_true, y_pred)


def poisson(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """Return the Poisson loss of every token, averaged over the last axis."""
    return _values(Poisson("none"), y_true, y_pred)


def binary_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Array:
    """Return the binary cross-entropy of every token, averaged over `axis`."""
    return _values(BinaryCrossentropy(from_logits, label_smoothing, axis, "none"), y_true, y_pred)


def categorical_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Array:
    """Return the cross-entropy of every token; targets are one-hot or probabilities."""
    return _values(CategoricalCrossentropy(from_logits, label_smoothing, axis, "none"), y_true, y_pred)


def sparse_categorical_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    from_logits: bool = False,
    ignore_class: int | None = None,
    axis: int = -1,
) -> Array:
    """Return the cross-entropy of every token, 0 where ignored; targets are class numbers."""
    loss = SparseCategoricalCrossentropy(from_logits, ignore_class, "none", axis)
    return _values(loss, y_true, y_pred)


def _values(loss: Loss, y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    return np.asarray(loss(y_true, y_pred))


FUNCTIONS = {
    function.__name__: function
    for function in (
        mean_squared_error,
        mean_absolute_error,
        mean_absolute_percentage_error,
        mean_squared_logarithmic_error,
        huber,
        log_cosh,
        cosine_similarity,
        hinge,
        squared_hinge,
        categorical_hinge,
        kl_divergence,
        poisson,
        binary_crossentropy,
        categorical_crossentropy,
        sparse_categorical_crossentropy,
    )
}
