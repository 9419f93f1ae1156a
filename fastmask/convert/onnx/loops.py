"""Loops and scans over the steps of a sequence whose body is the cell of a recurrent layer.

Exporters write the same cell in many ways, so that a body is not read but tried: what it makes of random numbers is
compared with what the equations of each cell make of them, with the weights that the body reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations, permutations, product
from typing import Any

import numpy as np

from fastmask import reference
from fastmask.convert.onnx.graph import Array, Graph, Node
from fastmask.convert.onnx.operators.recurrent import CELLS
from fastmask.convert.onnx.simulation import Flow
from fastmask.convert.onnx.trial import Trial
from fastmask.ops.rnn.layouts import reordered

SIZES = ((2, 5), (3, 4))
KINDS = {4: "LSTM", 3: "GRU", 1: "RNN"}
_ACTIVATIONS = {"RNN": (("tanh",), ("relu",)), "GRU": (("sigmoid", "tanh"),), "LSTM": (("sigmoid", "tanh"),)}
_ONNX_NAMES = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid"}
MOST_CANDIDATES = 256


@dataclass(frozen=True)
class Cell:
    """A guess at what a loop computes: names of values around it, and arrays of weights in Keras's layout."""

    kind: str
    x: str
    mask: str
    states: tuple[str, ...]
    kernel: Array
    recurrent: Array
    bias: Array | None
    reset_after: bool
    activations: tuple[str, ...]

    def run(self, x: Array, mask: Array | None, states: tuple[Array, ...] | None) -> dict[str, Array]:
        """Return all outputs, with the time first and with the batch first, and the final states.

        For inputs (T, B, F), a mask (T, B), and states or None for zeros.
        """
        options: dict[str, Any] = {"activation": self.activations[-1]}
        if self.kind != "RNN":
            options["recurrent_activation"] = self.activations[0]
        if self.kind == "GRU":
            options["reset_after"] = self.reset_after
        if mask is not None:
            options["mask"] = mask.T
        function = {"RNN": reference.simple_rnn, "GRU": reference.gru, "LSTM": reference.lstm}[self.kind]
        y, last = function(x.swapaxes(0, 1), self.kernel, self.recurrent, self.bias, states, **options)
        return {"y": y.swapaxes(0, 1), "rows": y, "h": last[0], **({"c": last[1]} if len(last) > 1 else {})}


def find_loops(graph: Graph) -> None:
    """Make an RNN, LSTM or GRU of each Loop and Scan that is one."""
    if not any(node.op in ("Loop", "Scan") for node in graph.nodes):
        return
    trials = [Trial(graph, rows, steps) for rows, steps in SIZES]
    flow = Flow(graph)
    nodes: list[Node] = []
    for node in graph.nodes:
        found = _recognised(flow, trials, node) if node.op in ("Loop", "Scan") else None
        nodes += [node] if found is None else found
    graph.nodes = nodes
    graph.drop_unused()


def _recognised(flow: Flow, trials: list[Trial], node: Node) -> list[Node] | None:
    """Return the nodes that stand for a loop; None if it is none of the known cells."""
    used = [name for name in node.outputs if name and (name in flow.uses or name in flow.results)]
    known = all(name in trial.values for trial in trials for name in (*node.reads, *used))
    if not known or not used:
        return None
    for number, cell in enumerate(_candidates(flow, trials[0], node)):
        if number >= MOST_CANDIDATES:
            break
        roles = [_roles(flow, trial, node, cell, used) for trial in trials]
        if None not in roles:
            # An output that has two roles in one trial has one of them alone in the other.
            both = {name: roles[0][name] & roles[1][name] for name in used}  # type: ignore[index]
            if all(both.values()):
                return nodes_of(flow.graph, node, cell, {name: min(found) for name, found in both.items()})
    return None


def _candidates(flow: Flow, trial: Trial, node: Node) -> Iterator[Cell]:
    """Yield the cells that the shapes of what a loop reads allow."""
    constants = flow.graph.constants
    arrays = [trial.values[name] for name in node.reads if name in constants]
    arrays += [array for graph in node.graphs.values() for array in graph.constants.values()]
    floats = [array for array in arrays if array.dtype.kind == "f" and array.dtype.itemsize > 2]
    moving = {name: trial.values[name] for name in node.reads if name not in constants}
    sequences = [n for n, v in moving.items() if _is_float(v) and v.ndim == 3 and v.shape[1] == trial.rows]
    masks = [n for n, v in moving.items() if isinstance(v, np.ndarray) and v.dtype == bool and v.ndim in (2, 3)]
    states = [n for n, v in moving.items() if _is_float(v) and v.ndim == 2 and len(v) == trial.rows]
    for x, mask, recurrent in product(sequences, masks or [""], floats):
        features = trial.values[x].shape[2]
        units = len(recurrent) if recurrent.ndim == 2 else 0
        gates = recurrent.shape[1] // units if units else 0
        if gates not in KINDS or recurrent.shape != (units, gates * units):
            continue
        columns = gates * units
        kernels = [array for array in floats if array.shape == (features, columns) and array is not recurrent]
        own = [name for name in states if trial.values[name].shape[1] == units]
        pairs = product(own, repeat=2 if gates == 4 else 1)
        for kernel, given, bias in product(kernels, list(pairs), biases(floats, columns)):
            yield from cells(KINDS[gates], (x, mask, given), kernel, recurrent, bias)


def cells(
    kind: str, values: tuple[str, str, tuple[str, ...]], kernel: Array, recurrent: Array, bias: Array | None
) -> Iterator[Cell]:
    x, mask, states = values
    for activations in _ACTIVATIONS[kind]:
        for reset_after in (True, False) if kind == "GRU" else (True,):
            if bias is not None and (bias.ndim == 2) != (kind == "GRU" and reset_after):
                continue
            yield Cell(kind, x, mask, states, kernel, recurrent, bias, reset_after, activations)
            if kind == "GRU":
                # PyTorch has the reset gate first.
                turned = [_first_two_swapped(array) for array in (kernel, recurrent)]
                own = None if bias is None else _first_two_swapped(bias)
                yield Cell(kind, x, mask, states, turned[0], turned[1], own, reset_after, activations)


def _first_two_swapped(array: Array) -> Array:
    first, second, *rest = np.split(array, 3, -1)
    return np.concatenate([second, first, *rest], -1)


def biases(floats: list[Array], columns: int) -> list[Array | None]:
    """Return what the bias may be: one array, two put together as a GRU has them, two that are added, or none."""
    flat = [array for array in floats if array.shape == (columns,)]
    pairs: list[Array | None] = [np.stack(pair) for pair in permutations(flat[:4], 2)]
    sums: list[Array | None] = [first + second for first, second in combinations(flat[:4], 2)]
    return [*[array for array in floats if array.shape == (2, columns)], *pairs, *sums, *flat, None]


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _roles(flow: Flow, trial: Trial, node: Node, cell: Cell, used: list[str]) -> dict[str, set[str]] | None:
    """Return which results of a cell each output of a loop is, on random inputs; None if one is none of them."""
    random = np.random.default_rng(7)
    like = trial.values[cell.x]
    others: dict[str, Any] = {cell.x: random.normal(size=like.shape).astype(like.dtype)}
    mask = None
    if cell.mask:
        grid = random.random(like.shape[:2]) < 0.6
        shape = trial.values[cell.mask].shape
        if shape not in (grid.shape, (*grid.shape, 1)):
            return None
        mask, others[cell.mask] = grid, grid.reshape(shape)
    # Under a mask, what stands before the first valid step is zeros with some exporters and the state with others.
    zero = [flow.is_zero(name) for name in node.reads if _is_float(trial.values[name]) and trial.values[name].ndim == 2
            and name not in flow.graph.constants]  # fmt: skip
    if cell.mask and not all(zero):
        return None
    for name in cell.states:
        start = trial.values[name]
        others[name] = start if cell.mask else random.normal(size=start.shape).astype(start.dtype)
    outputs = trial.results(node, others)
    if not outputs:
        return None
    found = cell.run(others[cell.x], mask, tuple(others[name] for name in cell.states))
    roles = {name: {role for role, value in found.items() if alike(outputs[name], value)} for name in used}
    return roles if all(roles.values()) else None


def alike(found: Any, wanted: Array) -> bool:
    if not isinstance(found, np.ndarray) or found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    tolerance = 2e-5 if wanted.dtype == np.float32 else 1e-9
    return bool(np.allclose(found, wanted, tolerance, tolerance))


def nodes_of(graph: Graph, loop: Node, cell: Cell, roles: dict[str, str]) -> list[Node]:
    """Return the node of ONNX that a cell is, whose weights become constants, and nodes that shape its outputs."""
    base = f"{loop.name}:{loop.outputs[0]}"
    units = len(cell.recurrent)
    bias = np.zeros((2, cell.kernel.shape[1]), cell.kernel.dtype)
    if cell.bias is not None:
        bias[: np.ndim(cell.bias)] = cell.bias
    names = [f"{base}:{part}" for part in ("W", "R", "B")]
    ordered = partial(reordered, cell=CELLS[cell.kind], given="keras", wanted="onnx")
    arrays = [ordered(cell.kernel.T)[None], ordered(cell.recurrent.T)[None], ordered(bias.T).T.reshape(1, -1)]
    graph.constants |= dict(zip(names, arrays, strict=True))
    graph.trainable |= set(names)
    nodes, starts = [], []
    for state in cell.states:
        starts.append(f"{base}:{state}:start")
        nodes.append(Node("Unsqueeze", [state], [starts[-1]], {"axes": [0]}, 11, loop.name))
    activations = [_ONNX_NAMES[name] for name in cell.activations]
    attributes = {
        "hidden_size": units, "linear_before_reset": int(cell.reset_after),
        "activations": activations + activations[1:] * (cell.kind == "LSTM"),
    }  # fmt: skip
    outputs = {role: f"{base}:{role}" for role in ("y", "h", *(("c",) if cell.kind == "LSTM" else ()))}
    # A mask, which ONNX's own operators do not have, stands behind all their inputs.
    inputs = [cell.x, *names, "", *starts]
    inputs += [*[""] * (8 - len(inputs)), cell.mask] if cell.mask else []
    nodes.append(Node(cell.kind, inputs, list(outputs.values()), attributes, 14, loop.name))
    for name, role in roles.items():
        source = f"{base}:{name}:steps" if role == "rows" else name
        axis = 1 if role in ("y", "rows") else 0
        nodes.append(Node("Squeeze", [outputs["y" if axis else role]], [source], {"axes": [axis]}, 11, loop.name))
        if role == "rows":
            nodes.append(Node("Transpose", [source], [name], {"perm": [1, 0, 2]}, 13, loop.name))
    return nodes
