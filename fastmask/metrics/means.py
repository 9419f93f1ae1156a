"""Means of losses, similarity, perplexity."""

import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastmask import losses
from fastmask.batch.tokens import same_shape
from fastmask.losses.classes import Crossentropy as ShapedCrossentropy
from fastmask.metrics.base import Metric

Array = NDArray[Any]


class MeanLoss(Metric):
    """Base of the metrics that are the mean of a loss.

    Parameters
    ----------
    name : str, optional
    dtype : optional
        As in `Metric`.
    **arguments
        Those of the loss.
    """

    direction = "down"
    loss: ClassVar[type[losses.Loss]]

    def __init__(self, name: str | None = None, dtype: Any = None, **arguments: Any) -> None:
        super().__init__(name, dtype)
        unknown = sorted({*arguments} - {*self.options})
        if unknown:
            raise TypeError(f"{type(self).__name__} has no argument {unknown[0]!r}")
        self._use(self.loss(**arguments))

    def _use(self, function: losses.Loss) -> None:
        if function.axis != -1:
            raise ValueError(f"axis: expected -1, the axis of the outputs, got {function.axis}")
        self.function = function
        for name in self.options:
            setattr(self, name, getattr(function, name))

    @property
    def vectors(self) -> bool:  # type: ignore[override]
        """Whether the loss takes the outputs of a token together."""
        return self.function.vectors

    def per_token(self, y_true: Array, y_pred: Array) -> Array:
        """Return the loss of every token."""
        return self.function.per_token(y_true, y_pred)[0]

    def ignored(self, y_true: Array, y_pred: Array) -> Array | None:
        """Return where the loss ignores the target."""
        return self.function.ignored(y_true, y_pred)


class MeanOfLoss(MeanLoss):
    """Mean of any loss.

    Parameters
    ----------
    function : Loss
        Its reduction does not matter.
    name : str, optional
        Defaults to that of the loss.
    dtype : optional
        As in `Metric`.
    """

    def __init__(self, function: losses.Loss, name: str | None = None, dtype: Any = None) -> None:
        Metric.__init__(self, name or function.name, dtype)
        self._use(function)


class MeanSquaredError(MeanLoss):
    """Mean of the squared differences."""

    identifier = "mean_squared_error"
    loss = losses.MeanSquaredError


class RootMeanSquaredError(Metric):
    """Square root of the mean of the squared differences."""

    identifier = "root_mean_squared_error"
    direction = "down"

    def per_token(self, y_true: Array, y_pred: Array) -> Array:
        """Return the squared difference of every output."""
        return np.asarray((y_pred - same_shape(y_true, y_pred)) ** 2)

    def result(self) -> float:
        """Return the root of the mean so far."""
        return math.sqrt(super().result())


class MeanAbsoluteError(MeanLoss):
    """Mean of the absolute differences."""

    identifier = "mean_absolute_error"
    loss = losses.MeanAbsoluteError


class MeanAbsolutePercentageError(MeanLoss):
    """Mean of the absolute differences in percent of the targets."""

    identifier = "mean_absolute_percentage_error"
    loss = losses.MeanAbsolutePercentageError


class MeanSquaredLogarithmicError(MeanLoss):
    """Mean of the squared differences of the logarithms."""

    identifier = "mean_squared_logarithmic_error"
    loss = losses.MeanSquaredLogarithmicError


class LogCoshError(MeanLoss):
    """Mean logarithm of the hyperbolic cosine of the differences."""

    identifier = "logcosh"
    loss = losses.LogCosh


class CosineSimilarity(MeanLoss):
    """Mean cosine of the angle between targets and predictions."""

    identifier = "cosine_similarity"
    direction = "up"
    loss = losses.CosineSimilarity

    def __init__(self, name: str | None = None, dtype: Any = None, axis: int = -1) -> None:
        super().__init__(name, dtype)
        if axis != -1:
            raise ValueError(f"axis: expected -1, the axis of the outputs, got {axis}")

    def per_token(self, y_true: Array, y_pred: Array) -> Array:
        """Return the cosine of every token."""
        return -super().per_token(y_true, y_pred)


class Hinge(MeanLoss):
    """Mean hinge loss."""

    identifier = "hinge"
    loss = losses.Hinge


class SquaredHinge(MeanLoss):
    """Mean squared hinge loss."""

    identifier = "squared_hinge"
    loss = losses.SquaredHinge


class CategoricalHinge(MeanLoss):
    """Mean hinge loss between the true class and its best rival."""

    identifier = "categorical_hinge"
    loss = losses.CategoricalHinge


class KLDivergence(MeanLoss):
    """Mean Kullback-Leibler divergence."""

    identifier = "kl_divergence"
    loss = losses.KLDivergence


class Poisson(MeanLoss):
    """Mean Poisson loss."""

    identifier = "poisson"
    loss = losses.Poisson


class BinaryCrossentropy(MeanLoss):
    """Mean binary cross-entropy.

    Parameters
    ----------
    name, dtype
        As in `Metric`.
    from_logits : bool, default False
    label_smoothing : float, default 0
    """

    identifier = "binary_crossentropy"
    loss = losses.BinaryCrossentropy
    options = ("from_logits", "label_smoothing")


class CategoricalCrossentropy(MeanLoss):
    """Mean cross-entropy, targets one-hot or probabilities.

    Parameters
    ----------
    name, dtype
        As in `Metric`.
    from_logits : bool, default False
    label_smoothing : float, default 0
    axis : int, default -1
        Nothing else.
    """

    identifier = "categorical_crossentropy"
    loss = losses.CategoricalCrossentropy
    options = ("from_logits", "label_smoothing", "axis")


class SparseCategoricalCrossentropy(MeanLoss):
    """Mean cross-entropy, targets class numbers.

    Parameters
    ----------
    name, dtype
        As in `Metric`.
    from_logits : bool, default False
    ignore_class : int, optional
        Tokens with this target do not count.
    axis : int, default -1
        Nothing else.
    """

    identifier = "sparse_categorical_crossentropy"
    loss = losses.SparseCategoricalCrossentropy
    options = ("from_logits", "ignore_class", "axis")


class Crossentropy(MeanLoss):
    """Mean of the cross-entropy that fits the shapes, as the name "crossentropy" has it."""

    identifier = "crossentropy"
    loss = ShapedCrossentropy


class Perplexity(MeanLoss):
    """Exponential of the mean cross-entropy of all tokens; targets are class numbers.

    Parameters
    ----------
    from_logits : bool, default False
        Whether predictions are scores before the softmax.
    mask_token_id : int, optional
        Tokens with this target do not count.
    dtype : optional
        As in `Metric`.
    name : str, default "perplexity"
    """

    identifier = "perplexity"
    loss = losses.SparseCategoricalCrossentropy
    options = ("from_logits", "mask_token_id")

    def __init__(
        self,
        from_logits: bool = False,
        mask_token_id: int | None = None,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        Metric.__init__(self, name, dtype)
        self.from_logits = from_logits
        self.mask_token_id = mask_token_id
        self.function = self.loss(from_logits, mask_token_id)

    def result(self) -> float:
        """Return the perplexity so far, 0 before the first token, inf beyond all numbers."""
        if not self.count:
            return 0.0
        return float(np.exp(min(super().result(), 1e4)))
