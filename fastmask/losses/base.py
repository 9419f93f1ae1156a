"""The base of all losses: weights, mask, reduction."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmask.tokens import expand_weights, floats

Array = NDArray[Any]

REDUCTIONS = ("sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", "none")


class Loss:
    """Base of all losses; a loss of your own overrides `per_token`.

    Parameters
    ----------
    reduction : str, default "sum_over_batch_size"
        How the values of the tokens become one number. With l the values, w the sample weights
        and m the mask: "sum_over_batch_size" and "mean" are ``sum(l w m) / sum(m)``, "sum" is
        ``sum(l w m)``, "mean_with_sample_weight" is ``sum(l w m) / sum(w m)``, and "none" keeps
        the array ``l w m``.
    name : str, optional
        Defaults to the name that `get` knows the loss by.

    Raises
    ------
    ValueError
        If `reduction` is none of these.
    """

    identifier = "loss"

    def __init__(self, *, reduction: str = "sum_over_batch_size", name: str | None = None) -> None:
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {REDUCTIONS}, got {reduction!r}")
        self.reduction = reduction
        self.name = name or self.identifier

    def per_token(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return the loss of every token and its gradient.

        Parameters
        ----------
        y_true : ndarray
            Targets; the last axis may be missing where the loss says so.
        y_pred : ndarray of float, shape (..., C)
            Predictions.

        Returns
        -------
        values : ndarray, shape (...)
            Loss of each token.
        gradient : ndarray, shape (..., C)
            Derivative of each token's loss by that token's predictions.
        """
        raise NotImplementedError(f"{type(self).__name__} must override per_token")

    def ignored(self, y_true: Array, y_pred: Array) -> Array | None:
        """Return a bool array of the tokens that the targets ask to leave out, or None."""
        return None

    def __call__(
        self,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> Any:
        """Return the loss as a float, or as an array when the reduction is "none".

        Parameters
        ----------
        y_true, y_pred : array_like
            As in `per_token`.
        sample_weight : array_like, optional
            One weight per token, or one per row, which then holds for all tokens of the row.
        mask : array_like of bool, optional
            True where a token counts. What stands elsewhere does not matter, NaN included.
        """
        values, _, factor, divisor = self._parts(y_true, y_pred, sample_weight, mask)
        if self.reduction == "none":
            return values * factor
        return _ratio(values * factor, divisor)

    def value_and_gradient(
        self,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> tuple[float, Array]:
        """Return the loss and its gradient with respect to `y_pred`.

        Parameters are those of `__call__`. With reduction "none" the value is the sum.

        Returns
        -------
        value : float
        gradient : ndarray, shape and dtype of `y_pred`
        """
        values, gradient, factor, divisor = self._parts(y_true, y_pred, sample_weight, mask)
        scale = np.asarray(factor / divisor if divisor else 0.0 * factor, dtype=gradient.dtype)
        return _ratio(values * factor, divisor), gradient * scale[..., None]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"name": self.name, "reduction": self.reduction}

    def _parts(
        self,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None,
        mask: ArrayLike | None,
    ) -> tuple[Array, Array, Array, float]:
        """Return values and gradient per token, the factor of each token and the divisor."""
        prediction, target = floats(y_pred), np.asarray(y_true)
        shape = prediction.shape[:-1]
        factor = np.ones(shape, prediction.dtype)
        if sample_weight is not None:
            factor = factor * expand_weights(sample_weight, shape, prediction.dtype)
        keep = _keep(mask, self.ignored(target, prediction), shape)
        if keep is None or target.shape[: len(shape)] != shape:
            values, gradient = self.per_token(target, prediction)
            return values, gradient, factor, self._divisor(factor, values.size)
        values, gradient = np.zeros(shape, prediction.dtype), np.zeros_like(prediction)
        values[keep], gradient[keep] = self.per_token(target[keep], prediction[keep])
        factor = np.where(keep, factor, 0)
        return values, gradient, factor, self._divisor(factor, int(np.count_nonzero(keep)))

    def _divisor(self, factor: Array, valid: int) -> float:
        if self.reduction in ("sum", "none"):
            return 1.0
        if self.reduction == "mean_with_sample_weight":
            return float(factor.sum(dtype=np.float64))
        return float(valid)


def _keep(mask: ArrayLike | None, ignored: Array | None, shape: tuple[int, ...]) -> Array | None:
    """Return where a token counts, or None when all do."""
    keep = None if mask is None else expand_weights(mask, shape, np.bool_, "mask")
    if ignored is None:
        return keep
    return ~ignored if keep is None else keep & ~ignored


def _ratio(weighted: Array, divisor: float) -> float:
    return float(weighted.sum(dtype=np.float64)) / divisor if divisor else 0.0
