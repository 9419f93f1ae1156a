"""Hinge losses: targets are -1 and 1; where all of them are 0 or 1, 0 stands for -1."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmask.batch.tokens import same_shape
from fastmask.losses.base import Loss, share

Array = NDArray[Any]


class Hinge(Loss):
    """Mean of ``max(1 - y p, 0)`` over the last axis."""

    identifier = "hinge"

    def per_token(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return the mean of every token and its gradient."""
        target = _signs(same_shape(y_true, y_pred))
        margin = np.maximum(1 - target * y_pred, 0)
        return np.mean(margin, axis=-1), np.where(margin > 0, -target, 0) * share(y_pred, 1.0)


class SquaredHinge(Loss):
    """Mean of ``max(1 - y p, 0) ** 2`` over the last axis."""

    identifier = "squared_hinge"

    def per_token(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return the mean of every token and its gradient."""
        target = _signs(same_shape(y_true, y_pred))
        margin = np.maximum(1 - target * y_pred, 0)
        return np.mean(margin * margin, axis=-1), -target * margin * share(y_pred, 2.0)


class CategoricalHinge(Loss):
    """``max(1 + max((1 - y) p) - sum(y p), 0)`` with one-hot targets."""

    identifier = "categorical_hinge"
    vectors = True

    def per_token(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return the value of every token and its gradient; of equal rivals the first counts."""
        target = same_shape(y_true, y_pred)
        rivals = (1 - target) * y_pred
        best = np.argmax(rivals, axis=-1)[..., None]
        margin = np.take_along_axis(rivals, best, -1)[..., 0] - np.sum(target * y_pred, axis=-1) + 1
        gradient = -target
        own = np.take_along_axis(gradient, best, -1) + 1 + np.take_along_axis(gradient, best, -1)
        np.put_along_axis(gradient, best, own, -1)
        return np.maximum(margin, 0), np.where(margin[..., None] > 0, gradient, 0)


def _signs(target: Array) -> Array:
    binary = np.isin(target, (0, 1)).all()
    return 2 * target - 1 if binary else target
