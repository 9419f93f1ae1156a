"""Memory for what a file describes: weights that are about to be overwritten, and all else whose size it chooses."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

# How many bytes may still be created, None for any number.
_left: ContextVar[int | None] = ContextVar("_left", default=None)


@contextmanager
def placeholders(limit: int) -> Iterator[None]:
    """Make initializers return zeros; these and all that is asked of `take` have at most `limit` bytes altogether."""
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
    take(prod(shape) * np.dtype(dtype).itemsize, f"weights of shape {shape}")
    return np.zeros(shape, dtype)


def take(size: int, what: str) -> None:
    """Take bytes off what is left, within `placeholders`; ValueError if that is less."""
    left = _left.get()
    if left is None:
        return
    if size > left:
        raise ValueError(f"{what}: expected nothing larger than the {left} bytes that the file may ask for, got {size}")
    _left.set(left - size)
