"""The base of all losses: weights, mask, reduction."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmask.batch.tokens import as_columns, expand_weights, floats
from fastmask.core.arguments import choice

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
        None is "none".
    name : str, optional
        Defaults to the name that `get` knows the loss by.
    dtype : {"float32", "float64"}, optional
        Of the computation; by default that of the predictions.

    Attributes
    ----------
    axis : int
        Axis of the predictions that holds the outputs of one token, -1 unless a subclass takes it
        as an argument. Losses of sequences in a model need -1, because time is packed away there.
    vectors : bool
        Whether 1-D predictions are always the outputs of one token, False unless a subclass says so;
        otherwise they become (B, 1), one output for each row, where rows have weights or a mask.
    options : tuple of str
        Further arguments of the constructor, which `get_config` reads from the attributes of their names.

    Raises
    ------
    ValueError
        If `reduction` is none of these, or `dtype` no such type.
    """

    identifier = "loss"
    vectors = False
    options: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, reduction: str | None = "sum_over_batch_size", name: str | None = None, dtype: Any = None
    ) -> None:
        choice("reduction", reduction, (*REDUCTIONS, None))
        if dtype is not None and np.dtype(dtype) not in (np.float32, np.float64):
            raise ValueError(f"dtype: expected 'float32' or 'float64', got {dtype!r}")
        self.reduction = "none" if reduction is None else reduction
        self.name = name or self.identifier
        self.dtype = None if dtype is None else np.dtype(dtype)
        self.axis = -1

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

    def scaled(self, y_true: Array, y_pred: Array, scale: Array) -> tuple[Array, Array]:
        """Return what `per_token` returns, with the gradient of each token times its `scale`."""
        values, gradient = self.per_token(y_true, y_pred)
        return values, gradient * scale[..., None]

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
            True where a token counts.

        Notes
        -----
        Targets and predictions of tokens that weigh 0 or do not count are not read: NaN may stand
        there, or the number of no class.
        """
        target, prediction, keep, factor, divisor = self._parts(y_true, floats(y_pred), sample_weight, mask)
        values = _spread(self.per_token, keep, target, prediction)[0]
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
        given = floats(y_pred)
        target, prediction, keep, factor, divisor = self._parts(y_true, given, sample_weight, mask)
        scale = np.asarray(factor / divisor if divisor else 0.0 * factor, dtype=prediction.dtype)
        values, gradient = _spread(self.scaled, keep, target, prediction, scale)
        if given.ndim == 1:
            gradient = gradient.reshape(-1)
        if self.axis != -1:
            gradient = np.moveaxis(gradient, -1, self.axis)
        return _ratio(values * factor, divisor), gradient.astype(given.dtype, copy=False)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {name: getattr(self, name) for name in self.options}
        return {"name": self.name, "reduction": self.reduction} | own

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Loss":
        """Return a loss with the arguments that `get_config` returned."""
        return cls(**config)

    def require_packed_axis(self) -> None:
        """Raise ValueError if the loss cannot work on packed sequences because of its `axis`."""
        if self.axis != -1:
            raise ValueError(
                f"axis: expected -1 for a loss of sequences, whose time axis is packed away, got {self.axis}"
            )

    def _parts(
        self,
        y_true: ArrayLike,
        y_pred: Array,
        sample_weight: ArrayLike | None,
        mask: ArrayLike | None,
    ) -> tuple[Array, Array, Array | None, Array, float]:
        """Return targets, predictions, the tokens to read (None: all), the factor of each and the divisor."""
        prediction, target = self._last(y_true, y_pred)
        given = [entries for entries in (sample_weight, mask) if entries is not None]
        if prediction.ndim == 1:
            by_row = not self.vectors and any(np.shape(entries) not in ((), (1,)) for entries in given)
            if target.ndim == 2 or (target.ndim == 1 and by_row):
                target, prediction = as_columns(target, prediction)
        shape = prediction.shape[:-1]
        factor = np.ones(shape, prediction.dtype)
        if sample_weight is not None:
            factor = factor * expand_weights(sample_weight, shape, prediction.dtype)
        keep = _keep(mask, self.ignored(target, prediction), shape)
        if target.shape[: len(shape)] != shape:
            return target, prediction, None, factor, self._divisor(factor, factor.size)
        valid = factor.size if keep is None else int(np.count_nonzero(keep))
        factor = factor if keep is None else np.where(keep, factor, 0)
        read = factor != 0
        return target, prediction, None if read.all() else read, factor, self._divisor(factor, valid)

    def _last(self, y_true: ArrayLike, y_pred: Array) -> tuple[Array, Array]:
        """Return predictions and targets with the axis of the outputs at the end."""
        target = np.asarray(y_true)
        prediction = y_pred if self.dtype is None else y_pred.astype(self.dtype, copy=False)
        axis = self._axis(prediction.ndim)
        if axis == prediction.ndim - 1:
            return prediction, target
        if target.ndim == prediction.ndim:
            target = np.moveaxis(target, axis, -1)
        return np.moveaxis(prediction, axis, -1), target

    def _axis(self, rank: int) -> int:
        if not -rank <= self.axis < rank:
            raise ValueError(f"axis: expected an axis of y_pred, which has {rank}, got {self.axis}")
        return self.axis % rank

    def _divisor(self, factor: Array, valid: int) -> float:
        if self.reduction in ("sum", "none"):
            return 1.0
        if self.reduction == "mean_with_sample_weight":
            return float(factor.sum(dtype=np.float64))
        return float(valid)


class FunctionLoss(Loss):
    """A loss that a function computes.

    Parameters
    ----------
    function : callable
        Takes `y_true` and `y_pred` of the valid tokens; returns what `Loss.per_token` returns.
    reduction, name, dtype
        As in `Loss`; the name defaults to that of the function.
    """

    def __init__(
        self,
        function: Callable[[Array, Array], tuple[Any, Any]],
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(reduction, name or getattr(function, "__name__", "loss"), dtype)
        self.function = function

    def per_token(self, y_true: Array, y_pred: Array) -> tuple[Array, Array]:
        """Return what the function returns, checked.

        Raises
        ------
        TypeError
            If it is not a pair.
        ValueError
            If values or gradient have a wrong shape.
        """
        found = self.function(y_true, y_pred)
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(
                f"loss {self.name!r}: expected (values, gradient), one value per token and its derivative "
                f"by y_pred, which fastmask does not derive by itself, got {type(found).__name__}"
            )
        values, gradient = (np.asarray(part, dtype=y_pred.dtype) for part in found)
        if values.shape != y_pred.shape[:-1] or gradient.shape != y_pred.shape:
            raise ValueError(
                f"loss {self.name!r}: expected values of shape {y_pred.shape[:-1]} and a gradient of shape "
                f"{y_pred.shape}, got {values.shape} and {gradient.shape}"
            )
        return values, gradient


def _spread(
    function: Callable[..., tuple[Array, Array]], keep: Array | None, target: Array, prediction: Array, *others: Array
) -> tuple[Array, Array]:
    """Return what a function makes of the tokens to read, zeros for the others."""
    if keep is None:
        return function(target, prediction, *others)
    values, gradient = np.zeros(prediction.shape[:-1], prediction.dtype), np.zeros_like(prediction)
    values[keep], gradient[keep] = function(target[keep], prediction[keep], *(other[keep] for other in others))
    return values, gradient


def _keep(mask: ArrayLike | None, ignored: Array | None, shape: tuple[int, ...]) -> Array | None:
    """Return where a token counts, or None when all do."""
    keep = None if mask is None else expand_weights(mask, shape, np.bool_, "mask")
    if ignored is None:
        return keep
    return ~ignored if keep is None else keep & ~ignored


def _ratio(weighted: Array, divisor: float) -> float:
    return float(weighted.sum(dtype=np.float64)) / divisor if divisor else 0.0


def share(y_pred: Array, factor: float) -> Array:
    """Return `factor` over the number of outputs, in the dtype of the predictions."""
    return np.asarray(factor / max(y_pred.shape[-1], 1), dtype=y_pred.dtype)
