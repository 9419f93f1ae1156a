"""Losses of probabilities: cross-entropies, divergence, Poisson; eps is ``fastmask.config.epsilon()``."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmask import ops
from fastmask.batch.tokens import class_labels, class_numbers, same_shape
from fastmask.config import epsilon
from fastmask.losses.base import Loss, share

Array = NDArray[Any]


class _Smoothed(Loss):
    """A cross-entropy whose targets may be smoothed."""

    options = ("from_logits", "label_smoothing", "axis")

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        if not 0.0 <= label_smoothing <= 1.0:
            raise ValueError(f"label_smoothing: expected a number between 0 and 1, got {label_smoothing}")
        super().__init__(reduction, name, dtype)
        self.from_logits = from_logits
        self.label_smoothing = label_smoothing
        self.axis = axis


class BinaryCrossentropy(_Smoothed):
    """Cross-entropy of independent yes/no outputs, averaged over the last axis.

    Parameters
    ----------
    from_logits : bool, default False
        Whether predictions are scores before the sigmoid. Otherwise they are probabilities and
        are clipped to [eps, 1 - eps], with zero gradient outside.
    label_smoothing : float, default 0.0
        s in [0, 1]: targets become ``y (1 - s) + s / 2``.
    axis, reduction, name, dtype
        As in `Loss`.
    """

    identifier = "binary_crossentropy"

    def per_token(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return the mean cross-entropy of every token and its gradient."""
        target = same_shape(y_true, y_pred)
        if self.label_smoothing:
            target = target * (1 - self.label_smoothing) + self.label_smoothing / 2
        if self.from_logits:
            decay = np.exp(-np.abs(y_pred))
            values = np.maximum(y_pred, 0) - y_pred * target + np.log1p(decay)
            sigmoid = np.where(y_pred >= 0, 1, decay) / (1 + decay)
            gradient = sigmoid - target
        else:
            p = _clip(y_pred)
            values = -(target * np.log(p) + (1 - target) * np.log1p(-p))
            gradient = np.where(p == y_pred, (p - target) / (p * (1 - p)), 0)
        return np.mean(values, axis=-1), gradient * share(y_pred, 1.0)


class CategoricalCrossentropy(_Smoothed):
    """Cross-entropy of one choice among C classes, targets one-hot or probabilities.

    Parameters
    ----------
    from_logits : bool, default False
        Whether predictions are scores before the softmax. Otherwise they are divided by their
        sum and clipped to [eps, 1 - eps], with zero gradient outside.
    label_smoothing : float, default 0.0
        s in [0, 1]: targets become ``y (1 - s) + s / C``.
    axis, reduction, name, dtype
        As in `Loss`.
    """

    identifier = "categorical_crossentropy"
    vectors = True

    def per_token(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return the cross-entropy of every token and its gradient."""
        target = same_shape(y_true, y_pred)
        if self.label_smoothing:
            target = target * (1 - self.label_smoothing) + self.label_smoothing / y_pred.shape[-1]
        if self.from_logits:
            log_p = _log_softmax(y_pred)
            values = -np.sum(target * log_p, axis=-1)
            return values, np.exp(log_p) * np.sum(target, axis=-1, keepdims=True) - target
        total = np.sum(y_pred, axis=-1, keepdims=True)
        q = y_pred / total
        clipped = _clip(q)
        slope = np.where(clipped == q, -target / clipped, 0)
        gradient = (slope - np.sum(slope * q, axis=-1, keepdims=True)) / total
        return -np.sum(target * np.log(clipped), axis=-1), gradient


class SparseCategoricalCrossentropy(Loss):
    """Cross-entropy of one choice among C classes, targets the class numbers.

    Parameters
    ----------
    from_logits : bool, default False
        As in `CategoricalCrossentropy`.
    ignore_class : int, optional
        Tokens with this class number count neither in the sum nor in the divisor.
    axis, reduction, name, dtype
        As in `Loss`.
    """

    identifier = "sparse_categorical_crossentropy"
    vectors = True
    options = ("from_logits", "ignore_class", "axis")

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        axis: int = -1,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(reduction, name, dtype)
        self.from_logits = from_logits
        self.ignore_class = ignore_class
        self.axis = axis

    def per_token(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return the cross-entropy of every token and its gradient."""
        return self.scaled(y_true, y_pred, np.ones(y_pred.shape[:-1], y_pred.dtype))

    def scaled(self, y_true: Array, y_pred: Array, scale: Array) -> tuple[Array, Array]:
        """Return the cross-entropy of every token, and its gradient times the token's `scale`."""
        shape, classes = y_pred.shape, y_pred.shape[-1]
        label = class_numbers(y_true, y_pred).reshape(-1)
        if label.size and not (label.min() >= 0 and label.max() < classes):
            wrong = label.min() if label.min() < 0 else label.max()
            raise ValueError(f"y: expected classes from 0 to {classes - 1}, got class {wrong}")
        rows = y_pred.reshape(label.size, classes)
        values, gradient = ops.sparse_crossentropy(rows, label, scale.reshape(-1), self.from_logits, epsilon())
        return values.reshape(shape[:-1]), gradient.reshape(shape)

    def ignored(self, y_true: Array, y_pred: Array) -> Array | None:
        """Return where the target is `ignore_class`."""
        if self.ignore_class is None:
            return None
        return np.asarray(class_labels(y_true, y_pred) == self.ignore_class)


class KLDivergence(Loss):
    """Kullback-Leibler divergence ``sum(y log(y / p))`` of probabilities, both clipped to [eps, 1]."""

    identifier = "kl_divergence"
    vectors = True

    def per_token(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return the divergence of every token and its gradient, which is 0 where p was clipped."""
        target = np.clip(same_shape(y_true, y_pred), epsilon(), 1)
        p = np.clip(y_pred, epsilon(), 1)
        gradient = np.where(p == y_pred, -target / p, 0)
        return np.sum(target * np.log(target / p), axis=-1), gradient


class Poisson(Loss):
    """Mean of ``p - y log(p + eps)`` over the last axis: counts y, predicted rates p."""

    identifier = "poisson"

    def per_token(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return the mean loss of every token and its gradient."""
        target = same_shape(y_true, y_pred)
        rate = y_pred + y_pred.dtype.type(epsilon())
        values = np.mean(y_pred - target * np.log(rate), axis=-1)
        return values, (1 - target / rate) * share(y_pred, 1.0)


class Crossentropy(Loss):
    """The cross-entropy that fits the shapes, as the name "crossentropy" has it in Keras.

    One output per token, or predictions (B,): `BinaryCrossentropy`. Targets with one class number per token:
    `SparseCategoricalCrossentropy`. Otherwise `CategoricalCrossentropy`.
    """

    identifier = "crossentropy"

    def per_token(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return the cross-entropy of every token and its gradient."""
        kinds: dict[str, type[Loss]] = {
            "binary": BinaryCrossentropy,
            "classes": SparseCategoricalCrossentropy,
            "one_hot": CategoricalCrossentropy,
        }
        return kinds[kind_of_targets(y_true, y_pred)]().per_token(y_true, y_pred)


def kind_of_targets(y_true: Array, y_pred: Array) -> str:
    """Return "binary", "classes" or "one_hot", judged by the shapes of targets and predictions."""
    if y_pred.shape[-1] == 1:
        return "binary"
    if y_true.ndim < y_pred.ndim or y_true.shape[-1] == 1:
        return "classes"
    return "binary" if y_pred.ndim == 1 else "one_hot"


def _clip(probability: Array) -> Array:
    least = epsilon()
    return np.clip(probability, least, 1 - least)


def _log_softmax(x: Array) -> Array:
    shifted = x - np.max(x, axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True)))
