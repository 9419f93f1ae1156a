"""The base of all metrics: what counts, and how values add up."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmask.batch.tokens import as_columns, entry_weights, expand_weights, floats

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
    vectors : bool
        Whether 1-D predictions are the outputs of a single token, False unless a subclass says so;
        otherwise they are one output for each row, and `per_token` gets them as (B, 1).
    options : tuple of str
        Further arguments of the constructor, which `get_config` reads from the attributes of their names.
    """

    identifier = "metric"
    direction: str | None = None
    vectors = False
    options: ClassVar[tuple[str, ...]] = ()

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
        ndarray, shape (...) or (..., C)
            One value per token, or one per output, which sample weights of outputs can weigh.
        """
        raise NotImplementedError(f"{type(self).__name__} must override per_token")

    def ignored(self, y_true: Array, y_pred: Array) -> Array | None:
        """Return a bool array of the tokens that the targets ask to leave out, or None."""
        return None

    def update_tokens(self, y_true: Array, y_pred: Array, weights: Array | None = None) -> None:
        """Add a batch given by its valid tokens.

        Parameters
        ----------
        y_true : ndarray, shape (N, ...)
        y_pred : ndarray, shape (N, C) or (N,)
        weights : ndarray, shape (N,), or (N, C) where the outputs have weights of their own, optional
            Tokens that weigh 0 are not read.
        """
        y_true, y_pred = self._by_row(y_true, y_pred)
        keep = None
        if weights is not None:
            keep = weights != 0 if weights.ndim < y_pred.ndim else np.any(weights != 0, axis=-1)
        ignored = self.ignored(y_true, y_pred)
        if ignored is not None:
            keep = ~ignored if keep is None else keep & ~ignored
        if keep is not None and not keep.all() and y_true.shape[: keep.ndim] == keep.shape:
            y_true, y_pred = y_true[keep], y_pred[keep]
            weights = None if weights is None else weights[keep]
        self.add_tokens(y_true, y_pred, weights)

    def add_tokens(self, y_true: Array, y_pred: Array, weights: Array | None) -> None:
        """Add tokens that count to the sums; arguments are those of `update_tokens`."""
        values = self.per_token(y_true, y_pred)
        if weights is None:
            self.count += values.size
        else:
            if weights.ndim > values.ndim:
                raise ValueError(
                    f"sample_weight, mask: expected one entry per token for the metric {self.name!r}, "
                    f"got one for each of {y_pred.shape[-1]} outputs"
                )
            weights = weights if weights.ndim == values.ndim else weights[..., None]
            weights = np.broadcast_to(weights, values.shape)
            values = np.where(weights == 0, 0, values) * weights
            self.count += float(np.sum(weights, dtype=np.float64))
        self.total += float(np.sum(values, dtype=np.float64))

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
        y_pred : array_like, shape (B, ..., C) or (B,)
        sample_weight : array_like, optional
            One weight per token or per row, or one per output for the metrics that look at each
            output by itself, such as `BinaryAccuracy` and `AUC`. What weighs 0 is not read.
        mask : array_like of bool, optional
            True where a token, or an output, counts.

        Raises
        ------
        ValueError
            If shapes do not fit.
        """
        target, prediction = self._by_row(np.asarray(y_true), floats(y_pred))
        self.update_tokens(target, prediction, entry_weights(sample_weight, mask, prediction))

    def _by_row(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return 1-D predictions as (B, 1) unless they are one token."""
        if y_pred.ndim == 1 and (y_true.ndim == 2 or (y_true.ndim == 1 and not self.vectors)):
            return as_columns(y_true, y_pred)
        return y_true, y_pred

    def result(self) -> Any:
        """Return the mean so far, 0 before the first token."""
        return self.total / self.count if self.count else 0.0

    def reset_state(self) -> None:
        """Forget all updates."""
        self.total = self.count = 0.0

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"name": self.name, "dtype": self.dtype} | {name: getattr(self, name) for name in self.options}

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
        self.total += float(np.sum(np.where(weights == 0, 0, array) * weights))
        self.count += float(np.sum(weights))


class MeanMetricWrapper(Metric):
    """Mean of the values of a function.

    Parameters
    ----------
    fn : callable
        Takes `y_true` and `y_pred` of the valid tokens and returns one value per token or per
        output, or (values, gradient) as the function of a loss does.
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
        """Return the function's values; ValueError if they are not one per token or per output."""
        found = self.function(y_true, y_pred, **self.arguments)
        values = np.asarray(found[0] if isinstance(found, tuple) else found)
        if values.shape not in (y_pred.shape[:-1], y_pred.shape):
            raise ValueError(
                f"metric {self.name!r}: expected one value per token, that is shape "
                f"{y_pred.shape[:-1]}, or one per output, got {values.shape}"
            )
        return values
