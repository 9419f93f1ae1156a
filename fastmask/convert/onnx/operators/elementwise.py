"""Operators that act on each number by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from math import erf as math_erf
from math import sqrt
from typing import Any

import numpy as np

from fastmask import ops
from fastmask.convert.onnx.graph import Array, Node
from fastmask.convert.onnx.operators.base import Gradients, Operator, reduced_to, size_of_broadcast, size_of_inputs


def _binary(function: Callable[..., Any], slopes: Callable[..., tuple[Any, Any]] | None = None) -> Operator:
    """Return the operator of a function of two arrays; `slopes` gives the gradients ``(d, x, y, z)``, not summed."""

    def run(node: Node, x: Array, y: Array) -> Array:
        return np.asarray(function(x, y))

    def gradient(node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]) -> Gradients:
        assert slopes is not None
        found = slopes(d[0], *inputs, outputs[0])
        return [reduced_to(np.shape(x), np.asarray(g)) for x, g in zip(inputs, found, strict=True)]

    return Operator(run, None if slopes is None else gradient, size_of_broadcast)


def _unary(
    function: Callable[..., Any], slope: Callable[..., Any] | None = None, **defaults: Any
) -> Operator:
    """Return the operator of a function of one array and of attributes, given with their defaults.

    `slope` gives the derivative at ``(x, y)``.
    """

    def options(node: Node) -> dict[str, Any]:
        return {name: node.get(name, value) for name, value in defaults.items()}

    def run(node: Node, x: Array) -> Array:
        return np.asarray(function(x, **options(node)), dtype=None)

    def gradient(node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]) -> Gradients:
        assert slope is not None
        return [d[0] * slope(inputs[0], outputs[0], **options(node))]

    return Operator(run, None if slope is None else gradient, size_of_inputs)


def divide(x: Array, y: Array) -> Any:
    """Return the quotient; that of integers is cut off towards zero."""
    if x.dtype.kind == "f":
        return x / y
    return np.asarray(np.sign(x) * np.sign(y) * (np.abs(x) // np.abs(y))).astype(x.dtype)


def _power(x: Array, y: Array) -> Array:
    return np.asarray(np.power(x, y)).astype(x.dtype)


def sigmoid(x: Array) -> Array:
    """Return the logistic function, without overflow."""
    return ops.activation(x, "sigmoid") if x.dtype.kind == "f" and x.dtype.itemsize > 2 else 1 / (1 + np.exp(-x))


def _activation(name: str) -> Callable[[Array], Array]:
    return lambda x: ops.activation(x, name) if x.size else x


_erf_scalar = np.frompyfunc(math_erf, 1, 1)


def erf(x: Array) -> Array:
    """Return the error function."""
    return np.asarray(_erf_scalar(x)).astype(x.dtype)


def _erf_slope(x: Array, y: Array) -> Array:
    return np.asarray(2 / sqrt(np.pi) * np.exp(-x * x)).astype(x.dtype)


def _gelu(x: Array, approximate: str) -> Array:
    if approximate == "tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(sqrt(2 / np.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1 + erf(x / np.asarray(sqrt(2), x.dtype))))


def _leaky(x: Array, alpha: float) -> Array:
    return np.asarray(np.where(x < 0, x * x.dtype.type(alpha), x))


def _elu(x: Array, alpha: float) -> Array:
    return np.asarray(np.where(x < 0, (np.exp(np.minimum(x, 0)) - 1) * x.dtype.type(alpha), x))


def _several(function: Callable[[Array, Array], Array], mean: bool = False) -> Operator:
    """Return the operator that joins any number of arrays."""

    def run(node: Node, *inputs: Array) -> Array:
        total = reduce(function, inputs)
        return np.asarray(total / total.dtype.type(len(inputs)) if mean else total)

    def gradient(node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]) -> Gradients:
        if function is np.add:
            share = d[0] / len(inputs) if mean else d[0]
            return [reduced_to(np.shape(x), share) for x in inputs]
        # Where several are the largest, the first of them gets the gradient.
        taken = np.zeros(outputs[0].shape, bool)
        found = []
        for x in inputs:
            here = (x == outputs[0]) & ~taken
            taken |= here
            found.append(reduced_to(np.shape(x), d[0] * here))
        return found

    return Operator(run, gradient, size_of_broadcast)


def _clip(node: Node, x: Array, low: Any = None, high: Any = None) -> Array:
    low = node.get("min") if low is None else low
    high = node.get("max") if high is None else high
    # Limits are applied in this order: where they contradict each other, the upper one counts.
    y = x if low is None else np.maximum(x, np.asarray(low, x.dtype))
    return np.asarray(y if high is None else np.minimum(y, np.asarray(high, x.dtype)))


def _clip_gradient(node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]) -> Gradients:
    return [d[0] * (inputs[0] == outputs[0]), *[None] * (len(inputs) - 1)]


def _where(node: Node, condition: Array, x: Array, y: Array) -> Array:
    return np.where(condition, x, y)


def _where_gradient(node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]) -> Gradients:
    condition, x, y = inputs
    nothing = d[0].dtype.type(0)
    return [
        None,
        reduced_to(np.shape(x), np.where(condition, d[0], nothing)),
        reduced_to(np.shape(y), np.where(condition, nothing, d[0])),
    ]


def _modulo(node: Node, x: Array, y: Array) -> Array:
    return np.asarray(np.fmod(x, y) if node.get("fmod", 0) else np.mod(x, y))


def _log_slope(x: Array, y: Array) -> Array:
    return 1 / x


ELEMENTWISE = {
    "Add": _binary(np.add, lambda d, x, y, z: (d, d)),
    "Sub": _binary(np.subtract, lambda d, x, y, z: (d, -d)),
    "Mul": _binary(np.multiply, lambda d, x, y, z: (d * y, d * x)),
    "Div": _binary(divide, lambda d, x, y, z: (d / y, -d * z / y)),
    "Pow": _binary(_power, lambda d, x, y, z: (d * y * np.power(x, y - 1), d * z * np.log(np.maximum(x, 1e-38)))),
    "Mod": Operator(_modulo, None, size_of_broadcast),
    "And": _binary(np.logical_and),
    "Or": _binary(np.logical_or),
    "Xor": _binary(np.logical_xor),
    "Equal": _binary(np.equal),
    "Greater": _binary(np.greater),
    "GreaterOrEqual": _binary(np.greater_equal),
    "Less": _binary(np.less),
    "LessOrEqual": _binary(np.less_equal),
    "PRelu": _binary(lambda x, s: np.where(x < 0, s * x, x)),
    "Max": _several(np.maximum),
    "Min": _several(np.minimum),
    "Sum": _several(np.add),
    "Mean": _several(np.add, mean=True),
    "Not": _unary(np.logical_not),
    "IsNaN": _unary(np.isnan),
    "Abs": _unary(np.abs, lambda x, y: np.sign(x)),
    "Neg": _unary(np.negative, lambda x, y: -1),
    "Sign": _unary(np.sign),
    "Floor": _unary(np.floor),
    "Ceil": _unary(np.ceil),
    "Round": _unary(np.rint),
    "Sqrt": _unary(np.sqrt, lambda x, y: 0.5 / y),
    "Reciprocal": _unary(np.reciprocal, lambda x, y: -y * y),
    "Exp": _unary(np.exp, lambda x, y: y),
    "Log": _unary(np.log, _log_slope),
    "Sin": _unary(np.sin, lambda x, y: np.cos(x)),
    "Cos": _unary(np.cos, lambda x, y: -np.sin(x)),
    "Erf": _unary(erf, _erf_slope),
    "Tanh": _unary(np.tanh, lambda x, y: 1 - y * y),
    "Sigmoid": _unary(sigmoid, lambda x, y: y * (1 - y)),
    "Relu": _unary(lambda x: np.maximum(x, x.dtype.type(0)), lambda x, y: x > 0),
    "Softplus": _unary(lambda x: np.logaddexp(x, x.dtype.type(0)), lambda x, y: sigmoid(x)),
    "Softsign": _unary(lambda x: x / (1 + np.abs(x)), lambda x, y: (1 - np.abs(y)) ** 2),
    "HardSigmoid": _unary(
        lambda x, alpha, beta: np.clip(x * x.dtype.type(alpha) + x.dtype.type(beta), 0, 1),
        lambda x, y, alpha, beta: alpha * ((y > 0) & (y < 1)), alpha=0.2, beta=0.5,
    ),
    "HardSwish": _unary(lambda x: x * np.clip(x / x.dtype.type(6) + x.dtype.type(0.5), 0, 1)),
    "LeakyRelu": _unary(_leaky, lambda x, y, alpha: np.where(x < 0, x.dtype.type(alpha), 1), alpha=0.01),
    "Elu": _unary(_elu, lambda x, y, alpha: np.where(x < 0, y + x.dtype.type(alpha), 1), alpha=1.0),
    "Selu": _unary(
        lambda x, alpha, gamma: x.dtype.type(gamma) * _elu(x, alpha),
        alpha=1.67326319217681884765625, gamma=1.05070102214813232421875,
    ),
    "ThresholdedRelu": _unary(lambda x, alpha: np.where(x > alpha, x, x.dtype.type(0)), alpha=1.0),
    "Gelu": _unary(_gelu, approximate="none"),
    "Clip": Operator(_clip, _clip_gradient, size_of_inputs),
    "Where": Operator(_where, _where_gradient, size_of_broadcast),
}  # fmt: skip
