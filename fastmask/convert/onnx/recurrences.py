"""RNN, LSTM and GRU whose equations the kernels have, with what exporters write around them."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmask.convert.onnx.graph import Array, Graph, Node
from fastmask.convert.onnx.operators.recurrent import GATES, activations
from fastmask.convert.onnx.simulation import ARRANGING, Flow, equal

# What a Recurrence can give: ONNX's own outputs, all steps (B, T, D * H) and the last outputs (B, D * H).
Y, Y_H, Y_C, SEQUENCE, LAST = range(5)
_NAMES = {
    "tanh": "tanh", "sigmoid": "sigmoid", "relu": "relu", "softsign": "softsign", "affine": "linear", "elu": "elu",
    "hardsigmoid": "hard_sigmoid_keras2",
}  # fmt: skip
_PLAIN = {"affine": (1.0, 0.0), "elu": (1.0, 0.0), "hardsigmoid": (0.2, 0.5)}


def find_recurrences(graph: Graph) -> None:
    """Make a Recurrence of each node that the kernels can compute; the others stay what they are."""
    flow = Flow(graph)
    steps: dict[str, Node] = {}
    for node in graph.nodes:
        options = _options(graph, node) if node.op in GATES else None
        if options is None:
            continue
        inputs = [*node.inputs, *[""] * (7 - len(node.inputs))]
        x, lengths, *states = inputs[0], *inputs[4:7]
        states = ["" if not name or flow.is_zero(name) else name for name in states]
        # One state that is given alone stands beside zeros of its shape.
        first = node.get("layout", 0) == 1
        if not first:
            x, first = _batch_first(flow, steps, x)
        outputs = [*node.outputs, *[""] * (3 - len(node.outputs)), "", ""]
        inputs, attributes = [x, lengths, *states, "".join(node.inputs[8:])], options | {"first": first}
        made = Node("Recurrence", inputs, outputs, attributes, node.version, node.name)
        flow.replace(node, made)
        _find_results(flow, made, steps)
    flow.finish()
    _leave_out_unread(graph)


def _options(graph: Graph, node: Node) -> dict[str, Any] | None:
    """Return the attributes of the Recurrence of a node; None if no kernel computes it."""
    inputs = [*node.inputs, *[""] * (8 - len(node.inputs))]
    weights = [graph.constants.get(name) if name else None for name in inputs[1:4]]
    known = all(name in graph.trainable for name in inputs[1:3]) and (weights[2] is not None or not inputs[3])
    odd = inputs[7] or node.get("clip") is not None or node.get("input_forget", 0)
    if not known or odd:
        return None
    direction = node.get("direction", "forward")
    directions = 2 if direction == "bidirectional" else 1
    if direction not in ("forward", "reverse", "bidirectional") or not _shapes_fit(node, directions, weights):
        return None
    found = activations(node)
    if any(name not in _NAMES or (alpha, beta) != _PLAIN.get(name, (alpha, beta)) for name, alpha, beta in found):
        return None
    each = len(found) // directions
    names = [[_NAMES[name] for name, *_ in found[d * each : (d + 1) * each]] for d in range(directions)]
    if node.op == "LSTM" and any(own[1] != own[2] for own in names):
        return None
    return {
        "kind": node.op, "direction": direction, "weights": inputs[1:4], "activations": names,
        "reset_after": bool(node.get("linear_before_reset", 0)), "layout": node.get("layout", 0),
    }  # fmt: skip


def _shapes_fit(node: Node, directions: int, weights: list[Array | None]) -> bool:
    w, r, b = weights
    if w is None or r is None or w.ndim != 3 or r.ndim != 3 or w.dtype.itemsize < 4:
        return False
    columns, units = GATES[node.op] * r.shape[2], r.shape[2]
    fit = w.shape[:2] == (directions, columns) and r.shape == (directions, columns, units) and w.size and r.size
    return bool(fit) and (b is None or b.shape == (directions, 2 * columns)) and w.dtype == r.dtype


def _batch_first(flow: Flow, steps: dict[str, Node], x: str) -> tuple[str, bool]:
    """Return the batch-major value that a time-major one is made of, and True; itself and False if there is none."""
    if x in steps:
        before = steps[x]
        if not before.outputs[SEQUENCE]:
            before.outputs[SEQUENCE] = f"{x}:sequence"
        return before.outputs[SEQUENCE], True
    node = flow.producers.get(x)
    if node is not None and node.op == "Transpose" and node.get("perm") == [1, 0, 2]:
        return node.inputs[0], True
    return x, False


def _find_results(flow: Flow, node: Node, steps: dict[str, Node]) -> None:
    """Find the values behind a node that are its sequence or last outputs, however they are put together."""
    sizes = [_labelled(flow, node, time, rows) for rows, time in flow.sizes]
    own = set(node.outputs)
    found: list[list[str]] = []
    for kind in range(4):
        alike = [{n for n, value in values.items() if equal(value, wanted[kind])} for values, wanted in sizes]
        common = set.intersection(*alike) - own
        found.append(sorted(common, key=lambda name: flow.place.get(flow.producers[name], -1)))
    for place, names in ((SEQUENCE, found[0]), (LAST, found[1])):
        if names and len(flow.producers[names[0]].outputs) == 1:
            node.outputs[place] = names[0]
            flow.replace(flow.producers[names[0]], None)
    steps |= dict.fromkeys(found[2], node)
    # What else is made of the steps is made of the sequence, so that ONNX's own output need not be there.
    for op, attributes, names in (("Transpose", {"perm": [1, 0, 2]}, found[2]), ("Shape", {}, found[3])):
        for name in names:
            before = flow.producers[name]
            if len(before.outputs) == 1:
                node.outputs[SEQUENCE] = node.outputs[SEQUENCE] or f"{name}:sequence"
                flow.replace(before, Node(op, [node.outputs[SEQUENCE]], [name], dict(attributes), 13, before.name))


def _labelled(flow: Flow, node: Node, time: int, rows: int) -> tuple[dict[str, Any], list[Array]]:
    """Return what follows from labelled outputs, and what is looked for.

    That is: the sequence, the last outputs, the sequence with the time first, and the shape of the sequence.
    """
    directions = 2 if node.get("direction") == "bidirectional" else 1
    shape = (time, directions, rows, 3)
    y = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    h = -1 - np.arange(directions * rows * 3, dtype=np.float32).reshape(directions, rows, 3)
    if not node.inputs[1] and directions == 1:
        h = y[0 if node.get("direction") == "reverse" else -1]
    batch_major = node.get("layout")
    given = {
        node.outputs[Y]: y.transpose(2, 0, 1, 3) if batch_major else y,
        node.outputs[Y_H]: h.transpose(1, 0, 2) if batch_major else h,
    }
    values = flow.simulate({name: value for name, value in given.items() if name}, ARRANGING)
    sequence = y.transpose(2, 0, 1, 3).reshape(rows, time, directions * 3)
    last = h.transpose(1, 0, 2).reshape(rows, directions * 3)
    return values, [sequence, last, sequence.swapaxes(0, 1), np.array(sequence.shape, np.int64)]


def _leave_out_unread(graph: Graph) -> None:
    """Leave out outputs of each Recurrence that no output of the graph depends on."""
    wanted = {value.name for value in graph.outputs}
    for node in reversed(graph.nodes):
        if node.op == "Recurrence":
            node.outputs = [name if name in wanted else "" for name in node.outputs]
        if wanted.intersection(node.outputs):
            wanted.update(node.reads)
    graph.drop_unused()
