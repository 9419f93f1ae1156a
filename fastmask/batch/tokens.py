"""Bring targets, weights and masks into the shape of the predictions they belong to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastmask.batch.data import Rows
from fastmask.batch.packing import PackedSequence, Packing, take_rows
from fastmask.core.arguments import real_numbers

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a batch that losses and metrics look at.

    Attributes
    ----------
    prediction : ndarray of float, shape (N, C), or (B, ..., C) if the output is no packed sequence
    target : ndarray, without the last axis if each token has one number
    weights : ndarray of the shape of `prediction` less an axis, (N,) for predictions (N,), or None
    """

    prediction: Array
    target: Array
    weights: Array | None


def align(
    output: Array | PackedSequence,
    prediction: Array,
    rows: Rows,
    class_weight: Mapping[int, float] | None = None,
) -> Tokens:
    """Pick the targets and weights of the tokens of a model's output.

    Parameters
    ----------
    output : ndarray (B, ..., C) or PackedSequence of B rows
    prediction : ndarray
        `output` itself or the data of its tokens.
    rows : Rows
        The batch that the output belongs to.
    class_weight : mapping of class number to weight, optional
        Classes that it does not name weigh 1.

    Raises
    ------
    ValueError
        If targets or sample weights do not fit the output.
    """
    if rows.y is None:
        raise ValueError("y: expected targets to train and to evaluate, got None")
    if isinstance(output, PackedSequence):
        target = _pick("y", rows.y, output.packing, rows.lengths)
        weights = _pick_weights(rows, output.packing)
    else:
        target = _whole("y", rows.y)
        weights = None if rows.weights is None else _whole("sample_weight", rows.weights)
    shape = prediction.shape[:-1] if prediction.ndim > 1 else prediction.shape
    if weights is not None:
        weights = expand_weights(weights, shape, prediction.dtype)
    if class_weight is not None:
        own = _class_weights(target, shape, class_weight).astype(prediction.dtype)
        weights = own if weights is None else weights * own
    return Tokens(prediction, target, weights)


def split_rows(output: PackedSequence, lengths: Sequence[int]) -> list[Array]:
    """Return the output of each row as an array (length, ...), masked places as in padding."""
    packing, data = output.packing, output.data
    if len(packing.leading) > 1:
        return [row[:n] for row, n in zip(output.pad(), lengths, strict=True)]
    starts = np.cumsum([0, *lengths])
    if packing.tokens == starts[-1]:
        flat = np.empty_like(data)
        flat[_entries(packing, starts)] = data
    else:
        grid = output.cells().reshape(packing.batch_size, packing.total_length)
        cells = np.concatenate([row[:n] for row, n in zip(grid, lengths, strict=True)])
        flat = take_rows(output.values, cells, output.fill)
    return np.split(flat, starts[1:-1])


def _entries(packing: Packing, starts: Array, axes: int = 2) -> Array:
    """Return for each token the entry that it has in the concatenation of rows that begin at `starts`.

    Rows have entries for all of the first `axes` axes of the grid, and these are counted together.
    """
    grid = (*packing.leading, packing.total_length)
    cells = packing.positions // max(prod(grid[axes:]), 1)
    per_step = prod(grid[2:axes])
    rows = cells // max(grid[1] * per_step, 1)
    return np.asarray(starts[rows] * per_step + cells - rows * (grid[1] * per_step))


def _pick(
    name: str, values: Array | list[Array], packing: Packing, lengths: Sequence[int] | None, most: int | None = None
) -> Array:
    """Return the entries of `values` (B, T, ...) that belong to the tokens of a packing.

    Values with fewer axes than the grid, or with `most` of these, have entries that several tokens share.
    """
    if isinstance(values, list) and lengths is None:
        values = _whole(name, values)
    grid = (*packing.leading, packing.total_length)
    axes = len(grid) if most is None else min(most, len(grid))
    if isinstance(values, list):
        _check_lengths(name, values, lengths or (), grid[2:axes])
        starts = np.cumsum([0, *map(len, values)])
        flat = np.concatenate(values)
        return np.asarray(flat.reshape(-1, *flat.shape[axes - 1 :])[_entries(packing, starts, axes)])
    if values.shape[:axes] != grid[:axes]:
        raise ValueError(
            f"{name}: expected one entry per step, as the output has, that is shape "
            f"{_open((*grid[:axes], '...'))}, got {_open(values.shape)}"
        )
    cells = packing.positions // max(prod(grid[axes:]), 1)
    return np.asarray(values.reshape(-1, *values.shape[axes:])[cells])


def _check_lengths(name: str, values: list[Array], lengths: Sequence[int], within: Sequence[int]) -> None:
    for value, length in zip(values, lengths, strict=True):
        if value.shape[: 1 + len(within)] != (length, *within):
            inner = f" and {', '.join(map(str, within))} within it" if within else ""
            raise ValueError(
                f"{name}: expected one entry for each step of each sequence of x{inner}, "
                f"got shape {value.shape} for a sequence of {length} steps"
            )


def _pick_weights(rows: Rows, packing: Packing) -> Array | None:
    weights = rows.weights
    if weights is None:
        return None
    if isinstance(weights, list):
        return _pick("sample_weight", weights, packing, rows.lengths, weights[0].ndim + 1)
    if weights.shape[1:] == (1,):
        weights = weights[:, 0]
    return _pick("sample_weight", weights, packing, rows.lengths, weights.ndim)


def _whole(name: str, values: Array | list[Array]) -> Array:
    if not isinstance(values, list):
        return values
    if len({value.shape for value in values}) > 1:
        raise ValueError(
            f"{name}: expected entries of one shape, unless x is a list of sequences and "
            f"the output has a time axis, got the shapes {sorted({v.shape for v in values})[:5]}"
        )
    return np.stack(values)


def _class_weights(
    target: Array, shape: tuple[int, ...], class_weight: Mapping[int, float]
) -> Array:
    """Return the weight of the class of every token; a target may be a number or one-hot."""
    labels = target
    if target.ndim > len(shape):
        labels = target[..., 0] if target.shape[-1] == 1 else np.argmax(target, axis=-1)
    with np.errstate(invalid="ignore"):
        numbers = np.rint(labels).astype(np.int64)
    classes, index = np.unique(numbers, return_inverse=True)
    weights = np.array([class_weight.get(int(c), 1.0) for c in classes], dtype=np.float64)
    return np.asarray(weights[index].reshape(shape))


def floats(values: ArrayLike) -> Array:
    """Return predictions as an array of float32 or float64 (other real numbers become float32)."""
    array = real_numbers("y_pred", values)
    if array.ndim and array.shape[-1] == 0:
        raise ValueError(f"y_pred: expected a number for each prediction, got shape {array.shape}")
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def same_shape(y_true: Array, y_pred: Array) -> Array:
    """Return targets in the shape and dtype of the predictions.

    A last axis of length 1 may be missing from the targets or be theirs alone.

    Raises
    ------
    ValueError
        If the shapes do not fit otherwise.
    """
    target = real_numbers("y", y_true)
    if target.ndim == y_pred.ndim - 1 and y_pred.shape[-1] == 1:
        target = target[..., None]
    elif target.ndim == y_pred.ndim + 1 and target.shape[-1] == 1:
        target = target[..., 0]
    if target.shape != y_pred.shape:
        raise ValueError(
            f"y: expected one value per output, that is shape {_open(y_pred.shape)} per batch, "
            f"got {_open(y_true.shape)}"
        )
    return target.astype(y_pred.dtype, copy=False)


def class_numbers(y_true: Array, y_pred: Array) -> Array:
    """Return targets as class numbers (int64) in the shape of the predictions less an axis.

    Raises
    ------
    ValueError
        If the shapes do not fit or a number is not whole.
    """
    target = class_labels(y_true, y_pred)
    with np.errstate(invalid="ignore"):
        numbers = target.astype(np.int64, copy=False)
    if target.dtype.kind not in "biu" and not np.array_equal(numbers, target):
        raise ValueError(f"y: expected class numbers, got {target[numbers != target].flat[0]}")
    return numbers


def class_labels(y_true: Array, y_pred: Array) -> Array:
    """Return targets as they are, in the shape of the predictions less an axis; ValueError if it does not fit."""
    target = real_numbers("y", y_true)
    if target.ndim == y_pred.ndim and target.shape[-1] == 1:
        target = target[..., 0]
    if target.shape != y_pred.shape[:-1]:
        raise ValueError(
            f"y: expected one class number per token, that is shape {_open(y_pred.shape[:-1])} "
            f"per batch, got {_open(y_true.shape)}"
        )
    return target


def expand_weights(
    weights: ArrayLike, shape: tuple[int, ...], dtype: DTypeLike, name: str = "sample_weight"
) -> Array:
    """Return `weights` broadcast to `shape`: weights per row hold for all tokens of the row.

    Raises
    ------
    ValueError
        If they are neither one per token nor one per row, nor the same for all along an axis.
    """
    array = real_numbers(name, weights).astype(dtype, copy=False)
    while array.ndim > len(shape) and array.shape[-1] == 1:
        array = array[..., 0]
    missing = len(shape) - array.ndim
    fits = missing >= 0 and all(
        own in (1, full) for own, full in zip(array.shape, shape[: array.ndim], strict=True)
    )
    if not fits:
        wanted = " or ".join(dict.fromkeys([str(shape), str(shape[:1])]))
        raise ValueError(f"{name}: expected shape {wanted}, got shape {np.shape(weights)}")
    return np.broadcast_to(array.reshape(array.shape + (1,) * missing), shape)


def entry_weights(
    sample_weight: ArrayLike | None, mask: ArrayLike | None, y_pred: Array
) -> Array | None:
    """Return the weights of the tokens of `y_pred` (..., C), 0 where the mask is False; None if all count alike.

    Where weights or mask have an entry for each output they are those of the outputs.

    Raises
    ------
    ValueError
        If a shape does not fit.
    """
    axis = y_pred.ndim - 1
    shapes = [np.shape(given)[axis : axis + 1] for given in (sample_weight, mask) if given is not None]
    shape = y_pred.shape if any(own not in ((), (1,)) for own in shapes) else y_pred.shape[:-1]
    weights = None if sample_weight is None else expand_weights(sample_weight, shape, y_pred.dtype)
    if mask is None:
        return weights
    keep = expand_weights(mask, shape, np.bool_, "mask")
    return np.where(keep, y_pred.dtype.type(1) if weights is None else weights, y_pred.dtype.type(0))


def as_columns(y_true: Array, y_pred: Array) -> tuple[Array, Array]:
    """Return predictions (B,), one number for each row, and their targets (B,) or (B, 1) as columns (B, 1)."""
    return y_true.reshape(-1, 1) if y_true.ndim == 1 else y_true, y_pred.reshape(-1, 1)


def _open(shape: tuple[Any, ...]) -> str:
    """Write a shape without its first axis, which counts rows or tokens."""
    return "(" + ", ".join(["...", *map(str, shape[1:])]) + ")"
