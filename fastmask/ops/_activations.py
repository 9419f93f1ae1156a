"""Activation functions by name."""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastmask import kernels, threads
from fastmask.kernels.memory import aligned_empty
from fastmask.ops import tuning
from fastmask.ops._arrays import Array, check_float, check_like, split, thread_count

# hard_sigmoid is Keras 3's clip(x / 6 + 0.5, 0, 1); hard_sigmoid_keras2 is clip(0.2 * x + 0.5, 0, 1) of Keras 1 and 2.
RECURRENT_ACTIVATIONS = (
    "linear", "tanh", "sigmoid", "hard_sigmoid", "relu", "softsign", "elu", "hard_sigmoid_keras2",
)
ACTIVATIONS = (*RECURRENT_ACTIVATIONS, "exponential", "selu", "silu", "softplus", "gelu", "softmax")


def _code(argument: str, name: str | None, legal: tuple[str, ...]) -> int:
    # The order of the names is that of the enum in the kernels.
    if name is None:
        return 0
    if not isinstance(name, str) or name not in legal:
        raise ValueError(f"{argument}: expected one of {', '.join(legal)} or None, got {name!r}")
    return ACTIVATIONS.index(name)


def recurrent_code(argument: str, name: str | None) -> int:
    """The kernels' number of an activation of a recurrent layer; None is linear."""
    return _code(argument, name, RECURRENT_ACTIVATIONS)


def activation_code(argument: str, name: str | None) -> int:
    """The kernels' number of an activation; None is linear."""
    return _code(argument, name, ACTIVATIONS)


def activate(kernel: ModuleType, code: int, x: Array, y: Array) -> None:
    """``y = activation(x)``, row by row, on arrays [rows, columns]; y may be x itself."""
    if code == 0 and y is x:
        return
    if 20.0 * x.size < tuning.OPERATIONS_PER_THREAD:
        kernel.activate_rows(code, x, y, 0, x.shape[0])
        return
    parts = thread_count(20.0 * x.size)
    threads.run([partial(kernel.activate_rows, code, x, y, *rows) for rows in split(x.shape[0], parts)])


def activate_backward(kernel: ModuleType, code: int, x: Array, y: Array, dy: Array) -> Array:
    """``dy`` times the derivative of the activation at ``x``, where its value is ``y``."""
    if code == 0:
        return dy
    dx = aligned_empty(x.shape, x.dtype)
    parts = thread_count(20.0 * x.size)
    tasks = [partial(kernel.activate_rows_backward, code, x, y, dy, dx, *rows) for rows in split(x.shape[0], parts)]
    threads.run(tasks)
    return dx


def _as_rows(x: Array) -> Array:
    """[rows, columns]: the last axis, along which softmax runs, stays whole; threads share the rows."""
    if x.size == 0:
        return x.reshape(0, 1)
    if x.ndim < 2:
        return x.reshape(1, x.size)
    return x.reshape(-1, x.shape[-1])


def activation(x: ArrayLike, name: str | None, axis: int = -1) -> Array:
    """Apply an activation function.

    Parameters
    ----------
    x : float32 or float64 array
    name : str or None
        One of :data:`ACTIVATIONS`, as Keras 3 defines them; None is linear.
    axis : int, default -1
        The axis of softmax.

    Returns
    -------
    array like ``x``
    """
    return activation_vjp(x, name, axis)[0]


def activation_vjp(x: ArrayLike, name: str | None, axis: int = -1) -> tuple[Array, Any]:
    """:func:`activation` and its pullback, which maps the gradient of the result to that of ``x``."""
    code = activation_code("name", name)
    array = check_float("x", x)
    if not isinstance(axis, (int, np.integer)) or not -max(1, array.ndim) <= axis < max(1, array.ndim):
        raise ValueError(f"axis: expected an axis of an array of shape {array.shape}, got {axis}")
    moved = np.ascontiguousarray(np.moveaxis(array, axis, -1)) if array.ndim else array
    rows = _as_rows(moved)
    kernel = kernels.module(array.dtype)
    y = aligned_empty(rows.shape, array.dtype)
    activate(kernel, code, rows, y)

    def restore(values: Array) -> Array:
        shaped = values.reshape(moved.shape)
        return np.ascontiguousarray(np.moveaxis(shaped, -1, axis)) if array.ndim else shaped

    def pullback(dy: ArrayLike) -> Array:
        gradient = check_like("dy", dy, array)
        d = np.ascontiguousarray(np.moveaxis(gradient, axis, -1)) if array.ndim else gradient
        return restore(activate_backward(kernel, code, rows, y, _as_rows(d)))

    return restore(y), pullback
