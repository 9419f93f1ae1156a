"""What an operator is: a function on arrays, and where there is one, its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from fastmask.convert.onnx.graph import Array, Node

Gradients = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator of ONNX.

    Attributes
    ----------
    run : callable
        ``run(node, *inputs)`` returns the output, or a tuple of several. Inputs that are left out are None.
    gradient : callable or None
        ``gradient(node, inputs, outputs, d)`` returns the gradients by the inputs, None where there is none; ``d``
        holds those by the outputs, None for zeros.
    bound : callable or None
        ``bound(node, *inputs)`` returns the size in bytes that the outputs have at most, for operators on constants
        that may be run while a file is read.
    """

    run: Callable[..., Any]
    gradient: Callable[[Node, Sequence[Any], Sequence[Any], Sequence[Any]], Gradients] | None = None
    bound: Callable[..., int] | None = None


def size_of_inputs(node: Node, *inputs: Any) -> int:
    """Return the bytes of all inputs: a bound for operators that only arrange them anew."""
    return sum(array.nbytes for array in inputs if isinstance(array, np.ndarray))


def size_of_broadcast(node: Node, *inputs: Any) -> int:
    """Return the bytes, eight for each number, of what inputs are broadcast to."""
    return 8 * prod(np.broadcast_shapes(*[np.shape(array) for array in inputs if array is not None]))


def reduced_to(shape: tuple[int, ...], d: Array) -> Array:
    """Return the sum of a gradient over the axes along which an array of `shape` was repeated."""
    if d.shape == shape:
        return d
    d = d.sum(axis=tuple(range(d.ndim - len(shape))))
    repeated = tuple(axis for axis, n in enumerate(shape) if n == 1 and d.shape[axis] != 1)
    return d.sum(axis=repeated, keepdims=True) if repeated else d


def integers(value: Any) -> list[int]:
    """Return an array or list of integers as a list."""
    return [int(n) for n in np.asarray(value).reshape(-1)]


def constant_list(node: Node, name: str, given: Any) -> list[int] | None:
    """Return integers that newer operators take as an input and older ones as an attribute; None if left out."""
    value = node.get(name) if given is None else given
    return None if value is None else integers(value)
