"""Matrix products and fully connected layers on rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from numpy.typing import ArrayLike

from fastmask import kernels, threads
from fastmask.kernels.memory import aligned_empty
from fastmask.ops._activations import activate, activate_backward, activation_code
from fastmask.ops._arrays import Array, check_float, check_shape, product_panels, readable_bias, thread_count
from fastmask.ops._packed import PackedWeights
from fastmask.ops._products import gradient_tasks, multiply, multiply_tasks, product_tasks


class DenseGradients(NamedTuple):
    """Gradients of a fully connected layer, each like the argument it belongs to; bias is None if there is none."""

    inputs: Array
    kernel: Array
    bias: Array | None


def _check(x: ArrayLike, kernel: ArrayLike) -> tuple[Array, Array]:
    rows = check_float("x", x, 2)
    matrix = check_float("kernel", kernel, 2, rows.dtype)
    if matrix.shape[0] != rows.shape[1]:
        raise ValueError(f"kernel: expected {rows.shape[1]} rows, as x has columns, got shape {matrix.shape}.")
    return rows, matrix


def _check_bias(bias: ArrayLike | None, matrix: Array) -> Array | None:
    if bias is None:
        return None
    checked = check_float("bias", bias, 1, matrix.dtype)
    check_shape("bias", checked, matrix.shape[1:])
    return checked


def matmul(x: ArrayLike, kernel: ArrayLike) -> Array:
    """The matrix product ``x @ kernel``.

    Parameters
    ----------
    x : float32 or float64 array (n, k)
    kernel : array (k, m) of the same dtype

    Returns
    -------
    array (n, m)
        Each row has the same bits whatever the other rows are.
    """
    return dense(x, kernel)


def dense(
    x: ArrayLike, kernel: ArrayLike, bias: ArrayLike | None = None, activation: str | None = None, *,
    packed: PackedWeights | None = None,
) -> Array:
    """A fully connected layer on rows, ``activation(x @ kernel + bias)``.

    Parameters
    ----------
    x : float32 or float64 array (n, k)
    kernel : array (k, m) of the same dtype
    bias : array (m,), optional
    activation : str or None
        One of :data:`fastmask.ops.ACTIVATIONS`; None is linear.
    packed : PackedWeights, optional
        From earlier calls with the same weights.

    Returns
    -------
    array (n, m)
    """
    code = activation_code("activation", activation)
    rows, matrix = _check(x, kernel)
    module = kernels.module(rows.dtype)
    start = _check_bias(bias, matrix)
    packed = PackedWeights() if packed is None else packed
    if start is not None:
        start = packed.get(("dense bias", module, start.shape), partial(readable_bias, module, start))
    panels = packed.get(("dense", module, matrix.shape), partial(product_panels, module, matrix))
    out = aligned_empty((rows.shape[0], matrix.shape[1]), rows.dtype)
    threads.run(product_tasks(module, [(rows, panels)], out, start=start))
    activate(module, code, out, out)
    return out


def dense_vjp(
    x: ArrayLike, kernel: ArrayLike, bias: ArrayLike | None = None, activation: str | None = None
) -> tuple[Array, Callable[[ArrayLike], DenseGradients]]:
    """:func:`dense` and its pullback, which maps the gradient of the result to :class:`DenseGradients`."""
    code = activation_code("activation", activation)
    rows, matrix = _check(x, kernel)
    module = kernels.module(rows.dtype)
    start = _check_bias(bias, matrix)
    if start is not None:
        start = readable_bias(module, start)
    z = multiply(module, rows, matrix, aligned_empty((rows.shape[0], matrix.shape[1]), rows.dtype), start=start)
    y = z
    if code:
        y = aligned_empty(z.shape, z.dtype)
        activate(module, code, z, y)

    def pullback(dy: ArrayLike) -> DenseGradients:
        gradient = check_float("dy", dy, 2, rows.dtype)
        check_shape("dy", gradient, y.shape)
        d = activate_backward(module, code, z, y, gradient)
        dx = aligned_empty(rows.shape, rows.dtype)
        dkernel = aligned_empty(matrix.shape, rows.dtype)
        dbias = aligned_empty(matrix.shape[1], rows.dtype)
        tasks = multiply_tasks(module, d, matrix.T, dx) + gradient_tasks(module, rows, d, dkernel, bias=dbias)
        threads.run(tasks, thread_count(4.0 * rows.shape[0] * matrix.size))
        return DenseGradients(dx, dkernel, None if bias is None else dbias)

    return y, pullback
