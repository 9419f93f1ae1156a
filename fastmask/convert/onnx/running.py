"""Nodes and graphs run on arrays, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastmask.convert.onnx.graph import Array, Graph, Node
from fastmask.convert.onnx.operators import CONTROL, OPERATORS
from fastmask.convert.onnx.operators.control import loop_results
from fastmask.core.errors import FileFormatError

Values = Mapping[str, Any]
Guard = Callable[[Node, Sequence[Any]], None]


def require_known(graph: Graph) -> None:
    """Raise FileFormatError that names the node if an operator of a graph is unknown."""
    for node in graph.every_node():
        if node.op not in OPERATORS and node.op not in CONTROL:
            raise FileFormatError(f"{node}: expected an operator that fastmask knows, got none of that name")


def run_node(node: Node, inputs: Sequence[Any], around: Values, guard: Guard | None = None) -> tuple[Any, ...]:
    """Return the outputs of a node.

    Parameters
    ----------
    node : Node
    inputs : sequence of ndarray, list of ndarray or None
    around : mapping
        The values that graphs of the node take from around it, by name.
    guard : callable, optional
        Called before each node, those of graphs within too, and each step of a loop; what it raises ends the run.

    Raises
    ------
    ValueError
        That names the node, if the operator cannot be run on the inputs.
    """
    if guard is not None:
        guard(node, inputs)
    try:
        if node.op == "If":
            branch = node.get("then_branch" if np.all(inputs[0]) else "else_branch")
            return run_graph(branch, [], around, guard)
        if node.op in ("Loop", "Scan"):
            return (_loop if node.op == "Loop" else _scan)(node, inputs, around, guard)
        # What overflows, or is no number, goes on as such.
        with np.errstate(all="ignore"):
            found = OPERATORS[node.op].run(node, *inputs)
    except MemoryError:
        raise
    except IndexError as error:
        raise IndexError(f"{node}: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{node}: {error}") from error
    return found if isinstance(found, tuple) else (found,)


def run_graph(
    graph: Graph, inputs: Sequence[Any], around: Values, guard: Guard | None = None
) -> tuple[Any, ...]:
    """Return the outputs of a graph for inputs in the order of its own."""
    values = {**around, **graph.constants}
    values |= {value.name: given for value, given in zip(graph.inputs, inputs, strict=True)}
    for node in graph.nodes:
        given = [values[name] if name else None for name in node.inputs]
        found = run_node(node, given, values if node.graphs else {}, guard)
        values |= {name: value for name, value in zip(node.outputs, found, strict=False) if name}
    return tuple(values[value.name] for value in graph.outputs)


def _loop(node: Node, inputs: Sequence[Any], around: Values, guard: Guard | None) -> tuple[Any, ...]:
    body: Graph = node.get("body")
    most, going, *carried = inputs
    count = None if most is None else int(np.asarray(most).reshape(()))
    goes = going is None or bool(np.all(going))
    scanned: list[list[Array]] = [[] for _ in range(len(body.outputs) - 1 - len(carried))]
    step = 0
    while goes and (count is None or step < count):
        if guard is not None:
            guard(node, inputs)
        condition, *found = run_graph(body, [np.array(step, np.int64), np.array(True), *carried], around, guard)
        goes = bool(np.all(condition))
        carried = found[: len(carried)]
        for parts, value in zip(scanned, found[len(carried) :], strict=True):
            parts.append(value)
        step += 1
    return loop_results(body, list(carried), scanned)


def _scan(node: Node, inputs: Sequence[Any], around: Values, guard: Guard | None) -> tuple[Any, ...]:
    body: Graph = node.get("body")
    count = node.get("num_scan_inputs")
    carried, sequences = list(inputs[: len(inputs) - count]), inputs[len(inputs) - count :]
    axes = node.get("scan_input_axes") or [0] * count
    ways = node.get("scan_input_directions") or [0] * count
    given = [np.moveaxis(x, axis, 0)[:: -1 if way else 1] for x, axis, way in zip(sequences, axes, ways, strict=True)]
    scanned: list[list[Array]] = [[] for _ in range(len(body.outputs) - len(carried))]
    for step in range(len(given[0])):
        found = run_graph(body, [*carried, *[x[step] for x in given]], around, guard)
        carried = list(found[: len(carried)])
        for parts, value in zip(scanned, found[len(carried) :], strict=True):
            parts.append(value)
    results = loop_results(body, carried, scanned)
    axes = node.get("scan_output_axes") or [0] * len(scanned)
    ways = node.get("scan_output_directions") or [0] * len(scanned)
    stacked = [
        np.moveaxis(y[:: -1 if way else 1], 0, axis)
        for y, axis, way in zip(results[len(carried) :], axes, ways, strict=True)
    ]
    return (*carried, *stacked)
