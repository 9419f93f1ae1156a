"""Cells of recurrent layers that an exporter wrote once for each step of a sequence of fixed length.

As with loops, what comes out for random numbers tells which layer they are.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from fastmask.convert.onnx.graph import Array, Graph, Node
from fastmask.convert.onnx.loops import KINDS, MOST_CANDIDATES, SIZES, Cell, alike, biases, cells, nodes_of
from fastmask.convert.onnx.trial import Trial

_MOST_SOURCES = 8
Values = dict[str, Any]


def find_unrolled(graph: Graph) -> None:
    """Make an RNN, LSTM or GRU of cells that share the weights of their states, if their steps are not needed apart."""
    counts: dict[str, int] = {}
    turned: dict[str, Array] = {}
    for node in graph.nodes:
        name = node.inputs[1] if node.op in ("MatMul", "Gemm") else ""
        if name in graph.trainable:
            counts[name] = counts.get(name, 0) + 1
            turned[name] = graph.constants[name].T if node.get("transB", 0) else graph.constants[name]
    shared = [name for name, count in counts.items() if count > 1 and _is_square(turned[name])]
    if not shared:
        return
    trials = [Trial(graph, rows, steps) for rows, steps in SIZES]
    floats = [turned.get(name, array) for name, array in graph.constants.items() if name in graph.trainable]
    for name in shared:
        _replace_cells(graph, trials, name, turned[name], floats)


def _is_square(weights: Array) -> bool:
    """Return whether weights can be those that a cell multiplies its states with."""
    if weights.ndim != 2 or not weights.size:
        return False
    return weights.shape[1] // len(weights) in KINDS and weights.shape[1] % len(weights) == 0


def _replace_cells(graph: Graph, trials: list[Trial], name: str, recurrent: Array, floats: list[Array]) -> None:
    """Put one recurrent layer in the place of all cells with some weights, if there is one."""
    first, columns = trials[0], recurrent.shape[1]
    moving = {key: value for key, value in first.values.items() if key not in graph.constants}
    sources = [(key, False) for key, value in moving.items() if _is_sequence(value, 1, first.rows)]
    sources += [(key, True) for key, value in moving.items() if _is_sequence(value, 0, first.rows)]
    masks = [key for key, value in moving.items() if _is_mask(value, first.rows)]
    number = 0
    for (x, batch_first), mask in list(product(sources, [*masks, ""]))[:_MOST_SOURCES]:
        tried = [_outcome(trial, x, mask, batch_first) for trial in trials]
        features = first.values[x].shape[2]
        kernels = [array for array in floats if array.shape == (features, columns) and array is not recurrent]
        for kernel, bias in product(kernels, biases(floats, columns)):
            for cell in cells(KINDS[columns // len(recurrent)], (x, mask, ()), kernel, recurrent, bias):
                number += 1
                roles = _common_roles(cell, tried) if number < MOST_CANDIDATES else {}
                if roles and _replaced(graph, name, cell, roles, batch_first):
                    return


def _is_sequence(value: Any, axis: int, rows: int) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim == 3 and value.shape[axis] == rows


def _is_mask(value: Any, rows: int) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == bool and value.ndim == 3 and value.shape[1:] == (rows, 1)


def _outcome(trial: Trial, x: str, mask: str, batch_first: bool) -> tuple[Array, Array | None, Values]:
    """Return random inputs (T, B, F) and a mask (T, B), and what becomes of all values with them."""
    random = np.random.default_rng(5)
    like = trial.values[x].swapaxes(0, 1) if batch_first else trial.values[x]
    made, valid = random.normal(size=like.shape).astype(like.dtype), None
    others: Values = {x: made.swapaxes(0, 1) if batch_first else made}
    if mask:
        valid = random.random(like.shape[:2]) < 0.6
        # So that no state is that of a step before in all rows.
        valid[:, 0] = True
        if trial.values[mask].shape[:2] == valid.shape:
            others[mask] = valid[..., None]
    return made, valid, trial.with_others(others)


def _common_roles(cell: Cell, tried: list[tuple[Array, Array | None, Values]]) -> dict[str, str]:
    """Return the values that are results of a cell in each trial, with the results that they are."""
    found: list[dict[str, str]] = []
    for x, mask, values in tried:
        results = cell.run(x, mask, None)
        made = {name: value for name, value in values.items() if name not in (cell.x, cell.mask)}
        found.append({name: role for role, wanted in results.items() for name, y in made.items() if alike(y, wanted)})
    return {name: role for name, role in found[0].items() if all(other.get(name) == role for other in found[1:])}


def _replaced(graph: Graph, weights: str, cell: Cell, roles: dict[str, str], batch_first: bool) -> bool:
    """Put the layer into the graph; False, and nothing is changed, if some of the cells are needed nevertheless."""
    before = graph.nodes
    alone = {node.outputs[0] for node in before if len(node.outputs) == 1 and node.outputs[0] in roles}
    if not alone:
        return False
    place = min(i for i, node in enumerate(before) if node.outputs[0] in alone)
    name = f"{weights}:cells"
    loop = Node("Unrolled", [], [cell.x], {}, 0, name)
    made = []
    if batch_first:
        made.append(Node("Transpose", [cell.x], [f"{name}:steps"], {"perm": [1, 0, 2]}, 13, name))
        cell = replace(cell, x=made[0].outputs[0])
    made += nodes_of(graph, loop, cell, {key: role for key, role in roles.items() if key in alone})
    graph.nodes = [*before[:place], *made, *[node for node in before[place:] if node.outputs[0] not in alone]]
    graph.drop_unused()
    if any(weights in node.inputs for node in graph.nodes):
        graph.nodes = before
        return False
    return True
