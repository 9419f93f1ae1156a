"""Bring targets, weights and masks into the shape of the predictions they belong to."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Array = NDArray[Any]


def floats(values: ArrayLike) -> Array:
    """Return `values` as an array of float32 or float64 (anything else becomes float32)."""
    array = np.asarray(values)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def same_shape(y_true: Array, y_pred: Array) -> Array:
    """Return targets in the shape and dtype of the predictions.

    A last axis of length 1 may be missing from the targets or be theirs alone.

    Raises
    ------
    ValueError
        If the shapes do not fit otherwise.
    """
    target = y_true
    if target.ndim == y_pred.ndim - 1 and y_pred.shape[-1] == 1:
        target = target[..., None]
    elif target.ndim == y_pred.ndim + 1 and target.shape[-1] == 1:
        target = target[..., 0]
    if target.shape != y_pred.shape:
        raise ValueError(
            f"y must have one value per output: expected shape {_open(y_pred.shape)} per batch, "
            f"got {_open(y_true.shape)}"
        )
    return target.astype(y_pred.dtype, copy=False)


def class_numbers(y_true: Array, y_pred: Array) -> Array:
    """Return targets as class numbers (int64) in the shape of the predictions less an axis.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    target = y_true
    if target.ndim == y_pred.ndim and target.shape[-1] == 1:
        target = target[..., 0]
    if target.shape != y_pred.shape[:-1]:
        raise ValueError(
            f"y must have one class number per token: expected shape {_open(y_pred.shape[:-1])} "
            f"per batch, got {_open(y_true.shape)}"
        )
    return target.astype(np.int64, copy=False)


def expand_weights(
    weights: ArrayLike, shape: tuple[int, ...], dtype: DTypeLike, name: str = "sample_weight"
) -> Array:
    """Return `weights` broadcast to `shape`: weights per row hold for all tokens of the row.

    Raises
    ------
    ValueError
        If they are neither one per token nor one per row.
    """
    array = np.asarray(weights, dtype=dtype)
    if array.ndim == len(shape) + 1 and array.shape[-1] == 1:
        array = array[..., 0]
    missing = len(shape) - array.ndim
    fits = missing >= 0 and all(
        own in (1, full) for own, full in zip(array.shape, shape[: array.ndim], strict=True)
    )
    if not fits or (array.ndim and array.shape[0] != shape[0]):
        raise ValueError(
            f"{name} must have shape {shape} or {shape[:1]}, got shape {np.shape(weights)}"
        )
    return np.broadcast_to(array.reshape(array.shape + (1,) * missing), shape)


def _open(shape: tuple[int, ...]) -> str:
    """Write a shape without its first axis, which counts rows or tokens."""
    return "(" + ", ".join(["...", *map(str, shape[1:])]) + ")"
