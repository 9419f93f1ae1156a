"""Calls of layers as flat lists, which copy and pickle however long the chain is that they make."""

from collections.abc import Sequence
from typing import Any

from fastmask.graph.order import upstream
from fastmask.layers.base.symbolic import History, KerasTensor, Node

Calls = list[dict[str, Any]]


def flat(tensors: Sequence[KerasTensor]) -> tuple[Calls, list[int]]:
    """Return the calls that tensors depend on, and which of all outputs of these the tensors are."""
    nodes = upstream(tensors)
    places = {tensor: i for i, tensor in enumerate(tensor for node in nodes for tensor in node.outputs)}
    calls = [
        {
            "layer": node.layer,
            "sources": ([places[t] for t in node.inputs], [places[t] for t in node.states]),
            "masks": [None if t is None else places[t] for t in node.masks],
            "options": (node.training, node.options),
            "outputs": [(t.shape, t.dtype, t.name, t.mask_source, t.mask_axes) for t in node.outputs],
        }
        for node in nodes
    ]
    return calls, [places[tensor] for tensor in tensors]


def restored(calls: Calls, places: Sequence[int]) -> list[KerasTensor]:
    """Return the tensors of which `flat` has made this, as results of calls that their layers then have, too."""
    known: list[KerasTensor] = []
    for call in calls:
        layer, (training, options) = call["layer"], call["options"]
        inputs, states = ([known[i] for i in group] for group in call["sources"])
        masks = [None if i is None else known[i] for i in call["masks"]]
        node = Node(layer, inputs, states, training, options, masks=masks)
        for i, (shape, dtype, name, source, axes) in enumerate(call["outputs"]):
            node.outputs.append(KerasTensor(shape, dtype, name, source, History(layer, len(layer.nodes), i), axes))
        layer.nodes.append(node)
        known += node.outputs
    return [known[place] for place in places]
