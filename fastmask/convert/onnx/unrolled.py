"""Cells of recurrent layers that an exporter wrote once for each step of a sequence of fixed length.

As with loops, what comes out for random numbers tells which layer they are.
"""

from __future__ import annotations

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
    for node in graph.nodes:
        if node.op == "MatMul" and node.inputs[1] in graph.trainable:
            counts[node.inputs[1]] = counts.get(node.inputs[1], 0) + 1
    shared = [name for name, count in counts.items() if count > 1 and _is_square(graph.constants[name])]
    if not shared:
        return
    trials = [Trial(graph, rows, steps) for rows, steps in SIZES]
    for name in shared:
        _replace_cells(graph, trials, name)


def _is_square(weights: Array) -> bool:
    """Return whether weights can be those that a cell multiplies its states with."""
    if weights.ndim != 2 or not weights.size:
        return False
    return weights.shape[1] // len(weights) in KINDS and weights.shape[1] % len(weights) == 0


def _replace_cells(graph: Graph, trials: list[Trial], name: str) -> None:
    """Put one recurrent layer in the place of all cells with some weights, if there is one."""
    recurrent, first = graph.constants[name], trials[0]
    floats = [array for key, array in graph.constants.items() if key in graph.trainable]
    gates, columns = recurrent.shape[1] // len(recurrent), recurrent.shape[1]
    sources = [n for n, v in first.values.items() if _is_sequence(v, first.rows) and n not in graph.constants]
    masks = [n for n, v in first.values.items() if _is_mask(v, first.rows)]
    number = 0
    for x, mask in list(product(sources, [*masks, ""]))[:_MOST_SOURCES]:
        tried = [_outcome(trial, x, mask) for trial in trials]
        features = first.values[x].shape[2]
        kernels = [array for array in floats if array.shape == (features, columns) and array is not recurrent]
        for kernel, bias in product(kernels, biases(floats, columns)):
            for cell in cells(KINDS[gates], (x, mask, ()), kernel, recurrent, bias):
                number += 1
                roles = _common_roles(graph, cell, tried) if number < MOST_CANDIDATES else {}
                if roles and _replaced(graph, name, cell, roles):
                    return


def _is_sequence(value: Any, rows: int) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim == 3 and value.shape[1] == rows


def _is_mask(value: Any, rows: int) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == bool and value.ndim == 3 and value.shape[1:] == (rows, 1)


def _outcome(trial: Trial, x: str, mask: str) -> tuple[Array, Array | None, Values]:
    """Return random inputs (T, B, F) and a mask (T, B), and what becomes of all values with them."""
    random = np.random.default_rng(5)
    like = trial.values[x]
    others: Values = {x: random.normal(size=like.shape).astype(like.dtype)}
    valid = None
    if mask:
        valid = random.random(like.shape[:2]) < 0.6
        if trial.values[mask].shape[:2] == valid.shape:
            others[mask] = valid[..., None]
    return others[x], valid, trial.with_others(others)


def _common_roles(graph: Graph, cell: Cell, tried: list[tuple[Array, Array | None, Values]]) -> dict[str, str]:
    """Return the values that are results of a cell in each trial, with the results that they are."""
    found: list[dict[str, str]] = []
    for x, mask, values in tried:
        results = cell.run(x, mask, None)
        made = {name: value for name, value in values.items() if name not in (cell.x, cell.mask)}
        found.append({name: role for role, wanted in results.items() for name, y in made.items() if alike(y, wanted)})
    return {name: role for name, role in found[0].items() if all(other.get(name) == role for other in found[1:])}


def _replaced(graph: Graph, weights: str, cell: Cell, roles: dict[str, str]) -> bool:
    """Put the layer into the graph; False, and nothing is changed, if some of the cells are needed nevertheless."""
    before = graph.nodes
    place = min(i for i, node in enumerate(before) if not roles.keys().isdisjoint(node.outputs))
    single = {name: role for name, role in roles.items() if [name] in [node.outputs for node in before]}
    kept = [node for node in before if node.outputs[0] not in single or len(node.outputs) > 1]
    place -= sum(node not in kept for node in before[:place])
    made = nodes_of(graph, Node("Unrolled", [], [f"{weights}:{cell.x}"], {}, 0, f"{weights}:cells"), cell, single)
    graph.nodes = [*kept[:place], *made, *kept[place:]]
    graph.drop_unused()
    if any(node.op == "MatMul" and node.inputs[1] == weights for node in graph.nodes):
        graph.nodes = before
        return False
    return True
