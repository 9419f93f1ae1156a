"""Arithmetic on gradients, dense or of some rows only."""

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import numpy as np

from fastmask import ops

Gradient = Any  # ndarray or ops.SparseRows


def apply(grad: Gradient, function: Callable[[Any], Any]) -> Gradient:
    """Apply an elementwise function with f(0) = 0."""
    if isinstance(grad, ops.SparseRows):
        return ops.SparseRows(grad.ids, function(grad.rows), grad.shape)
    return function(grad)


def norm(grads: Sequence[Gradient]) -> float:
    """Return the Euclidean norm of all entries together."""
    total = 0.0
    for grad in grads:
        values = grad.rows if isinstance(grad, ops.SparseRows) else grad
        total += float(np.sum(np.square(values, dtype=np.float64)))
    return math.sqrt(total)


def scale_to(grad: Gradient, limit: float, size: float) -> Gradient:
    """Scale down a gradient that is part of one of norm `size`, so that this is `limit`."""
    if size <= limit:
        return grad
    return apply(grad, lambda g: g * g.dtype.type(limit / size))


def clipped(grad: Gradient, limit: float) -> Gradient:
    """Return a gradient with all entries between -`limit` and `limit`."""
    return apply(grad, lambda g: np.clip(g, g.dtype.type(-limit), g.dtype.type(limit)))


def not_negative(name: str, value: Any) -> float:
    """Return a number of at least 0, also one in an array without axes, as a float; ValueError for anything else."""
    plain = np.asarray(value).item() if getattr(value, "shape", None) == () else value
    number = float(plain) if isinstance(plain, Real) and not isinstance(plain, bool) else -1.0
    if not number >= 0:
        raise ValueError(f"{name}: expected a number of at least 0, got {value!r}")
    return number


def share(name: str, value: Any) -> float:
    """Return a number from 0 to 1 as a float; ValueError for anything else."""
    number = not_negative(name, value)
    if number > 1:
        raise ValueError(f"{name}: expected a number between 0 and 1, got {value!r}")
    return number
