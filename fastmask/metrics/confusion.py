"""Counts of true and false positives and negatives, and what is made of them."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmask.batch.tokens import same_shape
from fastmask.layers.base.arguments import auto_name
from fastmask.metrics.base import Metric

Array = NDArray[Any]
_BELOW_ALL = -1e10


class Confusion(Metric):
    """Base of the metrics that count outputs above thresholds.

    Parameters
    ----------
    thresholds : sequence of float
        An output above one is a yes. NaN is above none.
    name : str, optional
        Made from the class name when left out, unlike other such names.
    dtype : optional
        As in `Metric`.
    even : bool, optional
        Whether the thresholds are to be taken for evenly spaced ones from 0 to 1; they tell when left out.

    Attributes
    ----------
    true_positives, false_positives, true_negatives, false_negatives : ndarray, shape (thresholds, labels)
        Sums of weights; one column unless labels are counted apart.
    """

    direction = "up"
    vectors = True
    per_label = False

    def __init__(
        self, thresholds: Sequence[float], name: str | None, dtype: Any, even: bool | None = None
    ) -> None:
        self.thresholds = list(thresholds)
        self.even = evenly_spaced(self.thresholds) if even is None else even
        super().__init__(name or auto_name(type(self).__name__), dtype)

    def reset_state(self) -> None:
        """Forget all updates."""
        self.positives = self.negatives = np.zeros((1, 1))
        self.true_positives = self.false_positives = np.zeros((len(self.thresholds), 1))

    @property
    def true_negatives(self) -> Array:
        """Weights of the outputs that are rightly no, for each threshold."""
        return np.asarray(self.negatives - self.false_positives)

    @property
    def false_negatives(self) -> Array:
        """Weights of the outputs that are wrongly no, for each threshold."""
        return np.asarray(self.positives - self.true_positives)

    def select(self, y_true: Array, y_pred: Array, weights: Array) -> tuple[Array, Array, Array]:
        """Return the targets, predictions and weights of the outputs that count."""
        return y_true, y_pred, weights

    def add_tokens(self, y_true: Array, y_pred: Array, weights: Array | None) -> None:
        """Add the outputs of tokens to the sums, each with the weight of its token or its own."""
        weight = np.ones(()) if weights is None else np.asarray(weights, np.float64)
        if 0 < weight.ndim < y_pred.ndim:
            weight = weight[..., None]
        entries = self.select(same_shape(y_true, y_pred), y_pred, np.broadcast_to(weight, y_pred.shape))
        labels = y_pred.shape[-1] if self.per_label else 1
        target, prediction, weight = (array.reshape(-1, labels) for array in entries)
        yes = target.astype(bool)
        bucket = bucket_of(np.where(weight == 0, 0, prediction), self.thresholds, self.even)
        self.true_positives = self.true_positives + self._above(bucket, weight * yes)
        self.false_positives = self.false_positives + self._above(bucket, weight * ~yes)
        self.positives = self.positives + np.sum(weight * yes, axis=0)
        self.negatives = self.negatives + np.sum(weight * ~yes, axis=0)

    def _above(self, bucket: Array, weight: Array) -> Array:
        """Return, for each threshold and column, the weight of the outputs above it."""
        bins, columns = len(self.thresholds) + 1, bucket.shape[1]
        slot = (bucket + 1) * columns + np.arange(columns)
        sums = np.bincount(slot.ravel(), weight.ravel(), bins * columns).reshape(bins, columns)
        return np.asarray(np.cumsum(sums[::-1], axis=0)[-2::-1])


class _Count(Confusion):
    """Base of the four counts, each that of the attribute `counted`."""

    counted: ClassVar[str]

    def __init__(
        self,
        thresholds: float | Sequence[float] | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        self.given = thresholds
        super().__init__(_thresholds(thresholds, 0.5), name, dtype)

    def result(self) -> Any:
        """Return the sum of weights: a float, or an array for several thresholds."""
        return _one_or_all(getattr(self, self.counted)[:, 0])

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return super().get_config() | {"thresholds": self.given}


class TruePositives(_Count):
    """Weight of the outputs that are rightly above the threshold (0.5 by default)."""

    counted = "true_positives"


class FalsePositives(_Count):
    """Weight of the outputs that are wrongly above the threshold (0.5 by default)."""

    direction = "down"
    counted = "false_positives"


class TrueNegatives(_Count):
    """Weight of the outputs that are rightly not above the threshold (0.5 by default)."""

    counted = "true_negatives"


class FalseNegatives(_Count):
    """Weight of the outputs that are wrongly not above the threshold (0.5 by default)."""

    direction = "down"
    counted = "false_negatives"


class Precision(Confusion):
    """Share of right ones among the outputs above the threshold.

    Parameters
    ----------
    thresholds : float or sequence of float, optional
        In [0, 1]; 0.5 by default, or none at all with `top_k`.
    top_k : int, optional
        Only the `top_k` largest outputs of a token can be a yes.
    class_id : int, optional
        The only output to look at.
    name, dtype
        As in `Confusion`.
    """

    def __init__(
        self,
        thresholds: float | Sequence[float] | None = None,
        top_k: int | None = None,
        class_id: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        self.given = thresholds
        self.top_k = top_k
        self.class_id = class_id
        super().__init__(_thresholds(thresholds, 0.5 if top_k is None else _BELOW_ALL), name, dtype)

    def select(self, y_true: Array, y_pred: Array, weights: Array) -> tuple[Array, Array, Array]:
        """Return the outputs that count, those below the `top_k` largest as a sure no."""
        if self.top_k is not None:
            best = np.argsort(-y_pred, axis=-1, kind="stable")[..., : self.top_k]
            kept = np.zeros(y_pred.shape, bool)
            np.put_along_axis(kept, best, True, -1)
            y_pred = np.where(kept, y_pred, y_pred.dtype.type(_BELOW_ALL))
        if self.class_id is None:
            return y_true, y_pred, weights
        if y_pred.ndim == 1:
            raise ValueError(f"y_pred: expected an axis of classes for class_id, got shape {y_pred.shape}")
        own = [self.class_id]
        return y_true[..., own], y_pred[..., own], weights[..., own]

    def result(self) -> Any:
        """Return the share, 0 of nothing: a float, or an array for several thresholds."""
        return _one_or_all(ratio(self.true_positives, self.true_positives + self.false_positives)[:, 0])

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {"thresholds": self.given, "top_k": self.top_k, "class_id": self.class_id}
        return super().get_config() | own


class Recall(Precision):
    """Share of the true outputs that are above the threshold; parameters as in `Precision`."""

    def result(self) -> Any:
        """Return the share, 0 of nothing: a float, or an array for several thresholds."""
        positives = np.broadcast_to(self.positives, self.true_positives.shape)
        return _one_or_all(ratio(self.true_positives, positives)[:, 0])


def evenly_spaced(thresholds: Sequence[float]) -> bool:
    """Return whether there are at least three thresholds, evenly spaced from 0 to 1."""
    count = len(thresholds)
    even = np.arange(count, dtype=np.float32) / max(count - 1, 1)
    return count >= 3 and np.allclose(thresholds, even, atol=1e-6)


def bucket_of(prediction: Array, thresholds: Sequence[float], even: bool) -> Array:
    """Return the number of the last threshold that each prediction is above, -1 if none.

    Evenly spaced thresholds from 0 to 1 are found by rounding up, as Keras does, which decides
    for predictions that equal one to the last bit, and takes those out of range for 0 and 1.
    """
    if even:
        within = np.fmin(np.fmax(prediction, 0), 1)
        bucket = np.ceil(within * prediction.dtype.type(len(thresholds) - 1)) - 1
        return np.asarray(np.maximum(bucket, 0 if thresholds[0] < 0 else -1), np.int64)
    limits = np.asarray(thresholds, prediction.dtype)
    return np.asarray(np.searchsorted(limits, np.fmax(prediction, -np.inf), side="left") - 1)


def _thresholds(given: ArrayLike | None, default: float) -> list[float]:
    if given is None:
        return [default]
    values = [float(value) for value in np.atleast_1d(np.asarray(given))]
    if not all(0 <= value <= 1 for value in values) or values != sorted(values):
        raise ValueError(f"thresholds: expected numbers between 0 and 1, in ascending order, got {given!r}")
    return values


def ratio(part: Array, whole: Array) -> Array:
    """Return the quotient, 0 where `whole` is 0."""
    return np.asarray(np.divide(part, whole, out=np.zeros(part.shape), where=whole != 0))


def _one_or_all(values: Array) -> Any:
    return float(values[0]) if len(values) == 1 else values
