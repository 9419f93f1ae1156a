"""Operators that together are an Embedding or a Dense layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmask.convert.onnx.graph import Array, Graph, Node
from fastmask.convert.onnx.simulation import ARRANGING, Flow, equal

_OF_IDS = frozenset(("Cast", "Less", "Not", "Mul", "Add", "Where", "Identity"))
_ACTIVATIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Softmax": "softmax"}
_MOST_IDS = 1 << 20


def find_embeddings(graph: Graph) -> None:
    """Make an Embedding of each Gather of rows of weights, with what wraps negative ids before it.

    A Gather counts these from the end of the table by itself.
    """
    flow = Flow(graph)
    for node in graph.nodes:
        table = graph.constants.get(node.inputs[0]) if node.op == "Gather" else None
        if table is None or table.ndim != 2 or node.get("axis", 0) != 0 or node.inputs[1] in graph.constants:
            continue
        if node.inputs[0] not in graph.trainable or not table.size:
            continue
        ids = _unwrapped(flow, node.inputs[1], len(table))
        flow.replace(node, Node("Embedding", [ids], node.outputs, {"table": node.inputs[0]}, 0, node.name))
    flow.finish()


def _unwrapped(flow: Flow, name: str, count: int) -> str:
    """Return the ids that a chain of operators on integers begins with, if it leaves their rows what they are."""
    start, best = name, name
    ids = np.arange(-count, count)
    seen = 0
    while start in flow.producers and count <= _MOST_IDS and seen < 16:
        node = flow.producers[start]
        sources = [entry for entry in node.reads if entry not in flow.graph.constants]
        if node.op not in _OF_IDS or not sources:
            break
        # The chain branches below its beginning: that is the first of all values it depends on.
        start = min(sources, key=lambda entry: flow.place.get(flow.producers[entry], -1) if entry in flow.producers
                    else -1)  # fmt: skip
        found = flow.simulate({start: ids}, _OF_IDS).get(name)
        if found is not None and found.shape == ids.shape and np.array_equal(found % count, ids % count):
            best = start
        seen += 1
    return best


def find_dense(graph: Graph) -> None:
    """Make a Dense layer of each product with a matrix of weights, with its bias, activation and reshapes."""
    flow = Flow(graph)
    for node in graph.nodes:
        kernel = _kernel(graph, node)
        if kernel is None:
            continue
        for x in _beginnings(flow, node.inputs[0]):
            found = _ending(flow, x, kernel)
            if found is not None:
                last, bias, rank = found
                _make_dense(flow, node, x, last, bias, rank)
                break
    flow.finish()


def _kernel(graph: Graph, node: Node) -> Array | None:
    """Return the matrix (F, units) of weights that a node multiplies with; None if it does not."""
    if node.op not in ("MatMul", "Gemm") or node.inputs[1] not in graph.trainable:
        return None
    weights = graph.constants[node.inputs[1]]
    plain = node.get("alpha", 1.0) == node.get("beta", 1.0) == 1 and not node.get("transA", 0)
    if weights.ndim != 2 or not plain or not weights.size or node.inputs[0] in graph.constants:
        return None
    return weights.T if node.get("transB", 0) else weights


def _beginnings(flow: Flow, name: str) -> list[str]:
    """Return the values that may be the layer's input, the farthest first."""
    found = [name]
    while len(found) < 8:
        node = flow.producers.get(found[-1])
        if node is None or node.op not in ("Reshape", "Cast", "Identity") or node.inputs[0] in flow.graph.constants:
            break
        found.append(node.inputs[0])
    return found[::-1]


def _ending(flow: Flow, x: str, kernel: Array) -> tuple[Node, str, int] | None:
    """Return the last node of a Dense layer on `x`, the name of its bias or "", and the axes of `x` if that matters."""
    best: tuple[int, Node, str] | None = None
    works: list[tuple[str, int]] = []
    for shape in ((2, 3), (5,)):
        labels = np.random.default_rng(0).normal(size=(*shape, len(kernel))).astype(kernel.dtype)
        values = flow.simulate({x: labels}, ARRANGING | {"MatMul", "Gemm"})
        product = labels @ kernel
        for name, value in values.items():
            node = flow.producers.get(name)
            if node is None or name == x or len(node.outputs) != 1:
                continue
            for bias in _biases(flow.graph, kernel.shape[1], node, flow):
                wanted = product if not bias else product + flow.graph.constants[bias]
                if equal(value, wanted):
                    works.append((name, labels.ndim))
                    key = flow.place.get(node, -1) + (len(flow.graph.nodes) if bias else 0)
                    if best is None or key > best[0]:
                        best = key, node, bias
    if best is None:
        return None
    ranks = {rank for name, rank in works if name == best[1].outputs[0]}
    return best[1], best[2], 0 if len(ranks) > 1 else ranks.pop()


def _biases(graph: Graph, units: int, node: Node, flow: Flow) -> list[str]:
    """Return "" and the names of the vectors of weights that a node or those just before it may have added."""
    found = [""]
    for _ in range(4):
        found += [
            name for name in node.inputs
            if name in graph.constants and graph.constants[name].shape == (units,) and name in graph.trainable
        ]  # fmt: skip
        sources = [name for name in node.inputs if name in flow.producers]
        before = flow.producers[sources[0]] if sources else None
        if before is None or len(found) > 1:
            break
        node = before
    return found


def _make_dense(flow: Flow, product: Node, x: str, last: Node, bias: str, rank: int) -> None:
    activation = None
    uses = flow.uses.get(last.outputs[0], [])
    after = uses[0] if len(uses) == 1 and last.outputs[0] not in flow.results else None
    rank = rank or flow.rank(x)
    if after is not None and after.op in _ACTIVATIONS and _is_last(after, rank):
        activation, last = _ACTIVATIONS[after.op], after
    attributes: dict[str, Any] = {
        "kernel": product.inputs[1], "turned": bool(product.get("transB", 0)), "bias": bias, "activation": activation,
        "rank": rank,
    }  # fmt: skip
    flow.replace(last, Node("Dense", [x], last.outputs, attributes, 0, product.name))


def _is_last(node: Node, rank: int) -> bool:
    """Return whether a softmax is over the last of so many axes; other activations always are."""
    if node.op != "Softmax":
        return True
    axis: int = node.get("axis", 1 if node.version < 13 else -1)
    return axis in (rank - 1, -1)
