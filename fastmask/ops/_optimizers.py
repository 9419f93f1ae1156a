"""One optimizer step on one parameter, in place, with Keras 3's formulas."""

from __future__ import annotations

from fastmask import kernels
from fastmask.ops._arrays import FLOATS, Array, check_float, check_shape


def _in_place(name: str, array: Array | None, like: Array | None = None) -> Array | None:
    if array is None:
        return None
    if array.dtype not in FLOATS or not array.flags.c_contiguous or not array.flags.writeable:
        raise TypeError(f"{name}: expected a writable contiguous float32 or float64 array to change in place.")
    if like is not None:
        check_shape(name, array, like.shape)
        if array.dtype != like.dtype:
            raise TypeError(f"{name}: expected {like.dtype}, as the parameter, got {array.dtype}.")
    return array.reshape(-1)


def _gradient(gradient: Array, parameter: Array) -> Array:
    checked = check_float("gradient", gradient, None, parameter.dtype)
    check_shape("gradient", checked, parameter.shape)
    return checked.reshape(-1)


def sgd_step(
    parameter: Array, gradient: Array, velocity: Array | None, learning_rate: float, momentum: float = 0.0,
    nesterov: bool = False,
) -> None:
    """Stochastic gradient descent.

    ``w -= lr * g``; with a velocity ``v = momentum * v - lr * g`` and ``w += v``, or, Nesterov,
    ``w += momentum * v - lr * g``. All arrays are float32 or float64 of one shape; ``parameter`` and
    ``velocity`` change in place.
    """
    kernels.module(parameter.dtype).sgd_step(
        _in_place("parameter", parameter), _gradient(gradient, parameter),
        _in_place("velocity", velocity, parameter), learning_rate, momentum, nesterov,
    )


def rmsprop_step(
    parameter: Array, gradient: Array, mean_square: Array, momentum_buffer: Array | None, mean: Array | None,
    learning_rate: float, rho: float = 0.9, momentum: float = 0.0, epsilon: float = 1e-7,
) -> None:
    """RMSprop with epsilon inside the root.

    ``v = rho * v + (1 - rho) * g * g``; ``u = lr * g / sqrt(v - m * m + epsilon)`` where ``m``, the running
    mean, is zero unless ``mean`` is given (centered); with a buffer ``p = momentum * p + u`` and ``w -= p``,
    else ``w -= u``. Everything but ``gradient`` changes in place.
    """
    kernels.module(parameter.dtype).rmsprop_step(
        _in_place("parameter", parameter), _gradient(gradient, parameter),
        _in_place("mean_square", mean_square, parameter), _in_place("momentum_buffer", momentum_buffer, parameter),
        _in_place("mean", mean, parameter), learning_rate, rho, momentum, epsilon,
    )


def adam_step(
    parameter: Array, gradient: Array, m: Array, v: Array, v_max: Array | None, alpha: float, beta_1: float = 0.9,
    beta_2: float = 0.999, epsilon: float = 1e-7,
) -> None:
    """Adam (Kingma and Ba 2015) with epsilon outside the root.

    ``m += (g - m)(1 - beta_1)``; ``v += (g * g - v)(1 - beta_2)``; ``w -= alpha * m / (sqrt(v) + epsilon)``,
    where ``alpha`` is ``lr * sqrt(1 - beta_2 ** t) / (1 - beta_1 ** t)``; with ``v_max`` (amsgrad) its
    running maximum stands for v. Everything but ``gradient`` changes in place.
    """
    kernels.module(parameter.dtype).adam_step(
        _in_place("parameter", parameter), _gradient(gradient, parameter), _in_place("m", m, parameter),
        _in_place("v", v, parameter), _in_place("v_max", v_max, parameter), alpha, beta_1, beta_2, epsilon,
    )
