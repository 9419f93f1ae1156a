"""Operators that hold graphs (Loop, Scan and If), and those of sequences of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmask.convert.onnx.graph import Array, Graph, Node
from fastmask.convert.onnx.operators.base import Operator


def _concat_from_sequence(node: Node, arrays: list[Array]) -> Array:
    return (np.stack if node.get("new_axis", 0) else np.concatenate)(arrays, node.get("axis", 0))


def _sequence_insert(node: Node, arrays: list[Array], array: Array, place: Any = None) -> list[Array]:
    where = len(arrays) if place is None else int(np.reshape(place, ()))
    where = where + len(arrays) if where < 0 else where
    return [*arrays[:where], array, *arrays[where:]]


def _split_to_sequence(node: Node, x: Array, split: Any = None) -> list[Array]:
    axis = node.get("axis", 0)
    n = x.shape[axis]
    size = 1 if split is None else np.asarray(split)
    cuts = np.cumsum(size)[:-1] if np.ndim(size) else np.arange(int(size), n, int(size))
    parts = np.split(x, cuts, axis)
    return [np.squeeze(part, axis) for part in parts] if split is None and not node.get("keepdims", 1) else parts


def loop_results(body: Graph, carried: list[Any], scanned: list[list[Any]]) -> tuple[Any, ...]:
    """Return what a Loop or Scan gives: what it carried, and what it collected, put behind each other."""
    outputs = body.outputs[len(body.outputs) - len(scanned) :]
    stacked = []
    for value, parts in zip(outputs, scanned, strict=True):
        shape = [0 if n is None else n for n in value.shape or ()]
        stacked.append(np.stack(parts) if parts else np.zeros((0, *shape), value.dtype or np.float32))
    return (*carried, *stacked)


SEQUENCES = {
    "SequenceEmpty": Operator(lambda node: []),
    "SequenceConstruct": Operator(lambda node, *arrays: list(arrays)),
    "SequenceInsert": Operator(_sequence_insert),
    "SequenceAt": Operator(lambda node, arrays, place: arrays[int(np.reshape(place, ()))]),
    "SequenceLength": Operator(lambda node, arrays: np.array(len(arrays), np.int64)),
    "SplitToSequence": Operator(_split_to_sequence),
    "ConcatFromSequence": Operator(_concat_from_sequence),
}
