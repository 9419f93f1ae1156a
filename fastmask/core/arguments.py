"""Checks of arguments that plans, packed sequences and operations share."""

from __future__ import annotations

from operator import index
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

LARGEST = int(np.iinfo(np.int64).max)


def as_array(name: str, value: ArrayLike) -> NDArray[Any]:
    """``value`` as an array of plain numbers; ValueError or TypeError with the name of the argument otherwise."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: expected an array, got something else: {error}") from None
    if array.dtype.hasobject:
        raise TypeError(f"{name}: expected an array of numbers, got dtype {array.dtype}")
    return array


def are_whole(array: NDArray[Any]) -> bool:
    """Whether an array holds integers; that of ``[]``, of no floats, does, too."""
    return array.dtype.kind in ("iu" if array.size else "iuf")


def check_size(name: str, value: SupportsIndex) -> int:
    """``value`` as an int; TypeError or ValueError unless it is one that can count rows or steps."""
    try:
        size = index(value)
    except TypeError:
        raise TypeError(f"{name}: expected a whole number, got {value!r}") from None
    if not 0 <= size <= LARGEST:
        raise ValueError(f"{name}: expected a number from 0 to {LARGEST}, got {size}")
    return size
