"""Operators that pick numbers by their places, and put them there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastmask.convert.onnx.graph import Array, Node
from fastmask.convert.onnx.operators.base import Gradients, Operator, integers


def _inside(index: Array, n: int) -> Array:
    """Return indices of an axis of length n, those from the end counted from the start; IndexError outside."""
    if index.size and (index.min() < -n or index.max() >= n):
        raise IndexError(f"indices: expected numbers from {-n} to {n - 1}, got {index.min()} to {index.max()}")
    return np.where(index < 0, index + n, index)


def _gather(node: Node, x: Array, index: Array) -> Array:
    axis = node.get("axis", 0)
    return np.asarray(np.take(x, _inside(np.asarray(index), x.shape[axis]), axis))


def _gather_gradient(node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]) -> Gradients:
    x, index = inputs
    axis = node.get("axis", 0) % x.ndim
    found = np.zeros(x.shape, d[0].dtype)
    moved = np.moveaxis(found, axis, 0)
    rows = np.asarray(index).reshape(-1)
    taken = np.moveaxis(d[0], range(axis, axis + np.ndim(index)), range(np.ndim(index)))
    np.add.at(moved, _inside(rows, x.shape[axis]), taken.reshape(rows.size, *moved.shape[1:]))
    return [found, None]


def _gather_elements(node: Node, x: Array, index: Array) -> Array:
    axis = node.get("axis", 0)
    n = x.shape[axis]
    # The other axes of the indices may be shorter.
    places: list[Array] = list(np.indices(index.shape, sparse=True))
    places[axis] = _inside(index, n)
    return np.asarray(x[tuple(places)])


def _gather_elements_gradient(
    node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]
) -> Gradients:
    x, index = inputs
    axis = node.get("axis", 0)
    places = list(np.indices(index.shape))
    places[axis] = _inside(index, x.shape[axis])
    found = np.zeros(x.shape, d[0].dtype)
    np.add.at(found, tuple(places), d[0])
    return [found, None]


def _gather_nd(node: Node, x: Array, index: Array) -> Array:
    kept = node.get("batch_dims", 0)
    grids: list[Array] = list(np.indices(index.shape[:kept])) if kept else []
    rows = [grid.reshape(*index.shape[:kept], *[1] * (index.ndim - kept - 1)) for grid in grids]
    return np.asarray(x[(*rows, *np.moveaxis(index, -1, 0))])


def _joined(node: Node, target: Array, places: Any, values: Array) -> Array:
    y, how = target.copy(), node.get("reduction", "none")
    if how == "none":
        y[places] = values
    else:
        {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[how].at(y, places, values)
    return y


def _scatter_elements(node: Node, x: Array, index: Array, values: Array) -> Array:
    axis = node.get("axis", 0)
    places = list(np.indices(index.shape))
    places[axis] = _inside(index, x.shape[axis])
    return _joined(node, x, tuple(places), values)


def _scatter_nd(node: Node, x: Array, index: Array, values: Array) -> Array:
    return _joined(node, x, tuple(np.moveaxis(index, -1, 0)), values)


def _top_k(node: Node, x: Array, k: Any = None) -> tuple[Array, Array]:
    axis, count = node.get("axis", -1), int(node.get("k") if k is None else integers(k)[0])
    if not 0 <= count <= x.shape[axis]:
        raise ValueError(f"k: expected a number from 0 to {x.shape[axis]}, got {count}")
    if node.get("largest", 1):
        # Backwards and sorted stably: of equal numbers the first one comes first.
        order = x.shape[axis] - 1 - np.flip(np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
    else:
        order = np.argsort(x, axis, kind="stable")
    index = np.take(order, range(count), axis)
    return np.take_along_axis(x, index, axis), index.astype(np.int64)


def _top_k_gradient(node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]) -> Gradients:
    found = np.zeros(inputs[0].shape, inputs[0].dtype)
    if d[0] is not None:
        np.put_along_axis(found, outputs[1], d[0], node.get("axis", -1))
    return [found, *[None] * (len(inputs) - 1)]


def _non_zero(node: Node, x: Array) -> Array:
    return np.array(np.nonzero(np.atleast_1d(x)), np.int64)


def _trilu(node: Node, x: Array, k: Any = None) -> Array:
    return np.asarray((np.triu if node.get("upper", 1) else np.tril)(x, 0 if k is None else integers(k)[0]))


def _one_hot(node: Node, index: Array, depth: Array, values: Array) -> Array:
    n, axis = integers(depth)[0], node.get("axis", -1)
    places = np.where(index < 0, index + n, index).astype(np.int64)
    hot = np.moveaxis(places[..., None] == np.arange(n), -1, axis)
    return np.asarray(np.where(hot, values[1], values[0])).astype(values.dtype)


def _compress(node: Node, x: Array, condition: Array) -> Array:
    return np.asarray(np.compress(condition, x, node.get("axis")))


def _gather_size(node: Node, x: Array, index: Array) -> int:
    return int(x.nbytes // max(1, x.shape[node.get("axis", 0)]) * np.size(index))


PICKING = {
    "Gather": Operator(_gather, _gather_gradient, _gather_size),
    "GatherElements": Operator(_gather_elements, _gather_elements_gradient),
    "GatherND": Operator(_gather_nd),
    "ScatterElements": Operator(_scatter_elements, None, lambda node, x, index, values: x.nbytes),
    "ScatterND": Operator(_scatter_nd, None, lambda node, x, index, values: x.nbytes),
    "TopK": Operator(_top_k, _top_k_gradient),
    "NonZero": Operator(_non_zero),
    "Trilu": Operator(_trilu),
    "OneHot": Operator(_one_hot),
    "Compress": Operator(_compress),
}
