"""Runs of a graph on small made-up batches while it is read: bounded in time and memory, whatever the file holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastmask.convert.onnx.graph import Array, Graph, Node, Value
from fastmask.convert.onnx.operators import CONTROL, OPERATORS
from fastmask.convert.onnx.running import run_node

_MOST_NODES, _MOST_BYTES = 20_000, 1 << 22


class RefusedError(Exception):
    """A run would take too long, or too much memory."""


class Limits:
    """A guard of runs: lets so many nodes run, and none make much."""

    def __init__(self, most: int) -> None:
        self.left = most

    def __call__(self, node: Node, inputs: Sequence[Any]) -> None:
        self.left -= 1
        operator = OPERATORS.get(node.op)
        if self.left < 0 or (operator is None and node.op not in CONTROL):
            raise RefusedError
        if operator is None:
            return
        if operator.bound is None:
            raise RefusedError
        try:
            size = operator.bound(node, *inputs)
        except (ValueError, TypeError, IndexError, AttributeError):
            raise RefusedError from None
        if size > _MOST_BYTES:
            raise RefusedError


class Trial:
    """The values of a graph for a batch of made-up numbers; those that cannot be had are missing.

    Parameters
    ----------
    graph : Graph
    rows, steps : int
        Lengths of axes that the file leaves open: of the first one, and of those after it.
    """

    def __init__(self, graph: Graph, rows: int, steps: int) -> None:
        self.rows, self.steps = rows, steps
        self.graph = graph
        self.random = np.random.default_rng(rows)
        self._limits = Limits(_MOST_NODES)
        self.values: dict[str, Any] = {value.name: self._made(value) for value in graph.inputs}
        self.values |= graph.constants
        for node in graph.nodes:
            self.values |= self.results(node, {})

    def _made(self, value: Value) -> Array:
        axes = value.axes or (None, None)
        open_axes = [self.rows if i == 0 else self.steps for i in range(len(axes))]
        shape = [n if isinstance(n, int) and i else own for i, (n, own) in enumerate(zip(axes, open_axes, strict=True))]
        if np.prod(shape, dtype=float) * 8 > _MOST_BYTES:
            return np.zeros(0)
        if value.dtype is not None and value.dtype.kind == "f":
            return self.random.normal(size=shape).astype(value.dtype)
        # Ids, or lengths: these numbers fit any table, and the first row is whole.
        most = 2 if len(shape) > 1 else self.steps + 1
        found = self.random.integers(1 if len(shape) == 1 else 0, most, shape)
        return found.astype(value.dtype or np.int64)

    def with_others(self, others: Mapping[str, Any]) -> dict[str, Any]:
        """Return all values that change where other values stand in place of some."""
        self._limits = Limits(_MOST_NODES)
        changed = dict(others)
        for node in self.graph.nodes:
            if not changed.keys().isdisjoint(node.reads):
                found = self.results(node, changed)
                changed |= {name: found.get(name) for name in node.outputs if name not in others}
        return changed

    def results(self, node: Node, others: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs of a node by name, with other values in place of some; nothing if they cannot be had."""
        values = {**self.values, **others}
        if any(values.get(name) is None for name in node.reads):
            return {}
        given = [values[name] if name else None for name in node.inputs]
        try:
            found = run_node(node, given, values if node.graphs else {}, self._limits)
        except (RefusedError, ValueError, IndexError, MemoryError):
            return {}
        return {name: value for name, value in zip(node.outputs, found, strict=False) if name}
