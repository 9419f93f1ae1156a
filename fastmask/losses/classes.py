"""The losses themselves: value and gradient of each token; eps is ``fastmask.config.epsilon()``."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmask.config import epsilon
from fastmask.losses.base import Loss
from fastmask.tokens import class_labels, class_numbers, same_shape

Array = NDArray[Any]


class MeanSquaredError(Loss):
    """Mean of the squared differences over the last axis."""

    identifier = "mean_squared_error"

    def per_token(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return ``mean((y_pred - y_true) ** 2)`` of every token and its gradient."""
        difference = y_pred - same_shape(y_true, y_pred)
        values = np.mean(difference * difference, axis=-1)
        return values, difference * _share(y_pred, 2.0)


class MeanAbsoluteError(Loss):
    """Mean of the absolute differences over the last axis."""

    identifier = "mean_absolute_error"

    def per_token(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return ``mean(abs(y_pred - y_true))`` of every token and its gradient."""
        difference = y_pred - same_shape(y_true, y_pred)
        return np.mean(np.abs(difference), axis=-1), np.sign(difference) * _share(y_pred, 1.0)


class _Smoothed(Loss):
    """A cross-entropy whose targets may be smoothed."""

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        *,
        reduction: str = "sum_over_batch_size",
        name: str | None = None,
    ) -> None:
        if not 0.0 <= label_smoothing <= 1.0:
            raise ValueError(f"label_smoothing must be between 0 and 1, got {label_smoothing}")
        super().__init__(reduction=reduction, name=name)
        self.from_logits = from_logits
        self.label_smoothing = label_smoothing

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {"from_logits": self.from_logits, "label_smoothing": self.label_smoothing}
        return super().get_config() | own


class BinaryCrossentropy(_Smoothed):
    """Cross-entropy of independent yes/no outputs, averaged over the last axis.

    Parameters
    ----------
    from_logits : bool, default False
        Whether predictions are scores before the sigmoid. Otherwise they are probabilities and
        are clipped to [eps, 1 - eps], with zero gradient outside.
    label_smoothing : float, default 0.0
        s in [0, 1]: targets become ``y (1 - s) + s / 2``.
    reduction, name
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
        return np.mean(values, axis=-1), gradient * _share(y_pred, 1.0)


class CategoricalCrossentropy(_Smoothed):
    """Cross-entropy of one choice among C classes, targets one-hot or probabilities.

    Parameters
    ----------
    from_logits : bool, default False
        Whether predictions are scores before the softmax. Otherwise they are divided by their
        sum and clipped to [eps, 1 - eps], with zero gradient outside.
    label_smoothing : float, default 0.0
        s in [0, 1]: targets become ``y (1 - s) + s / C``.
    reduction, name
        As in `Loss`.
    """

    identifier = "categorical_crossentropy"

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
    reduction, name
        As in `Loss`.
    """

    identifier = "sparse_categorical_crossentropy"

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        *,
        reduction: str = "sum_over_batch_size",
        name: str | None = None,
    ) -> None:
        super().__init__(reduction=reduction, name=name)
        self.from_logits = from_logits
        self.ignore_class = ignore_class

    def per_token(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return the cross-entropy of every token and its gradient."""
        classes = y_pred.shape[-1]
        label = class_numbers(y_true, y_pred)
        if label.size and not (label.min() >= 0 and label.max() < classes):
            wrong = label.min() if label.min() < 0 else label.max()
            raise ValueError(f"y must hold classes from 0 to {classes - 1}, got class {wrong}")
        at = label[..., None]
        if self.from_logits:
            log_p = _log_softmax(y_pred)
            gradient = np.exp(log_p)
            np.put_along_axis(gradient, at, np.take_along_axis(gradient, at, -1) - 1, -1)
            return -np.take_along_axis(log_p, at, -1)[..., 0], gradient
        total = np.sum(y_pred, axis=-1, keepdims=True)
        q = np.take_along_axis(y_pred, at, -1) / total
        clipped = _clip(q)
        gradient = np.repeat(np.where(clipped == q, 1 / total, 0), classes, axis=-1)
        own = np.where(clipped == q, (1 - 1 / clipped) / total, 0)
        np.put_along_axis(gradient, at, own, -1)
        return -np.log(clipped)[..., 0], gradient

    def ignored(self, y_true: Array, y_pred: Array) -> Array | None:
        """Return where the target is `ignore_class`."""
        if self.ignore_class is None:
            return None
        return np.asarray(class_labels(y_true, y_pred) == self.ignore_class)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {"from_logits": self.from_logits, "ignore_class": self.ignore_class}
        return super().get_config() | own


def _clip(probability: Array) -> Array:
    return np.clip(probability, epsilon(), 1 - epsilon())


def _log_softmax(x: Array) -> Array:
    shifted = x - np.max(x, axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True)))


def _share(y_pred: Array, factor: float) -> Array:
    """Return `factor` over the number of outputs, in the dtype of the predictions."""
    return np.asarray(factor / max(y_pred.shape[-1], 1), dtype=y_pred.dtype)
