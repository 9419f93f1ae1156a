"""Weights that are about to be overwritten, with sizes that are not to be trusted."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

# Bytes that may still be created, None for any number.
_left: ContextVar[int | None] = ContextVar("_left", default=None)


@contextmanager
def placeholders(limit: int) -> Iterator[None]:
    """Make initializers return zeros, of at most `limit` bytes altogether; ValueError beyond."""
    token = _left.set(limit)
    try:
        yield
    finally:
        _left.reset(token)


def trusted() -> bool:
    """Return whether sizes are to be trusted: not within `placeholders`."""
    return _left.get() is None


def placeholder(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return zeros and take their bytes off what is left; ValueError if that is less."""
    left = _left.get() or 0
    size = prod(shape) * np.dtype(dtype).itemsize
    if size > left:
        raise ValueError(f"weights of shape {shape} are larger than the {left} bytes that may be used")
    _left.set(left - size)
    return np.zeros(shape, dtype)
