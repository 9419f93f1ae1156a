"""Aligned memory that calls hand on to each other.

A training step needs the same few megabytes each time. Fresh from the system, their pages would be cleared
and mapped again, which costs a tenth of the time of a small step.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_Block = tuple[Array, int]  # memory, and the address of the first cache line that begins in it

_ALIGNMENT = 64
_SMALLEST = 12  # blocks have powers of two of bytes, from 2 ** 12 to 2 ** 25
_LARGEST = 25
# Free blocks: of each size at most 16 MiB, and one at least.
_free: dict[int, deque[_Block]] = {
    power: deque(maxlen=max(1, 2 ** (24 - power))) for power in range(_SMALLEST, _LARGEST + 1)
}


class _Lease:
    """A block in use: the base of an array and its views, which gives the block back with the last of them."""

    __slots__ = ("__array_interface__", "_block", "_power")

    def __init__(self, power: int, block: _Block, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._power = power
        self._block = block
        self.__array_interface__ = {"data": (block[1], False), "shape": shape, "typestr": dtype.str, "version": 3}

    def __del__(self) -> None:
        # No lock, which a collection of garbage in the middle of another call would wait for.
        _free[self._power].append(self._block)


def _take_block(power: int) -> _Block:
    try:
        return _free[power].pop()
    except IndexError:
        raw = np.empty(2**power + _ALIGNMENT, np.uint8)
        address = raw.ctypes.data
        return raw, address + -address % _ALIGNMENT


def aligned_empty(shape: Sequence[int] | int, dtype: Any) -> Array:
    """An uninitialised array; unless it is small, its first element stands at the start of a cache line."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    dtype = np.dtype(dtype)
    power = (math.prod(shape) * dtype.itemsize - 1).bit_length()
    if not _SMALLEST <= power <= _LARGEST:
        return np.empty(shape, dtype)
    return np.asarray(_Lease(power, _take_block(power), shape, dtype))


def aligned_zeros(shape: Sequence[int] | int, dtype: Any) -> Array:
    """The same, filled with zeros."""
    array = aligned_empty(shape, dtype)
    array.fill(0)
    return array
