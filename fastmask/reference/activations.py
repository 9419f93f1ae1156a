"""Activation functions and their derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
Pullback = Callable[[Array], Array]

SELU_SCALE = 1.0507009873554805
SELU_ALPHA = 1.6732632423543772


def tanh(x: Array) -> Array:
    """Hyperbolic tangent."""
    return np.tanh(x)


def sigmoid(x: Array) -> Array:
    """``1 / (1 + exp(-x))``, without overflow."""
    e = np.exp(-np.abs(x))
    y: Array = np.where(x >= 0, 1, e) / (1 + e)
    return y


def hard_sigmoid(x: Array) -> Array:
    """Keras 3: ``clip(x / 6 + 0.5, 0, 1)``."""
    return np.clip(x / 6 + 0.5, 0, 1)


def hard_sigmoid_keras2(x: Array) -> Array:
    """Keras 1 and 2's: a line of slope 0.2 through (0, 1/2), clipped to [0, 1]."""
    return np.clip(x * x.dtype.type(0.2) + x.dtype.type(0.5), 0, 1)


def relu(x: Array) -> Array:
    """``max(x, 0)``."""
    return np.maximum(x, 0)


def linear(x: Array) -> Array:
    """``x`` itself."""
    return x


def softsign(x: Array) -> Array:
    """``x / (1 + |x|)``."""
    y: Array = x / (1 + np.abs(x))
    return y


def elu(x: Array) -> Array:
    """``x`` above zero, ``exp(x) - 1`` below."""
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def selu(x: Array) -> Array:
    """Scaled ``elu`` of self-normalising networks."""
    return SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(np.minimum(x, 0)))


def softplus(x: Array) -> Array:
    """``log(1 + exp(x))``, without overflow."""
    return np.logaddexp(x, 0)


def silu(x: Array) -> Array:
    """``x * sigmoid(x)``."""
    return x * sigmoid(x)


def erf(x: Array) -> Array:
    """Error function, element by element."""
    y: Array = np.vectorize(math.erf, otypes=[x.dtype])(x)
    return y


def gelu(x: Array) -> Array:
    """``x`` times the normal distribution function (the exact form)."""
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def exponential(x: Array) -> Array:
    """``exp(x)``."""
    return np.exp(x)


def softmax(x: Array, axis: int = -1) -> Array:
    """``exp(x)`` scaled to sum to one along ``axis``."""
    e = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=axis, keepdims=True)  # type: ignore[no-any-return]


def gelu_derivative(x: Array, y: Array) -> Array:
    """``Phi(x) + x * phi(x)``."""
    density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + erf(x / math.sqrt(2))) + x * density


class Elementwise(NamedTuple):
    """A function of one number; its derivative takes the argument and the value."""

    function: Callable[[Array], Array]
    derivative: Callable[[Array, Array], Array]


ELEMENTWISE = {
    "linear": Elementwise(linear, lambda x, y: np.ones_like(x)),
    "tanh": Elementwise(tanh, lambda x, y: 1 - y * y),
    "sigmoid": Elementwise(sigmoid, lambda x, y: y * (1 - y)),
    "hard_sigmoid_keras2": Elementwise(hard_sigmoid_keras2, lambda x, y: ((x > -2.5) & (x < 2.5)) * x.dtype.type(0.2)),
    "hard_sigmoid": Elementwise(hard_sigmoid, lambda x, y: ((x > -3) & (x < 3)) / x.dtype.type(6)),
    "relu": Elementwise(relu, lambda x, y: (x > 0).astype(x.dtype)),
    "softsign": Elementwise(softsign, lambda x, y: (1 - np.abs(y)) ** 2),
    "elu": Elementwise(elu, lambda x, y: np.where(x > 0, 1, y + 1)),
    "selu": Elementwise(selu, lambda x, y: np.where(x > 0, x.dtype.type(SELU_SCALE), y + SELU_SCALE * SELU_ALPHA)),
    "softplus": Elementwise(softplus, lambda x, y: sigmoid(x)),
    "silu": Elementwise(silu, lambda x, y: y + sigmoid(x) * (1 - y)),
    "gelu": Elementwise(gelu, gelu_derivative),
    "exponential": Elementwise(exponential, lambda x, y: y),
}

ACTIVATIONS = (*ELEMENTWISE, "softmax")


def activation(x: Array, name: str, axis: int = -1) -> Array:
    """Apply the activation called ``name``.

    Parameters
    ----------
    x : array, any shape
    name : str
        One of ``ACTIVATIONS``.
    axis : int, default -1
        Axis that ``softmax`` normalises; the others ignore it.

    Returns
    -------
    array shaped like ``x``
    """
    return softmax(x, axis) if name == "softmax" else ELEMENTWISE[name].function(x)


def activation_vjp(x: Array, name: str, axis: int = -1) -> tuple[Array, Pullback]:
    """Apply an activation and return its pullback ``dy -> dx`` as well."""
    y = activation(x, name, axis)
    if name == "softmax":
        return y, lambda dy: y * (dy - (dy * y).sum(axis=axis, keepdims=True))
    return y, lambda dy: dy * ELEMENTWISE[name].derivative(x, y)
