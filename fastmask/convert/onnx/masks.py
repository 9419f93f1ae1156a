"""Masks that a graph makes of ids other than 0: as in Keras, the Embedding of the ids makes them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastmask.convert.onnx.emission import is_plain
from fastmask.convert.onnx.graph import Graph, Node
from fastmask.convert.onnx.simulation import ARRANGING, Flow

_OF_MASKS = ARRANGING | {"Equal", "Not", "Greater", "Less", "Expand", "Where"}


def find_masks(graph: Graph) -> None:
    """Let each Embedding make the mask of the recurrent layers behind it, if nothing else is behind it but Dense.

    Then the layers skip what is masked without a look at the padded batch, and take batches without padding.
    """
    for node in [node for node in graph.nodes if node.op == "Embedding"]:
        masks = [other.inputs[4] for other in graph.nodes if other.op == "Recurrence" and other.inputs[4]]
        for mask in dict.fromkeys(masks):
            if _is_of(graph, node, mask) and _given_to(graph, node, mask):
                break


def _is_of(graph: Graph, embedding: Node, mask: str) -> bool:
    """Return whether a mask (T, B, 1) is True where the ids of an Embedding are not 0."""
    flow, width = Flow(graph), graph.constants[embedding.get("table")].shape[1]
    for rows, steps in flow.sizes:
        ids = np.random.default_rng(rows).integers(0, 2, (rows, steps))
        table = np.zeros((rows, steps, width), np.float32)
        found = flow.simulate({embedding.inputs[0]: ids, embedding.outputs[0]: table}, _OF_MASKS).get(mask)
        wanted = (ids != 0).T
        if not isinstance(found, np.ndarray) or found.dtype != bool or found.size != wanted.size:
            return False
        if not np.array_equal(found.reshape(wanted.shape), wanted):
            return False
    return True


def _given_to(graph: Graph, embedding: Node, mask: str) -> bool:
    """Let an Embedding make a mask; False, and nothing is changed, if something reads the values besides the layers."""
    before = graph.nodes, [list(node.inputs) for node in graph.nodes]
    group = list(_behind(graph, embedding, mask))
    for node in group:
        if node.op == "Recurrence":
            node.inputs[4] = ""
    graph.drop_unused()
    carried = {name for node in (embedding, *group) for name in node.outputs if name}
    strange = [node for node in graph.nodes if node not in group and not carried.isdisjoint(node.reads)]
    used = any(node.op == "Recurrence" for node in group)
    if used and not strange and all(is_plain(node) for node in group if node.op == "Recurrence"):
        embedding.attributes["mask_zero"] = True
        return True
    graph.nodes = before[0]
    for node, inputs in zip(graph.nodes, before[1], strict=True):
        node.inputs = inputs
    return False


def _behind(graph: Graph, embedding: Node, mask: str) -> Iterator[Node]:
    """Yield the recurrent layers with a mask, and the Dense layers, that steps of an Embedding reach."""
    carried = {embedding.outputs[0]}
    for node in graph.nodes:
        own = node.op == "Recurrence" and node.inputs[4] == mask
        if (own or node.op == "Dense") and node.inputs[0] in carried:
            carried.update(name for name in node.outputs if name)
            yield node
