"""Helpers for preparing data, with the signatures of ``keras.utils``."""

import collections.abc
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastmask.batch.dataset import PyDataset
from fastmask.random import set_random_seed

__all__ = ["PyDataset", "Sequence", "pad_sequences", "set_random_seed", "to_categorical"]

Sequence = PyDataset  # its name in Keras 2
_SIDES = ("pre", "post")


def pad_sequences(
    sequences: collections.abc.Sequence[ArrayLike],
    maxlen: int | None = None,
    dtype: DTypeLike = "int32",
    padding: str = "pre",
    truncating: str = "pre",
    value: float = 0.0,
) -> NDArray[Any]:
    """Put sequences of different lengths into one array.

    Models take lists of sequences as they are; padding is only needed to hand data to others.

    Parameters
    ----------
    sequences : sequence of array_like
        B sequences of shape (t_i, ...), alike but for t_i.
    maxlen : int, optional
        Number of steps T; the longest sequence's by default.
    dtype : dtype, default "int32"
        Integer types cut off fractions, so ask for "float32" where there are any.
    padding : {"pre", "post"}, default "pre"
        The side of a short sequence that is filled up.
    truncating : {"pre", "post"}, default "pre"
        The side of a long sequence that is cut off.
    value : float, default 0.0
        Fills the padding.

    Returns
    -------
    ndarray, shape (B, T, ...)

    Raises
    ------
    ValueError
        If an argument is none of these or the sequences differ in more than length.
    """
    if maxlen is not None and maxlen < 0:
        raise ValueError(f"maxlen: expected a number of at least 0, got {maxlen!r}")
    for name, side in (("padding", padding), ("truncating", truncating)):
        if side not in _SIDES:
            raise ValueError(f"{name}: expected 'pre' or 'post', got {side!r}")
    rows = [np.asarray(sequence) for sequence in sequences]
    tokens = {row.shape[1:] for row in rows if row.size}
    if any(row.ndim == 0 for row in rows) or len(tokens) > 1:
        raise ValueError(
            "sequences: expected sequences alike but for length, got the shapes "
            f"{sorted({row.shape for row in rows})[:5]}"
        )
    steps = max((len(row) for row in rows), default=0) if maxlen is None else maxlen
    out = np.full((len(rows), steps, *next(iter(tokens), ())), value, dtype=dtype)
    for target, row in zip(out, rows, strict=True):
        kept = row[max(len(row) - steps, 0) :] if truncating == "pre" else row[:steps]
        if len(kept):
            target[slice(-len(kept), None) if padding == "pre" else slice(len(kept))] = kept
    return out


def to_categorical(x: ArrayLike, num_classes: int | None = None, dtype: DTypeLike = "float32") -> NDArray[Any]:
    """Return class numbers as one-hot vectors.

    Parameters
    ----------
    x : array_like of int, shape (...) or (..., 1)
    num_classes : int, optional
        C; the largest number plus one by default.
    dtype : dtype, default "float32"

    Returns
    -------
    ndarray, shape (..., C)

    Raises
    ------
    ValueError
        If a number is negative or NaN, or not below `num_classes`.
    TypeError
        If `x` does not hold real numbers, or `num_classes` is not whole.
    """
    given = np.asarray(x)
    if given.dtype.kind not in "biuf":
        raise TypeError(f"x: expected class numbers, got dtype {given.dtype}")
    if num_classes is not None and not isinstance(num_classes, (int, np.integer)):
        raise TypeError(f"num_classes: expected a whole number, got {num_classes!r}")
    with np.errstate(invalid="ignore"):
        labels = given.astype(np.int64)
    if (labels != np.trunc(given)).any():
        raise ValueError("x: expected class numbers, got NaN or a number beyond int64")
    if labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    largest = int(labels.max(initial=-1))
    classes = largest + 1 if num_classes is None else num_classes
    if labels.min(initial=0) < 0 or largest >= classes:
        raise ValueError(f"x: expected class numbers from 0 to {classes - 1}, got {labels.min()} to {labels.max()}")
    return np.asarray(labels[..., None] == np.arange(classes), dtype=dtype)
