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

from fastmask.kernels.memory import Lease

Array = NDArray[Any]

_Block = tuple[Array, int]  # memory, and the address of the first cache line that begins in it

_ALIGNMENT = 64
_SMALLEST = 4096  # smaller arrays are cheaper from NumPy, larger ones than the limit too
_LARGE = 2**18
_LIMIT = 2**26
# Free blocks by size. Up to 8 of each size below 256 KiB, and of larger ones 64 MiB in all.
_free: dict[int, deque[_Block]] = {}


def _take_block(size: int) -> _Block:
    blocks = _free.get(size)
    if blocks is None:
        blocks = _free.setdefault(size, deque(maxlen=8 if size < _LARGE else None))
    try:
        return blocks.pop()
    except IndexError:
        raw = np.empty(size + _ALIGNMENT, np.uint8)
        address = raw.ctypes.data
        return raw, address + -address % _ALIGNMENT


def aligned_empty(shape: Sequence[int] | int, dtype: Any) -> Array:
    """An uninitialised array; unless it is small, its first element stands at the start of a cache line."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    dtype = np.dtype(dtype)
    needed = math.prod(shape) * dtype.itemsize
    if not _SMALLEST <= needed <= _LIMIT:
        return np.empty(shape, dtype)
    # Four sizes between one power of two and the next: at most a quarter is wasted.
    step = 1 << (needed - 1).bit_length() - 3
    size = -(-needed // step) * step
    lease: Any = Lease(needed, size, _take_block(size), _free, _LARGE, _LIMIT)
    return np.ndarray(shape, dtype, lease)


def aligned_zeros(shape: Sequence[int] | int, dtype: Any) -> Array:
    """The same, filled with zeros."""
    array = aligned_empty(shape, dtype)
    array.fill(0)
    return array
