"""Losses, each with its gradient with respect to the predictions.

A loss sees the valid tokens of a batch: ``y_pred`` is ``(N, C)`` for packed sequences, or any
array whose last axis holds the outputs. The divisor is the one of Keras 3: the number of valid
tokens, whatever the sample weights; a batch without valid tokens costs exactly 0.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastmask.core.objects import Registry, in_snake_case, missing
from fastmask.losses.base import FunctionLoss, Loss
from fastmask.losses.classes import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    Crossentropy,
    KLDivergence,
    Poisson,
    SparseCategoricalCrossentropy,
)
from fastmask.losses.functions import (
    FUNCTIONS,
    binary_crossentropy,
    categorical_crossentropy,
    categorical_hinge,
    cosine_similarity,
    hinge,
    huber,
    kl_divergence,
    log_cosh,
    mean_absolute_error,
    mean_absolute_percentage_error,
    mean_squared_error,
    mean_squared_logarithmic_error,
    poisson,
    sparse_categorical_crossentropy,
    squared_hinge,
)
from fastmask.losses.margins import CategoricalHinge, Hinge, SquaredHinge
from fastmask.losses.regression import (
    CosineSimilarity,
    Huber,
    LogCosh,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
)

__all__ = [
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "CategoricalHinge",
    "CosineSimilarity",
    "FunctionLoss",
    "Hinge",
    "Huber",
    "KLDivergence",
    "LogCosh",
    "Loss",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredError",
    "MeanSquaredLogarithmicError",
    "Poisson",
    "SparseCategoricalCrossentropy",
    "SquaredHinge",
    "binary_crossentropy",
    "categorical_crossentropy",
    "categorical_hinge",
    "cosine_similarity",
    "deserialize",
    "get",
    "hinge",
    "huber",
    "kl_divergence",
    "log_cosh",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_error",
    "mean_squared_logarithmic_error",
    "poisson",
    "serialize",
    "sparse_categorical_crossentropy",
    "squared_hinge",
]

_CLASSES: tuple[type[Loss], ...] = (
    MeanSquaredError, MeanAbsoluteError, MeanAbsolutePercentageError, MeanSquaredLogarithmicError, Huber, LogCosh,
    CosineSimilarity, Hinge, SquaredHinge, CategoricalHinge, KLDivergence, Poisson, BinaryCrossentropy,
    CategoricalCrossentropy, SparseCategoricalCrossentropy, Crossentropy,
)  # fmt: skip
ALIASES = {
    "mse": MeanSquaredError,
    "mae": MeanAbsoluteError,
    "mape": MeanAbsolutePercentageError,
    "msle": MeanSquaredLogarithmicError,
    "bce": BinaryCrossentropy,
    "kld": KLDivergence,
    "ce": Crossentropy,
}


def _of_function(function: Any) -> Loss:
    name = str(getattr(function, "__name__", None))
    cls = REGISTRY.find(name) if FUNCTIONS.get(name) is function else None
    return FunctionLoss(function) if cls is None else cls(name=name)


REGISTRY = Registry(
    "loss", Loss, "keras.losses", in_snake_case(_CLASSES), ALIASES, from_function=_of_function, tells_name=True,
    takes="a name, a function that returns (values, gradient), or an instance of a subclass of Loss",
)  # fmt: skip


def get(identifier: Any) -> Loss:
    """Return the loss that a name, a class, a function, a config or an instance stands for.

    Parameters
    ----------
    identifier : str, Loss, type, callable or dict
        Names are those of the functions of this module in any letter case, of the classes, and
        "mse", "mae", "mape", "msle", "bce", "kld" and "ce". A function of your own takes `y_true`
        and `y_pred` of the valid tokens and returns (values, gradient) as `Loss.per_token` does.

    Returns
    -------
    Loss

    Raises
    ------
    ValueError
        If a name is unknown; the message lists the legal ones.
    TypeError
        If `identifier` is something else.
    """
    return REGISTRY.get(identifier)


def serialize(loss: Loss) -> dict[str, Any]:
    """Return the class name and config of a loss."""
    return REGISTRY.serialize(loss)


def deserialize(config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Loss:
    """Return a loss from what `serialize` returned.

    Parameters
    ----------
    config : dict
    custom_objects : dict of str to class or function, optional
        Losses of your own by name.

    Raises
    ------
    ValueError
        If there is no loss of that name.
    """
    return REGISTRY.deserialize(config, custom_objects)


if not TYPE_CHECKING:
    __getattr__ = missing(__name__)
