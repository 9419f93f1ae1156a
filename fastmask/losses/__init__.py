"""Losses, each with its gradient with respect to the predictions.

A loss sees the valid tokens of a batch: ``y_pred`` is ``(N, C)`` for packed sequences, or any
array whose last axis holds the outputs. The divisor is the one of Keras 3: the number of valid
tokens, whatever the sample weights; a batch without valid tokens costs exactly 0.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmask.losses.base import Loss
from fastmask.losses.classes import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    MeanAbsoluteError,
    MeanSquaredError,
    SparseCategoricalCrossentropy,
)
from fastmask.tokens import floats

__all__ = [
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "SparseCategoricalCrossentropy",
    "binary_crossentropy",
    "categorical_crossentropy",
    "get",
    "mean_absolute_error",
    "mean_squared_error",
    "sparse_categorical_crossentropy",
]

Array = NDArray[Any]


def mean_squared_error(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """Return the squared error of every token, averaged over the last axis."""
    return _values(MeanSquaredError(), y_true, y_pred)


def mean_absolute_error(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """Return the absolute error of every token, averaged over the last axis."""
    return _values(MeanAbsoluteError(), y_true, y_pred)


def binary_crossentropy(
    y_true: ArrayLike, y_pred: ArrayLike, from_logits: bool = False, label_smoothing: float = 0.0
) -> Array:
    """Return the binary cross-entropy of every token, averaged over the last axis."""
    return _values(BinaryCrossentropy(from_logits, label_smoothing), y_true, y_pred)


def categorical_crossentropy(
    y_true: ArrayLike, y_pred: ArrayLike, from_logits: bool = False, label_smoothing: float = 0.0
) -> Array:
    """Return the cross-entropy of every token; targets are one-hot or probabilities."""
    return _values(CategoricalCrossentropy(from_logits, label_smoothing), y_true, y_pred)


def sparse_categorical_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    from_logits: bool = False,
    ignore_class: int | None = None,
) -> Array:
    """Return the cross-entropy of every token, 0 where ignored; targets are class numbers."""
    loss = SparseCategoricalCrossentropy(from_logits, ignore_class, reduction="none")
    return np.asarray(loss(y_true, y_pred))


def _values(loss: Loss, y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    return loss.per_token(np.asarray(y_true), floats(y_pred))[0]


_CLASSES: tuple[type[Loss], ...] = (
    MeanSquaredError,
    MeanAbsoluteError,
    BinaryCrossentropy,
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
)
ALIASES = {"mse": "mean_squared_error", "mae": "mean_absolute_error"}


def get(identifier: str | Loss | Any) -> Loss:
    """Return the loss that a name, a class, a function of this module or an instance stands for.

    Parameters
    ----------
    identifier : str, Loss, type or function
        Names are those of the functions of this module in any letter case, of the classes, and
        "mse" and "mae".

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
    if callable(identifier) and getattr(identifier, "__module__", None) == __name__:
        identifier = identifier.__name__
    if not isinstance(identifier, str):
        raise TypeError(
            "loss must be a name, a Loss or a function of fastmask.losses, got "
            f"{identifier!r}; for a loss of your own subclass fastmask.losses.Loss"
        )
    name = identifier.lower()
    for cls in _CLASSES:
        if ALIASES.get(name, name) in (cls.identifier, cls.__name__.lower()):
            return cls()
    legal = sorted([*(cls.identifier for cls in _CLASSES), *ALIASES])
    raise ValueError(f"loss must be one of {', '.join(legal)}, got {identifier!r}")
