"""RNN, LSTM and GRU step by step, with every attribute that ONNX knows, for what no kernel computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastmask.convert.onnx.graph import Array, Node
from fastmask.convert.onnx.operators.base import Operator
from fastmask.convert.onnx.operators.elementwise import sigmoid
from fastmask.ops.rnn import layouts

Function = Callable[[Array], Array]
CELLS = {"RNN": "simple_rnn", "GRU": "gru", "LSTM": "lstm"}
GATES = {kind: len(layouts.GATES["onnx"][cell]) for kind, cell in CELLS.items()}
_FUNCTIONS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
_DEFAULTS = {
    "affine": (1.0, 0.0), "leakyrelu": (0.01, 0.0), "thresholdedrelu": (1.0, 0.0), "scaledtanh": (1.0, 1.0),
    "hardsigmoid": (0.2, 0.5), "elu": (1.0, 0.0),
}  # fmt: skip


def activations(node: Node) -> list[tuple[str, float, float]]:
    """Return the names in lower case of the activations of all directions, each with its alpha and beta.

    Raises
    ------
    ValueError
        If there are not as many as the operator has, or one is unknown.
    """
    directions = 2 if node.get("direction", "forward") == "bidirectional" else 1
    names = node.get("activations") or _FUNCTIONS[node.op] * directions
    if len(names) != len(_FUNCTIONS[node.op]) * directions:
        raise ValueError(f"activations: expected {len(_FUNCTIONS[node.op]) * directions}, got {len(names)}")
    given = {key: list(node.get(f"activation_{key}") or ()) for key in ("alpha", "beta")}
    found = []
    for name in (name.lower() for name in names):
        function(name, 1.0, 1.0)
        pair: list[float] = list(_DEFAULTS.get(name, (1.0, 0.0)))
        for i, key in enumerate(("alpha", "beta")):
            takes = name in _DEFAULTS and not (i == 1 and name not in ("affine", "scaledtanh", "hardsigmoid"))
            if takes and given[key]:
                pair[i] = float(given[key].pop(0))
        found.append((name, pair[0], pair[1]))
    return found


def function(name: str, alpha: float, beta: float) -> Function:
    """Return an activation by its name in lower case; ValueError if it is unknown."""
    known: dict[str, Function] = {
        "relu": lambda x: np.maximum(x, 0),
        "tanh": np.tanh,
        "sigmoid": sigmoid,
        "affine": lambda x: alpha * x + beta,
        "leakyrelu": lambda x: np.where(x < 0, alpha * x, x),
        "thresholdedrelu": lambda x: np.where(x >= alpha, x, 0),
        "scaledtanh": lambda x: alpha * np.tanh(beta * x),
        "hardsigmoid": lambda x: np.clip(alpha * x + beta, 0, 1),
        "elu": lambda x: np.where(x < 0, alpha * (np.exp(np.minimum(x, 0)) - 1), x),
        "softsign": lambda x: x / (1 + np.abs(x)),
        "softplus": lambda x: np.logaddexp(x, 0),
    }
    if name not in known:
        raise ValueError(f"activations: expected one of {', '.join(known)}, got {name!r}")
    return known[name]


def _step(node: Node, functions: list[Function], peepholes: Any) -> Callable[..., list[Array]]:
    """Return the function that makes the states of a step from the inputs, the states and the weights."""
    limit, before = node.get("clip"), not node.get("linear_before_reset", 0)

    def cut(x: Array) -> Array:
        return x if limit is None else np.clip(x, -limit, limit)

    def simple(x: Array, r: Array, b: Array, h: Array) -> list[Array]:
        return [functions[0](cut(x + h @ r.T + b))]

    def gated(x: Array, r: Array, b: Array, h: Array) -> list[Array]:
        n = h.shape[1]
        z, reset = np.split(functions[0](cut(x[:, : 2 * n] + h @ r[: 2 * n].T + b[: 2 * n])), 2, 1)
        own, last = x[:, 2 * n :], r[2 * n :]
        met = (reset * h) @ last.T + b[2 * n :] if before else reset * (h @ last.T + b[2 * n :])
        return [(1 - z) * functions[1](cut(own + met)) + z * h]

    def long_short(x: Array, r: Array, b: Array, h: Array, c: Array) -> list[Array]:
        i, o, f, g = np.split(x + h @ r.T + b, 4, 1)
        p_i, p_o, p_f = (0, 0, 0) if peepholes is None else np.split(peepholes, 3)
        i = functions[0](cut(i + p_i * c))
        f = 1 - i if node.get("input_forget", 0) else functions[0](cut(f + p_f * c))
        c = f * c + i * functions[1](cut(g))
        return [functions[0](cut(o + p_o * c)) * functions[2](c), c]

    steps: dict[str, Callable[..., list[Array]]] = {"RNN": simple, "GRU": gated, "LSTM": long_short}
    return steps[node.op]


def _direction(
    step: Callable[..., list[Array]], weights: tuple[Array, Array, Array, Array], x: Array, lengths: Any,
    states: list[Array], backwards: bool,
) -> tuple[Array, list[Array]]:
    """Run over x (T, B, F); outputs (T, B, H) in the order of time, and the last states."""
    w, r, own, met = weights
    y = np.zeros((*x.shape[:2], r.shape[1]), x.dtype)
    inputs = x @ w.T + own
    for t in range(len(x))[:: -1 if backwards else 1]:
        new = step(inputs[t], r, met, *states)
        valid = np.ones((x.shape[1], 1), bool) if lengths is None else (t < lengths)[:, None]
        states = [np.where(valid, a, b).astype(x.dtype) for a, b in zip(new, states, strict=True)]
        y[t] = np.where(valid, states[0], 0)
    return y, states


def run(
    node: Node, x: Array, w: Array, r: Array, bias: Any = None, lengths: Any = None, h: Any = None, c: Any = None,
    peepholes: Any = None,
) -> tuple[Array, ...]:
    """Return all outputs, the last h and the last c if there is one, in the layout of the node."""
    batch_first = node.get("layout", 0)
    if batch_first:
        x = x.swapaxes(0, 1)
        h, c = (None if a is None else a.swapaxes(0, 1) for a in (h, c))
    directions, columns, units = r.shape
    names = activations(node)
    each = len(names) // directions
    start = np.zeros((directions, x.shape[1], units), x.dtype)
    found = []
    for d in range(directions):
        functions = [function(*entry) for entry in names[d * each : (d + 1) * each]]
        b = np.zeros(2 * columns, x.dtype) if bias is None else bias[d]
        states = [(start if s is None else s)[d] for s in ((h, c) if node.op == "LSTM" else (h,))]
        backwards = d == 1 or node.get("direction", "forward") == "reverse"
        step = _step(node, functions, None if peepholes is None else peepholes[d])
        found.append(_direction(step, (w[d], r[d], b[:columns], b[columns:]), x, lengths, states, backwards))
    y = np.stack([sequence for sequence, _ in found], 1)
    finals = [np.stack(states) for states in zip(*[states for _, states in found], strict=True)]
    if batch_first:
        return (y.transpose(2, 0, 1, 3), *[state.swapaxes(0, 1) for state in finals])
    return (y, *finals)


RECURRENT = {name: Operator(run) for name in GATES}
