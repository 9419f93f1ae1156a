"""Rows of numbers out of what holds them: arrays, tensors and lists, columns of tables, ragged tensors.

No library is imported for it: what an object is shows in its attributes.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmask.core.arguments import described

Array = NDArray[Any]
Values = Array | list[Array]  # an array whose first axis counts rows, or one array per row


def as_rows(name: str, values: Any) -> Values:
    """Return an array whose first axis counts rows, or one array for each row.

    Parameters
    ----------
    name : str
        The argument, for errors.
    values : array_like, or what holds rows one by one
        An array, tensor or column of numbers of any library. Rows of the same length or not stand in a list or tuple,
        an array of objects, a column of lists (pandas, polars, pyarrow, datasets), a ragged tensor (TensorFlow) or a
        nested one (PyTorch).

    Raises
    ------
    TypeError
        If there is something else than numbers.
    ValueError
        If a row is no array, since what stands in it has different lengths.
    """
    if is_column(values):
        values = values[:]
    rows = _one_by_one(name, values)
    if rows is None:
        array = _numbers(name, values)
        if not array.dtype.hasobject:
            return array
        rows = list(array)
    arrays = [row if _is_plain(row) else _row(f"{name}[{i}]", row) for i, row in enumerate(rows)]
    # Empty rows have the dtype and the token shape of the others.
    empty = next((row[:0] for row in arrays if row.size and row.ndim), None)
    return arrays if empty is None else [row if row.size else empty for row in arrays]


def is_column(values: Any) -> bool:
    """Return whether `values` is a column of a dataset of Hugging Face, which reads its rows when it is asked."""
    return hasattr(values, "column_name") and isinstance(values, Sequence)


def axes(values: Any) -> int:
    """Return the number of axes of an array, a tensor, or lists of these within each other."""
    if hasattr(values, "ndim"):
        return int(values.ndim)
    if hasattr(values, "shape"):  # TensorFlow
        return len(values.shape)
    if not isinstance(values, (list, tuple)):
        return 0
    return 1 + (axes(values[0]) if len(values) else 0)


def _one_by_one(name: str, values: Any) -> Iterable[Any] | None:
    """Return rows that stand one by one; None if `values` has to become an array first."""
    if isinstance(values, (list, tuple)):
        return values
    if getattr(values, "is_nested", False):  # PyTorch
        return list(values.unbind())
    if hasattr(values, "row_splits"):  # TensorFlow
        return _cut(_flat(name, values.values), np.asarray(values.row_splits).tolist())
    if _is_lists(values):
        return _cut(_flat(name, values.flatten()), accumulate(values.value_lengths().to_pylist(), initial=0))
    if hasattr(values, "combine_chunks") and all(map(_is_lists, values.chunks)):
        return [row for chunk in values.chunks for row in as_rows(name, chunk)]
    return None


def _is_lists(values: Any) -> bool:
    """Return whether `values` is an array of pyarrow that has a list in every row."""
    return hasattr(values, "value_lengths") and not values.null_count


def _flat(name: str, values: Any) -> Array:
    """Return what stands in ragged rows, one after the other, as one array."""
    if not _is_lists(values):
        found = as_rows(name, values)
        return _row(name, found) if isinstance(found, list) else found
    lengths = set(values.value_lengths().to_pylist())
    if len(lengths) > 1:
        raise ValueError(f"{name}: expected lists of one length within the rows, got {sorted(lengths)[:5]}")
    inner = _flat(name, values.flatten())
    return inner.reshape(len(values), *lengths, *inner.shape[1:])


def _cut(values: Array, places: Iterable[int]) -> list[Array]:
    return [values[begin:end] for begin, end in pairwise(places)]


def _is_plain(value: Any) -> bool:
    return type(value) is np.ndarray and value.dtype.kind in "iufb"


def _numpy_takes(value: Any) -> bool:
    """Return whether NumPy knows what to do with an object that can be indexed."""
    if isinstance(value, (list, tuple, str)) or hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
        return True
    try:
        memoryview(value)
    except TypeError:
        return False
    return True


def _row(name: str, value: Any) -> Array:
    """Return one row as an array of numbers; arrays of one shape that stand in a list or an array become one."""
    array = _numbers(name, value)
    if array.dtype.hasobject and array.ndim:
        array = _numbers(name, array.tolist())
    if array.dtype.kind in "OUS":
        raise TypeError(f"{name}: expected numbers, got {described(array)}")
    return array


def _numbers(name: str, value: Any) -> Array:
    """Return `value` as an array, which may hold objects if they are rows."""
    if hasattr(value, "detach"):  # PyTorch
        value = value.detach().cpu()
    if hasattr(value, "as_py"):  # a scalar of pyarrow
        value = value.as_py()
    if hasattr(value, "__getitem__") and not _numpy_takes(value):
        raise TypeError(
            f"{name}: expected an array, rows or an iterable of batches, got {type(value).__name__}; of a dataset that "
            "gives one row at a time, a loader makes batches"
        )
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name}: expected an array, got sequences of different lengths") from None
    except TypeError as error:
        raise TypeError(f"{name}: expected an array, got {type(value).__name__}: {error}") from None
    if array.dtype.kind in "US":
        raise TypeError(f"{name}: expected numbers, got {described(array)}")
    if array.dtype.hasobject and not array.ndim:
        raise TypeError(f"{name}: expected numbers, got {type(value).__name__}")
    return array
