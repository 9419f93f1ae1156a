"""Matrix products and fully connected layers on rows."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from numpy.typing import ArrayLike

from fastmask import kernels, threads
from fastmask.kernels.memory import aligned_empty
from fastmask.ops._activations import activate, activate_backward, activation_code
from fastmask.ops._arrays import Array, check_float, check_shape, product_panels, readable_bias, thread_count
from fastmask.ops._products import fill_product, gradient_tasks, multiply_tasks
from fastmask.ops._quantized import Quantized, check_quantized, quantized_rows, readable_units, words


class DenseGradients(NamedTuple):
    """Gradients of a fully connected layer, each like the argument it belongs to; bias is None if there is none."""

    inputs: Array
    kernel: Array
    bias: Array | None


class DenseProgram:
    """A fully connected layer on some weights, which are packed at first need and must not change then.

    Threads may share a program. A copy or pickle has packed nothing.

    Parameters
    ----------
    kernel : float32 or float64 array (k, m), or Quantized
    bias : array (m,) of the same dtype, optional
    activation : str or None
        One of :data:`fastmask.ops.ACTIVATIONS`; None is linear.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.
    """

    def __init__(
        self, kernel: ArrayLike | Quantized, bias: ArrayLike | None = None, activation: str | None = None
    ) -> None:
        self.quantized = kernel if isinstance(kernel, Quantized) else None
        if isinstance(kernel, Quantized):
            self.kernel = words(check_quantized("kernel", kernel, kernel.values.shape).values)
        else:
            self.kernel = check_float("kernel", kernel, 2)
        self.bias = None
        if bias is not None:
            self.bias = check_float("bias", bias, 1, self.kernel.dtype)
            check_shape("bias", self.bias, self.kernel.shape[1:])
        self.activation = activation
        self.code = activation_code("activation", activation)
        self._packed: tuple[ModuleType | None, Any] = None, None

    def run(self, rows: Array) -> Array:
        """``activation(rows @ kernel + bias)`` for checked rows (n, k)."""
        module = kernels.module(rows.dtype)
        out = self._products(module, rows)
        if self.code:
            activate(module, self.code, out, out)
        return out

    def vjp(self, rows: Array) -> tuple[Array, Callable[[ArrayLike], DenseGradients]]:
        """:meth:`run` and its pullback."""
        module, matrix = kernels.module(rows.dtype), self.kernel
        z = y = self._products(module, rows)
        if self.code:
            y = aligned_empty(z.shape, z.dtype)
            activate(module, self.code, z, y)

        def pullback(dy: ArrayLike) -> DenseGradients:
            gradient = check_float("dy", dy, 2, rows.dtype)
            check_shape("dy", gradient, y.shape)
            d = activate_backward(module, self.code, z, y, gradient)
            dx = aligned_empty(rows.shape, rows.dtype)
            dkernel = aligned_empty(matrix.shape, rows.dtype)
            dbias = aligned_empty(matrix.shape[1], rows.dtype)
            tasks = multiply_tasks(module, d, matrix.T, dx) + gradient_tasks(module, rows, d, dkernel, bias=dbias)
            threads.run(tasks, thread_count(4.0 * rows.shape[0] * matrix.size))
            return DenseGradients(dx, dkernel, None if self.bias is None else dbias)

        return y, pullback

    def packed(self, module: ModuleType) -> tuple[Array, Array | None, Array | None]:
        """What the compiled kernels read: panels of the kernel, the bias, and the units of a quantised kernel."""
        known, made = self._packed
        if known is not module:
            start = None if self.bias is None else readable_bias(module, self.bias)
            units = None if self.quantized is None else readable_units(module, self.quantized)
            made = product_panels(module, self.kernel), start, units
            self._packed = module, made
        return made  # type: ignore[no-any-return]

    def _products(self, module: ModuleType, rows: Array) -> Array:
        panels, start, units = self.packed(module)
        out = aligned_empty((rows.shape[0], self.kernel.shape[1]), rows.dtype)
        fill_product(module, rows if units is None else quantized_rows(module, rows), panels, start, out, units)
        return out

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.quantized or self.kernel, self.bias, self.activation)


def _program(
    x: ArrayLike, kernel: ArrayLike, bias: ArrayLike | None, activation: str | None
) -> tuple[DenseProgram, Array]:
    activation_code("activation", activation)
    rows = check_float("x", x, 2)
    matrix = check_float("kernel", kernel, 2, rows.dtype)
    if matrix.shape[0] != rows.shape[1]:
        raise ValueError(f"kernel: expected {rows.shape[1]} rows, as x has columns, got shape {matrix.shape}")
    return DenseProgram(matrix, bias, activation), rows


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
    x: ArrayLike, kernel: ArrayLike, bias: ArrayLike | None = None, activation: str | None = None
) -> Array:
    """A fully connected layer on rows, ``activation(x @ kernel + bias)``.

    Parameters
    ----------
    x : float32 or float64 array (n, k)
    kernel : array (k, m) of the same dtype
    bias : array (m,), optional
    activation : str or None
        One of :data:`fastmask.ops.ACTIVATIONS`; None is linear.

    Returns
    -------
    array (n, m)
    """
    program, rows = _program(x, kernel, bias, activation)
    return program.run(rows)


def dense_vjp(
    x: ArrayLike, kernel: ArrayLike, bias: ArrayLike | None = None, activation: str | None = None
) -> tuple[Array, Callable[[ArrayLike], DenseGradients]]:
    """:func:`dense` and its pullback, which maps the gradient of the result to :class:`DenseGradients`."""
    program, rows = _program(x, kernel, bias, activation)
    return program.vjp(rows)
