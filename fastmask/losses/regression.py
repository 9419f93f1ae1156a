"""Losses of real numbers; eps is ``fastmask.config.epsilon()``."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmask.batch.tokens import same_shape
from fastmask.config import epsilon
from fastmask.losses.base import Loss, share

Array = NDArray[Any]


class MeanSquaredError(Loss):
    """Mean of the squared differences over the last axis."""

    identifier = "mean_squared_error"

    def per_token(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return ``mean((y_pred - y_true) ** 2)`` of every token and its gradient."""
        difference = y_pred - same_shape(y_true, y_pred)
        values = np.mean(difference * difference, axis=-1)
        return values, difference * share(y_pred, 2.0)


class MeanAbsoluteError(Loss):
    """Mean of the absolute differences over the last axis."""

    identifier = "mean_absolute_error"

    def per_token(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return ``mean(abs(y_pred - y_true))`` of every token and its gradient."""
        difference = y_pred - same_shape(y_true, y_pred)
        return np.mean(np.abs(difference), axis=-1), np.sign(difference) * share(y_pred, 1.0)


class MeanAbsolutePercentageError(Loss):
    """Mean of ``100 abs(p - y) / max(abs(y), eps)`` over the last axis."""

    identifier = "mean_absolute_percentage_error"

    def per_token(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return the mean percentage of every token and its gradient."""
        target = same_shape(y_true, y_pred)
        size = np.maximum(np.abs(target), epsilon())
        difference = y_pred - target
        gradient = np.sign(difference) / size * share(y_pred, 100.0)
        return 100 * np.mean(np.abs(difference) / size, axis=-1), gradient


class MeanSquaredLogarithmicError(Loss):
    """Mean of the squared differences of ``log(max(x, eps) + 1)`` over the last axis."""

    identifier = "mean_squared_logarithmic_error"

    def per_token(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return the mean of every token and its gradient, which is 0 below eps."""
        target = np.maximum(same_shape(y_true, y_pred), epsilon())
        floored = np.maximum(y_pred, epsilon())
        difference = np.log(floored + 1) - np.log(target + 1)
        slope = np.where(floored == y_pred, difference / (floored + 1), 0)
        return np.mean(difference * difference, axis=-1), slope * share(y_pred, 2.0)


class Huber(Loss):
    """Mean over the last axis of ``d**2 / 2`` for small and ``delta (|d| - delta / 2)`` for large d.

    Parameters
    ----------
    delta : float, default 1.0
        Where the parabola goes over into a line.
    reduction, name, dtype
        As in `Loss`.
    """

    identifier = "huber"
    options = ("delta",)

    def __init__(
        self,
        delta: float = 1.0,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "huber_loss",
        dtype: Any = None,
    ) -> None:
        if not delta > 0:
            raise ValueError(f"delta: expected a number greater than 0, got {delta!r}")
        super().__init__(reduction, name, dtype)
        self.delta = delta

    def per_token(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return the mean of every token and its gradient."""
        difference = y_pred - same_shape(y_true, y_pred)
        limited = np.clip(difference, -self.delta, self.delta)
        values = np.mean(limited * (difference - limited / 2), axis=-1)
        return values, limited * share(y_pred, 1.0)


class LogCosh(Loss):
    """Mean of ``log(cosh(p - y))`` over the last axis."""

    identifier = "log_cosh"

    def per_token(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return the mean of every token and its gradient."""
        difference = y_pred - same_shape(y_true, y_pred)
        size = np.abs(difference)
        values = np.mean(size + np.log1p(np.exp(-2 * size)) - size.dtype.type(np.log(2)), axis=-1)
        return values, np.tanh(difference) * share(y_pred, 1.0)


class CosineSimilarity(Loss):
    """Minus the cosine of the angle between target and prediction.

    Parameters
    ----------
    axis, reduction, name, dtype
        As in `Loss`.
    """

    identifier = "cosine_similarity"
    vectors = True
    options = ("axis",)

    def __init__(
        self,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(reduction, name, dtype)
        self.axis = axis

    def per_token(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return the value of every token and its gradient; vectors shorter than eps count as of length eps."""
        target, _, _ = _direction(same_shape(y_true, y_pred))
        direction, inverse, short = _direction(y_pred)
        cosine = np.sum(target * direction, axis=-1, keepdims=True)
        turn = np.where(short, 0, cosine * direction)
        return -cosine[..., 0], (turn - target) * inverse


def _direction(vector: Array) -> tuple[Array, Array, Array]:
    """Return vectors scaled to length 1, the scale, and where the scale was limited to 1 / eps."""
    length = np.sqrt(np.sum(vector * vector, axis=-1, keepdims=True))
    short = length < epsilon()
    inverse = 1 / np.maximum(length, vector.dtype.type(epsilon()))
    return vector * inverse, inverse, short
