"""What chains of operators do to the places of numbers, found out by running them on a few labelled numbers.

Exporters write one thing in many ways: the sequence of a BiLSTM is transposed and reshaped by one, sliced and
concatenated by another. What comes out for labels is the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from fastmask.convert.onnx.graph import Array, Graph, Node
from fastmask.convert.onnx.running import run_node
from fastmask.convert.onnx.trial import Limits, RefusedError

ARRANGING = frozenset((
    "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather", "Concat", "Split", "Identity", "Cast",
    "Shape", "Size", "Mul", "Add", "Sub", "Div", "ReduceProd",
))  # fmt: skip
# With inputs that are weights, which have no more axes.
_OF_ONE_RANK = (
    "MatMul", "Gemm", "Add", "Relu", "Tanh", "Sigmoid", "Softmax", "Identity", "Cast", "Transpose", "Dropout",
)  # fmt: skip
_MOST_NODES, _MOST_STEPS = 64, 1000


class Flow:
    """Which nodes make and read the values of a graph.

    Parameters
    ----------
    graph : Graph
        As it is when a pattern begins; `finish` puts into it what the pattern has found.

    Attributes
    ----------
    sizes : list of tuple of two int
        Rows and steps of the batches to try: of several lengths, unless all inputs have one and the same.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.producers, self.uses = graph.producers(), graph.uses()
        self.place = {node: i for i, node in enumerate(graph.nodes)}
        self.results = {value.name for value in graph.outputs}
        self._found: dict[Node, Node | None] = {}
        fixed = {value.axes[1] for value in graph.inputs if value.axes and len(value.axes) > 1}
        self.sizes = [(2, 3), (4, 5)]
        if len(fixed) == 1 and isinstance(length := next(iter(fixed)), int) and 0 < length <= _MOST_STEPS:
            self.sizes = [(rows, length) for rows, _ in self.sizes]

    def replace(self, old: Node, new: Node | None) -> None:
        """Note that a node is to stand in the place of another, or none."""
        self._found[old] = new

    def finish(self) -> None:
        """Put what was found into the graph, and take out what is not needed any more."""
        found = [self._found.get(node, node) for node in self.graph.nodes]
        self.graph.nodes = [node for node in found if node is not None]
        self.graph.drop_unused()

    def simulate(self, given: Mapping[str, Array], allowed: Collection[str]) -> dict[str, Any]:
        """Return the values that follow from the given ones and constants alone, through operators of some kinds.

        Nodes that cannot be run on what there is are passed over.
        """
        values: dict[str, Any] = dict(given)
        limits = Limits(_MOST_NODES)
        waiting: list[tuple[int, Node]] = []
        seen: set[Node] = set()

        def follow(name: str) -> None:
            for node in self.uses.get(name, ()):
                if node not in seen and node.op in allowed and len(seen) < 4 * _MOST_NODES:
                    seen.add(node)
                    heapq.heappush(waiting, (self.place.get(node, -1), node))

        for name in given:
            follow(name)
        while waiting:
            node = heapq.heappop(waiting)[1]
            for name, value in self._results(node, values, limits).items():
                values[name] = value
                follow(name)
        return values

    def _results(self, node: Node, values: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
        constants = self.graph.constants
        if any(name not in values and name not in constants for name in node.reads):
            return {}
        given = [values.get(name, constants.get(name)) if name else None for name in node.inputs]
        try:
            limits(node, given)
            found = run_node(node, given, {})
        except (RefusedError, ValueError, IndexError):
            return {}
        return {name: value for name, value in zip(node.outputs, found, strict=False) if name}

    def is_zero(self, name: str, depth: int = 32) -> bool:
        """Return whether a value is nothing but zeros, whatever its shape."""
        constant = self.graph.constants.get(name)
        if constant is not None:
            return not np.any(constant)
        node = self.producers.get(name)
        if node is None or depth == 0:
            return False
        if node.op == "ConstantOfShape":
            return not np.any(node.get("value", 0))
        if node.op in ("Expand", "Slice", "Unsqueeze", "Squeeze", "Transpose", "Reshape", "Cast", "Identity", "Tile",
                       "Gather", "Split", "Mul"):  # fmt: skip
            return self.is_zero(node.inputs[0], depth - 1)
        return node.op == "Concat" and all(self.is_zero(entry, depth - 1) for entry in node.inputs)

    def rank(self, name: str, depth: int = 32) -> int:
        """Return the number of axes of a value, 0 if that is not known."""
        node = self.producers.get(name)
        if node is None or depth == 0:
            axes = next((value.axes for value in self.graph.inputs if value.name == name), None)
            return len(axes or ())
        if node.op == "Recurrence":
            return (4, 3, 3, 3, 2)[node.outputs.index(name)]
        if node.op == "Embedding":
            ids = self.rank(node.inputs[0], depth - 1)
            return ids + 1 if ids else 0
        if node.op in _OF_ONE_RANK:
            source = next((entry for entry in node.inputs if entry not in self.graph.constants), "")
            return self.rank(source, depth - 1)
        return 0


def equal(found: Any, wanted: Array) -> bool:
    """Return whether a simulated value is another array, up to rounding."""
    alike = isinstance(found, np.ndarray) and found.shape == wanted.shape and found.dtype == wanted.dtype
    return bool(alike) and bool(np.allclose(found, wanted, 1e-4))
