"""Losses, each with its gradient with respect to the predictions.

A loss sees the valid tokens of a batch: ``y_pred`` is ``(N, C)`` for packed sequences, or any
array whose last axis holds the outputs. The divisor is the one of Keras 3: the number of valid
tokens, whatever the sample weights; a batch without valid tokens costs exactly 0.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastmask.core import objects
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
    MeanSquaredError,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredLogarithmicError,
    Huber,
    LogCosh,
    CosineSimilarity,
    Hinge,
    SquaredHinge,
    CategoricalHinge,
    KLDivergence,
    Poisson,
    BinaryCrossentropy,
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
    Crossentropy,
)
ALIASES = {
    "mse": "mean_squared_error",
    "mae": "mean_absolute_error",
    "mape": "mean_absolute_percentage_error",
    "msle": "mean_squared_logarithmic_error",
    "bce": "binary_crossentropy",
    "kld": "kl_divergence",
    "ce": "crossentropy",
}


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
    if isinstance(identifier, Loss):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Loss):
        return identifier()
    if isinstance(identifier, Mapping):
        return deserialize(identifier)
    if callable(identifier):
        name = getattr(identifier, "__name__", None)
        if FUNCTIONS.get(str(name)) is not identifier:
            return FunctionLoss(identifier)
        identifier = name
    if not isinstance(identifier, str):
        raise TypeError(
            "loss: expected a name, a Loss, or a function that returns (values, gradient), got "
            f"{identifier!r}; for a loss with arguments subclass fastmask.losses.Loss"
        )
    name = identifier.lower()
    for cls in _CLASSES:
        if ALIASES.get(name, name) in (cls.identifier, cls.__name__.lower()):
            return cls(name=identifier)
    legal = sorted([*(cls.identifier for cls in _CLASSES), *ALIASES])
    raise ValueError(f"loss: expected one of {', '.join(legal)}, got {identifier!r}")


def serialize(loss: Loss) -> dict[str, Any]:
    """Return the class name and config of a loss."""
    return objects.serialize(loss, "keras.losses")


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
    classes = {cls.__name__: cls for cls in _CLASSES}
    return get(objects.deserialize(config, classes, custom_objects, "loss"))


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Say what to do about a class of Keras that is not here."""
        raise objects.missing(__name__, name)
