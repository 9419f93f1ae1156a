"""What is worked out while a file is read: nodes whose inputs are constants, and weights that come quantised."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from fastmask.convert.onnx.graph import Array, Graph, Node
from fastmask.convert.onnx.operators import OPERATORS
from fastmask.convert.onnx.running import run_node
from fastmask.core import budget
from fastmask.core.errors import FileFormatError

# Shapes and their arithmetic are this small; what joins larger arrays number by number runs when the model does.
_FEW_BYTES = 1 << 16
_SAME_NUMBERS = (
    "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Cast", "Slice", "Split", "Concat", "DequantizeLinear",
)  # fmt: skip

_MOVING = ("Transpose", "Gather", "Reshape", "Squeeze", "Unsqueeze", "Identity")


def fold(graph: Graph) -> None:
    """Run the nodes of a graph that depend on constants alone, in the graphs within it too.

    What comes out takes its bytes off the budget of the file. Nodes that do nothing are left out.
    """
    kept: list[Node] = []
    pinned = {value.name for value in graph.outputs} | {name for node in graph.nodes for name in node.captured}
    same: dict[str, str] = {}
    for node in graph.nodes:
        node.inputs = [same.get(name, name) for name in node.inputs]
        if node.op == "Identity" and node.outputs[0] not in pinned:
            same[node.outputs[0]] = node.inputs[0]
            continue
        for inner in node.graphs.values():
            fold(inner)
        outputs = _folded(graph, node)
        if outputs is None:
            kept.append(node)
            continue
        named = {name: value for name, value in zip(node.outputs, outputs, strict=False) if name}
        graph.constants |= named
        source = next(iter(node.inputs), "")
        if node.op in _SAME_NUMBERS and (source in graph.trainable or node.op == "DequantizeLinear"):
            graph.trainable |= {name for name, value in named.items() if value.dtype.kind == "f" and value.size > 1}
    graph.nodes = kept
    graph.drop_unused()


def _folded(graph: Graph, node: Node) -> tuple[Any, ...] | None:
    """Return what a node makes of constants; None if it has others, or may make something large of them."""
    operator = OPERATORS.get(node.op)
    if operator is None or operator.bound is None or not node.inputs:
        return None
    if any(name and name not in graph.constants for name in node.inputs):
        return None
    inputs = [graph.constants[name] if name else None for name in node.inputs]
    try:
        size = operator.bound(node, *inputs)
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise FileFormatError(f"{node}: {error}") from error
    few = size <= _FEW_BYTES and sum(array.nbytes for array in inputs if array is not None) <= _FEW_BYTES
    if node.op not in _SAME_NUMBERS and not few:
        return None
    budget.take(size, str(node))
    return run_node(node, inputs, {})


def dequantise(graph: Graph) -> None:
    """Make float32 weights of those of each DynamicQuantizeLSTM, and of tables that are looked up as int8."""
    producers = graph.producers()
    for node in graph.nodes:
        if node.op == "DequantizeLinear":
            _dequantise_source(graph, producers, node)
    for node in graph.every_node():
        if node.op != "com.microsoft.DynamicQuantizeLSTM":
            continue
        names = [*node.inputs, *[""] * (12 - len(node.inputs))]
        for place in (1, 2):
            scale, zero = names[6 + 2 * place], names[7 + 2 * place]
            graph.constants[f"{names[place]}:float32"] = _weights(graph, node, names[place], scale, zero)
            names[place] = f"{names[place]}:float32"
            graph.trainable.add(names[place])
        node.op, node.inputs, node.version = "LSTM", names[:8], max(node.version, 14)
        warnings.warn(
            f"{node.name}: int8 weights of a DynamicQuantizeLSTM become float32, and its inputs and states are not "
            "quantised: results differ by what that rounding did",
            UserWarning, stacklevel=2,
        )  # fmt: skip


def _dequantise_source(graph: Graph, producers: dict[str, Node], node: Node) -> None:
    """Let a node that gives all numbers one scale do so at the constant that they come from, if nothing else is made.

    For that, operators that leave numbers as they are must be all that stands between.
    """
    constants = [graph.constants.get(name) for name in node.inputs[1:]]
    if any(array is None or array.size != 1 for array in constants):
        return
    chain: list[Node] = []
    name = node.inputs[0]
    while name in producers and producers[name].op in _MOVING and len(chain) < 8:
        chain.append(producers[name])
        name = chain[-1].inputs[0]
    names = {name, *(step.outputs[0] for step in chain)}
    uses = [other for other in graph.nodes if other.op not in ("Shape", "Size") and names.intersection(other.reads)]
    if name not in graph.constants or not chain or len(uses) != len(chain) + 1:
        return
    table = f"{name}:float32"
    budget.take(4 * graph.constants[name].size, str(node))
    scaled = run_node(Node("DequantizeLinear", node.inputs, [table], {}, node.version, node.name),
                      [graph.constants[name], *constants], {})  # fmt: skip
    graph.constants[table] = scaled[0]
    graph.trainable.add(table)
    chain[-1].inputs[0] = table
    node.op, node.inputs, node.attributes = "Identity", node.inputs[:1], {}


def _weights(graph: Graph, node: Node, name: str, scale: str, zero: str) -> Array:
    """Return quantised weights (D, F, 4H), whose scales belong to columns, as LSTM has them: (D, 4H, F)."""
    missing = next((part for part in (name, scale, zero) if part not in graph.constants), None)
    if missing is not None:
        raise FileFormatError(f"{node}: expected weights that are constants, got {missing!r}, which is computed")
    quantised, factor, shift = (graph.constants[part] for part in (name, scale, zero))
    if quantised.ndim != 3:
        raise FileFormatError(f"{node}: expected weights of three axes, got shape {quantised.shape}")
    wide = [len(factor), 1, -1] if factor.ndim == 2 else [-1, 1, 1]
    budget.take(4 * quantised.size, str(node))
    found = (quantised.astype(np.float32) - shift.astype(np.float32).reshape(wide)) * factor.reshape(wide)
    return np.ascontiguousarray(found.transpose(0, 2, 1), np.float32)
