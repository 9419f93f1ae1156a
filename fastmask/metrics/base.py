"""Metrics, averaged as Keras 3 does: masked tokens count in none of them.

Each update adds, with v the values, w the sample weights and m the mask of a (B, T) batch,
``sum(v w m) / T`` to the total and ``sum(w m) / T`` to the count; the result is their ratio.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmask import losses
from fastmask.tokens import class_numbers, expand_weights, floats, same_shape

Array = NDArray[Any]


class Metric:
    """Base of all metrics; a metric of your own overrides `per_token`.

    Parameters
    ----------
    name : str, optional
        Key in the logs; defaults to the name that `get` knows the metric by.
    """

    identifier = "metric"

    def __init__(self, name: str | None = None) -> None:
        self.name = name or self.identifier
        self.total = 0.0
        self.count = 0.0

    def per_token(self, y_true: Array, y_pred: Array) -> Array:
        """Return the value of every token.

        Parameters
        ----------
        y_true : ndarray
            Targets; the last axis may be missing where the metric says so.
        y_pred : ndarray of float, shape (..., C)

        Returns
        -------
        ndarray, shape (...)
        """
        raise NotImplementedError(f"{type(self).__name__} must override per_token")

    def update_tokens(
        self, y_true: Array, y_pred: Array, weights: Array | None = None, steps: int = 1
    ) -> None:
        """Add a batch given by its valid tokens.

        Parameters
        ----------
        y_true : ndarray, shape (N, ...)
        y_pred : ndarray, shape (N, C)
        weights : ndarray, shape (N,), optional
        steps : int, default 1
            Number of time steps of the padded batch.
        """
        values = self.per_token(y_true, y_pred)
        if weights is None:
            self.count += values.size / steps
        else:
            values = values * weights
            self.count += float(np.sum(weights, dtype=np.float64)) / steps
        self.total += float(np.sum(values, dtype=np.float64)) / steps

    def update_state(
        self,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> None:
        """Add a padded batch.

        Parameters
        ----------
        y_true : array_like, shape (B, ...)
        y_pred : array_like, shape (B, ..., C)
        sample_weight : array_like, optional
            One weight per token or per row.
        mask : array_like of bool, optional
            True where a token counts.
        """
        target, prediction = np.asarray(y_true), floats(y_pred)
        shape = prediction.shape[:-1]
        steps = max(int(np.prod(shape[1:])), 1)
        weights = None
        if sample_weight is not None:
            weights = expand_weights(sample_weight, shape, prediction.dtype)
        if mask is not None:
            keep = expand_weights(mask, shape, np.bool_, "mask")
            target, prediction = target[keep], prediction[keep]
            weights = None if weights is None else weights[keep]
        self.update_tokens(target, prediction, weights, steps)

    def result(self) -> float:
        """Return the mean so far, 0 before the first token."""
        return self.total / self.count if self.count else 0.0

    def reset_state(self) -> None:
        """Forget all updates."""
        self.total = self.count = 0.0

    def __call__(
        self,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> float:
        """Add a padded batch and return the mean so far."""
        self.update_state(y_true, y_pred, sample_weight, mask)
        return self.result()


class Mean(Metric):
    """Mean of numbers, each with a weight.

    Parameters
    ----------
    name : str, optional
    """

    identifier = "mean"

    def add(self, value: float, weight: float = 1.0) -> None:
        """Add a number."""
        self.total += value * weight
        self.count += weight


class BinaryAccuracy(Metric):
    """Share of yes/no outputs on the right side of the threshold.

    Parameters
    ----------
    threshold : float, default 0.5
        An output above it is a yes.
    name : str, optional
    """

    identifier = "binary_accuracy"

    def __init__(self, threshold: float = 0.5, name: str | None = None) -> None:
        super().__init__(name)
        self.threshold = threshold

    def per_token(self, y_true: Array, y_pred: Array) -> Array:
        """Return the share of right outputs of every token."""
        hits = same_shape(y_true, y_pred) == (y_pred > self.threshold)
        return np.asarray(np.mean(hits, axis=-1))


class CategoricalAccuracy(Metric):
    """Share of tokens whose largest output is that of the one-hot target."""

    identifier = "categorical_accuracy"

    def per_token(self, y_true: Array, y_pred: Array) -> Array:
        """Return 1.0 for every token that is right and 0.0 for the others."""
        target = np.argmax(same_shape(y_true, y_pred), axis=-1)
        return np.asarray(target == np.argmax(y_pred, axis=-1), dtype=np.float64)


class SparseCategoricalAccuracy(Metric):
    """Share of tokens whose largest output is that of the target class."""

    identifier = "sparse_categorical_accuracy"

    def per_token(self, y_true: Array, y_pred: Array) -> Array:
        """Return 1.0 for every token that is right and 0.0 for the others."""
        target = class_numbers(y_true, y_pred)
        return np.asarray(target == np.argmax(y_pred, axis=-1), dtype=np.float64)


class Accuracy(Metric):
    """The accuracy that fits the shapes, as the name "accuracy" has it in Keras.

    One output per token: `BinaryAccuracy`. Targets with one class number per token:
    `SparseCategoricalAccuracy`. Otherwise `CategoricalAccuracy`.
    """

    identifier = "accuracy"

    def per_token(self, y_true: Array, y_pred: Array) -> Array:
        """Return the accuracy of every token."""
        if y_pred.shape[-1] == 1:
            return BinaryAccuracy().per_token(y_true, y_pred)
        if y_true.ndim < y_pred.ndim or y_true.shape[-1] == 1:
            return SparseCategoricalAccuracy().per_token(y_true, y_pred)
        return CategoricalAccuracy().per_token(y_true, y_pred)


class MeanOf(Metric):
    """Mean of the values of a function.

    Parameters
    ----------
    function : callable
        Takes `y_true` and `y_pred` of the valid tokens and returns one value per token.
    name : str, optional
        Defaults to the name of the function.
    """

    def __init__(self, function: Callable[[Array, Array], Any], name: str | None = None) -> None:
        super().__init__(name or getattr(function, "__name__", "mean"))
        self.function = function

    def per_token(self, y_true: Array, y_pred: Array) -> Array:
        """Return the function's values."""
        return np.asarray(self.function(y_true, y_pred))


class MeanSquaredError(MeanOf):
    """Mean of the squared differences."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(losses.mean_squared_error, name)


class MeanAbsoluteError(MeanOf):
    """Mean of the absolute differences."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(losses.mean_absolute_error, name)


_CLASSES: tuple[type[Metric], ...] = (
    Accuracy,
    BinaryAccuracy,
    CategoricalAccuracy,
    SparseCategoricalAccuracy,
)
_FUNCTIONS = (
    losses.mean_squared_error,
    losses.mean_absolute_error,
    losses.binary_crossentropy,
    losses.categorical_crossentropy,
    losses.sparse_categorical_crossentropy,
)
_ALIASES = {"acc": "accuracy"} | losses.ALIASES


def get(identifier: str | Metric | type[Metric] | Callable[..., Any]) -> Metric:
    """Return the metric that a name, a class, a function or an instance stands for.

    Parameters
    ----------
    identifier : str, Metric, type or callable
        A name becomes the metric's key in the logs as it stands. A function takes `y_true` and
        `y_pred` and returns one value per token.

    Raises
    ------
    ValueError
        If a name is unknown; the message lists the legal ones.
    TypeError
        If `identifier` is something else.
    """
    if isinstance(identifier, Metric):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Metric):
        return identifier()
    if isinstance(identifier, str):
        return _named(identifier)
    if callable(identifier):
        return MeanOf(identifier)
    raise TypeError(f"metrics must hold names, metrics or functions, got {identifier!r}")


def _named(name: str) -> Metric:
    wanted = _ALIASES.get(name.lower(), name.lower())
    for cls in _CLASSES:
        if wanted in (cls.identifier, cls.__name__.lower()):
            return cls(name=name)
    for function in _FUNCTIONS:
        if wanted == function.__name__:
            return MeanOf(function, name)
    legal = [cls.identifier for cls in _CLASSES] + [f.__name__ for f in _FUNCTIONS]
    raise ValueError(
        f"metrics must be among {', '.join(sorted([*legal, *_ALIASES]))}, got {name!r}"
    )
