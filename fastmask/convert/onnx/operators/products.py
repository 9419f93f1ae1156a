"""Products, convolutions, and the operators of quantised numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastmask.convert.onnx.graph import Array, Node
from fastmask.convert.onnx.operators.base import Gradients, Operator, reduced_to


def _matmul(node: Node, x: Array, y: Array) -> Array:
    return np.asarray(np.matmul(x, y))


def _matmul_gradient(node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]) -> Gradients:
    x, y, given = *inputs, d[0]
    left = x[None] if x.ndim == 1 else x
    right = y[:, None] if y.ndim == 1 else y
    if x.ndim == 1:
        given = np.expand_dims(given, -1 if y.ndim == 1 else -2)
    if y.ndim == 1:
        given = given[..., None]
    dx = np.matmul(given, np.swapaxes(right, -1, -2))
    dy = np.matmul(np.swapaxes(left, -1, -2), given)
    return [reduced_to(left.shape, dx).reshape(x.shape), reduced_to(right.shape, dy).reshape(y.shape)]


def _fused_matmul(node: Node, x: Array, y: Array) -> Array:
    x = np.moveaxis(x, 0, -2) if node.get("transBatchA", 0) else x
    y = np.moveaxis(y, 0, -2) if node.get("transBatchB", 0) else y
    x = np.swapaxes(x, -1, -2) if node.get("transA", 0) else x
    y = np.swapaxes(y, -1, -2) if node.get("transB", 0) else y
    return np.asarray(np.matmul(x, y) * x.dtype.type(node.get("alpha", 1.0)))


def _gemm(node: Node, a: Array, b: Array, c: Any = None) -> Array:
    a = a.T if node.get("transA", 0) else a
    b = b.T if node.get("transB", 0) else b
    y = a @ b
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    y = y if alpha == 1 else y * y.dtype.type(alpha)
    return y if c is None else np.asarray(y + (c if beta == 1 else c * y.dtype.type(beta)))


def _gemm_gradient(node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]) -> Gradients:
    a, b, *more = inputs
    given = d[0] * d[0].dtype.type(node.get("alpha", 1.0))
    left = a.T if node.get("transA", 0) else a
    right = b.T if node.get("transB", 0) else b
    da, db = given @ right.T, left.T @ given
    found: list[Any] = [da.T if node.get("transA", 0) else da, db.T if node.get("transB", 0) else db]
    if more:
        scaled = d[0] * d[0].dtype.type(node.get("beta", 1.0))
        found.append(None if more[0] is None else reduced_to(more[0].shape, scaled))
    return found


def _pads(node: Node, x: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """Return the padding before each axis and then behind each."""
    mode, axes = node.get("auto_pad", "NOTSET"), range(len(kernel))
    if mode == "NOTSET":
        return list(node.get("pads", [0] * 2 * len(kernel)))
    if mode == "VALID":
        return [0] * 2 * len(kernel)
    sizes = [dilations[i] * (kernel[i] - 1) + 1 for i in axes]
    total = [max(0, (-(-x.shape[2 + i] // strides[i]) - 1) * strides[i] + sizes[i] - x.shape[2 + i]) for i in axes]
    first = [n // 2 if mode == "SAME_UPPER" else n - n // 2 for n in total]
    return first + [n - before for n, before in zip(total, first, strict=True)]


def _windows(node: Node, x: Array, kernel: Sequence[int], fill: float) -> Array:
    """Return what stands under a kernel at each of its places: (B, C, places ..., kernel ...)."""
    count = len(kernel)
    strides, dilations = node.get("strides", [1] * count), node.get("dilations", [1] * count)
    pads = _pads(node, x, kernel, strides, dilations)
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:count], pads[count:], strict=True)], constant_values=fill)
    sizes = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    found = np.lib.stride_tricks.sliding_window_view(x, sizes, tuple(range(2, 2 + count)))
    return found[(slice(None), slice(None), *[slice(None, None, s) for s in (*strides, *dilations)])]


def _conv(node: Node, x: Array, weights: Array, bias: Any = None) -> Array:
    groups, kernel = node.get("group", 1), weights.shape[2:]
    windows = _windows(node, x, kernel, 0)
    summed = [1, *range(2 + len(kernel), 2 + 2 * len(kernel))]
    parts = [
        np.tensordot(part, w, (summed, list(range(1, w.ndim))))
        for part, w in zip(np.split(windows, groups, 1), np.split(weights, groups, 0), strict=True)
    ]
    y = np.moveaxis(np.concatenate(parts, -1), -1, 1)
    return y if bias is None else y + bias.reshape(-1, *[1] * len(kernel))


def _max_pool(node: Node, x: Array) -> Array:
    if node.get("ceil_mode", 0) or len(node.outputs) > 1:
        raise ValueError("MaxPool: expected ceil_mode=0 and one output, got others")
    kernel = node.get("kernel_shape")
    windows = _windows(node, x, kernel, -np.inf)
    return np.asarray(windows.max(axis=tuple(range(2 + len(kernel), windows.ndim))))


def _along(node: Node, x: Array, scale: Array, default: int = 1) -> Array:
    """Return a scale or zero point with axes that fit an array of which it belongs to one axis."""
    if np.ndim(scale) != 1 or scale.size == 1:
        return scale.reshape(()) if np.size(scale) == 1 else scale
    axis = node.get("axis", default) % x.ndim
    return scale.reshape([-1 if i == axis else 1 for i in range(x.ndim)])


def _dequantize(node: Node, x: Array, scale: Array, zero: Any = None) -> Array:
    if node.get("block_size", 0):
        raise ValueError(f"block_size: expected 0, got {node.get('block_size')}")
    shifted = x.astype(np.int32) - (0 if zero is None else _along(node, x, zero).astype(np.int32))
    return shifted.astype(scale.dtype) * _along(node, x, scale)


def _quantize(node: Node, x: Array, scale: Array, zero: Any = None) -> Array:
    dtype = np.dtype(np.uint8) if zero is None else zero.dtype
    shift = 0 if zero is None else _along(node, x, zero)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(x / _along(node, x, scale)) + shift, limits.min, limits.max).astype(dtype)


def _dynamic_quantize(node: Node, x: Array) -> tuple[Array, Array, Array]:
    low, high = min(0.0, float(x.min(initial=0))), max(0.0, float(x.max(initial=0)))
    scale = np.float32((high - low) / 255)
    # A batch of zeros has no range.
    scale = scale if scale > 0 else np.float32(1)
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    y = np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8)
    return y, np.asarray(scale), np.asarray(zero)


def _matmul_integer(node: Node, x: Array, y: Array, x_zero: Any = None, y_zero: Any = None) -> Array:
    left, right = x.astype(np.int32), y.astype(np.int32)
    if x_zero is not None:
        left = left - (x_zero.astype(np.int32)[..., None] if np.ndim(x_zero) == 1 and x_zero.size > 1 else x_zero)
    if y_zero is not None:
        right = right - y_zero.astype(np.int32)
    return np.asarray(np.matmul(left.astype(np.int32), right.astype(np.int32)))


def _einsum(node: Node, *inputs: Array) -> Array:
    return np.asarray(np.einsum(node.get("equation"), *inputs))


def _size_of_product(node: Node, x: Array, y: Array, *more: Any) -> int:
    rows, columns = (array.size // max(1, array.shape[axis]) + 1 for array, axis in ((x, -1), (y, 0)))
    return int(8 * rows * columns)


PRODUCTS = {
    "MatMul": Operator(_matmul, _matmul_gradient, _size_of_product),
    "Gemm": Operator(_gemm, _gemm_gradient, lambda node, x, y, c=None: 8 * x.size * max(1, y.size)),
    "com.microsoft.FusedMatMul": Operator(_fused_matmul),
    "Einsum": Operator(_einsum),
    "Conv": Operator(_conv),
    "MaxPool": Operator(_max_pool),
    "DequantizeLinear": Operator(
        _dequantize, None, lambda node, x, scale, zero=None: 8 * x.size
    ),
    "QuantizeLinear": Operator(_quantize),
    "DynamicQuantizeLinear": Operator(_dynamic_quantize),
    "MatMulInteger": Operator(_matmul_integer),
}
