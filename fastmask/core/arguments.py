"""Checks of arguments, by name, that several floors share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from operator import index
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

LARGEST = int(np.iinfo(np.int64).max)


def as_array(name: str, value: ArrayLike) -> NDArray[Any]:
    """``value`` as an array of plain numbers; ValueError or TypeError with the name of the argument otherwise."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(
            f"{name}: expected an array, got sequences of different lengths, which PackedSequence.from_list packs"
        ) from None
    if array.dtype.hasobject:
        raise TypeError(f"{name}: expected an array of numbers, got {described(array)}")
    return array


def described(array: NDArray[Any]) -> str:
    """What an array holds in place of numbers, for an error: its dtype, or the text in it."""
    text = next((entry for entry in array.flat if isinstance(entry, (str, bytes))), None)
    if text is None:
        return f"dtype {array.dtype}"
    plain = bytes(text) if isinstance(text, bytes) else str(text)
    return f"text such as {plain[:40]!r}; words and classes must be numbered first"


def real_numbers(name: str, value: ArrayLike) -> NDArray[Any]:
    """``value`` as an array; TypeError unless it holds real numbers."""
    array = as_array(name, value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected real numbers, got {described(array)}")
    return array


def integers(array: NDArray[Any]) -> NDArray[Any] | None:
    """``array`` if it holds integers, as int64 if it holds floats that are all whole numbers; None otherwise."""
    kind = array.dtype.kind
    if kind in "iu":
        return array
    return _equal_as(array, np.int64) if kind == "f" else None


def booleans(array: NDArray[Any]) -> NDArray[np.bool_] | None:
    """``array`` as bool if it holds nothing but True and False, or the numbers 0 and 1; None otherwise."""
    kind = array.dtype.kind
    if kind == "b":
        return array
    return _equal_as(array, np.bool_) if kind in "iuf" else None


def _equal_as(array: NDArray[Any], dtype: DTypeLike) -> NDArray[Any] | None:
    with np.errstate(invalid="ignore"):
        converted = array.astype(dtype)
    return converted if np.array_equal(converted, array) else None


def are_whole(array: NDArray[Any]) -> bool:
    """Whether an array holds integers, as an empty one does whose dtype is that of ``[]``."""
    return array.dtype.kind in ("iu" if array.size else "iuf")


def whole_numbers(name: str, value: ArrayLike) -> NDArray[np.int64]:
    """``value`` as an int64 array of one axis that kernels can read; ValueError unless it holds integers."""
    array = as_array(name, value)
    if array.ndim != 1 or not are_whole(array):
        raise ValueError(f"{name}: expected integers in one dimension, got {array.dtype} of shape {array.shape}")
    return np.require(array, np.int64, ("C", "A"))


def check_shape(name: str, array: Any, expected: Sequence[int]) -> None:
    """ValueError unless an array or tensor has the shape ``expected``."""
    if tuple(array.shape) != tuple(expected):
        raise ValueError(f"{name}: expected shape {tuple(expected)}, got {tuple(array.shape)}")


def check_size(name: str, value: SupportsIndex) -> int:
    """``value`` as an int; TypeError or ValueError unless it is one that can count rows or steps."""
    try:
        size = index(value)
    except TypeError:
        raise TypeError(f"{name}: expected a whole number, got {value!r}") from None
    if not 0 <= size <= LARGEST:
        raise ValueError(f"{name}: expected a number from 0 to {LARGEST}, got {size}")
    return size


def choice(name: str, value: Any, allowed: Collection[Any]) -> Any:
    """``value``; ValueError unless it is one of ``allowed``."""
    if isinstance(value, np.ndarray) or not any(value is option or value == option for option in allowed):
        raise ValueError(f"{name}: expected one of {', '.join(map(str, allowed))}, got {value!r}")
    return value
