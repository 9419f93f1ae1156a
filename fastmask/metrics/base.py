"""The base of all metrics: what counts, and how values add up."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmask.tokens import expand_weights, floats

Array = NDArray[Any]


class Metric:
    """Base of all metrics; a metric of your own overrides `per_token`.

    Parameters
    ----------
    name : str, optional
        Key in the logs; defaults to the name that `get` knows the metric by.
    dtype : optional
        Accepted for Keras's sake; sums are kept in float64.

    Attributes
    ----------
    direction : {"up", "down"} or None
        Which way is better; callbacks ask for it.
    """

    identifier = "metric"
    direction: str | None = None

    def __init__(self, name: str | None = None, dtype: Any = None) -> None:
        self.name = name or self.identifier
        self.dtype = dtype
        self.reset_state()

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

    def ignored(self, y_true: Array, y_pred: Array) -> Array | None:
        """Return a bool array of the tokens that the targets ask to leave out, or None."""
        return None

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
        ignored = self.ignored(y_true, y_pred)
        if ignored is not None and ignored.any():
            keep = ~ignored
            y_true, y_pred = y_true[keep], y_pred[keep]
            weights = None if weights is None else weights[keep]
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

    def result(self) -> Any:
        """Return the mean so far, 0 before the first token."""
        return self.total / self.count if self.count else 0.0

    def reset_state(self) -> None:
        """Forget all updates."""
        self.total = self.count = 0.0

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"name": self.name, "dtype": self.dtype}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Metric":
        """Return a metric with the arguments that `get_config` returned."""
        return cls(**config)

    def __call__(
        self,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> Any:
        """Add a padded batch and return the result so far."""
        self.update_state(y_true, y_pred, sample_weight, mask)
        return self.result()


class Mean(Metric):
    """Mean of numbers, each with a weight.

    Parameters
    ----------
    name : str, default "mean"
    dtype : optional
        As in `Metric`.
    """

    identifier = "mean"
    direction = "down"

    def add(self, value: float, weight: float = 1.0) -> None:
        """Add a number."""
        self.total += value * weight
        self.count += weight

    def update_state(  # type: ignore[override]
        self, values: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> None:
        """Add numbers.

        Parameters
        ----------
        values : array_like
        sample_weight : array_like, optional
            One weight per number, or one per row.
        """
        array = np.asarray(values, np.float64)
        weights = np.ones(array.shape)
        if sample_weight is not None:
            weights = expand_weights(sample_weight, array.shape, np.float64)
        steps = max(int(np.prod(array.shape[1:])), 1)
        self.total += float(np.sum(array * weights)) / steps
        self.count += float(np.sum(weights)) / steps


class MeanMetricWrapper(Metric):
    """Mean of the values of a function.

    Parameters
    ----------
    fn : callable
        Takes `y_true` and `y_pred` of the valid tokens and returns one value per token, or
        (values, gradient) as the function of a loss does.
    name : str, optional
        Defaults to the name of the function.
    dtype : optional
        As in `Metric`.
    **kwargs
        Further arguments of the function.
    """

    def __init__(
        self, fn: Callable[..., Any], name: str | None = None, dtype: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(name or getattr(fn, "__name__", "mean"), dtype)
        self.function = fn
        self.arguments = kwargs

    def per_token(self, y_true: Array, y_pred: Array) -> Array:
        """Return the function's values; ValueError if they are not one per token."""
        found = self.function(y_true, y_pred, **self.arguments)
        values = np.asarray(found[0] if isinstance(found, tuple) else found)
        if values.shape != y_pred.shape[:-1]:
            raise ValueError(
                f"metric {self.name!r} must return one value per token, that is shape "
                f"{y_pred.shape[:-1]}, got {values.shape}"
            )
        return values
