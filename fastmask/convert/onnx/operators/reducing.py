"""Operators that join the numbers along axes, or scale them by each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from fastmask.convert.onnx.graph import Array, Node
from fastmask.convert.onnx.operators.base import Gradients, Operator, constant_list, integers, size_of_inputs


def _axes(node: Node, x: Array, given: Any) -> tuple[int, ...]:
    chosen = constant_list(node, "axes", given)
    if not chosen:
        return () if node.get("noop_with_empty_axes", 0) else tuple(range(x.ndim))
    return tuple(axis % x.ndim for axis in chosen)


def _reduction(
    function: Callable[..., Any], gradient: Callable[[Array, Array, Array, int], Any] | None = None
) -> Operator:
    """Return the operator that reduces by a function; `gradient` takes x, y, d of its axes, and the size of these."""

    def run(node: Node, x: Array, axes: Any = None) -> Array:
        y = function(x, axis=_axes(node, x, axes), keepdims=bool(node.get("keepdims", 1)))
        return np.asarray(y).astype(x.dtype)

    def back(node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]) -> Gradients:
        assert gradient is not None
        x = inputs[0]
        axes = _axes(node, x, inputs[1] if len(inputs) > 1 else None)
        shape = [1 if axis in axes else n for axis, n in enumerate(x.shape)]
        found = gradient(x, outputs[0].reshape(shape), d[0].reshape(shape), prod(x.shape[axis] for axis in axes))
        return [np.broadcast_to(found, x.shape), *[None] * (len(inputs) - 1)]

    return Operator(run, None if gradient is None else back, size_of_inputs)


def _extreme_gradient(x: Array, y: Array, d: Array, size: int) -> Array:
    hits = x == y
    axes = tuple(axis for axis, (n, m) in enumerate(zip(x.shape, y.shape, strict=True)) if n != m)
    return np.asarray(d * hits / np.maximum(1, hits.sum(axis=axes, keepdims=True))).astype(d.dtype)


def _extreme(function: Callable[..., Any], largest: bool) -> Callable[..., Any]:
    """Return the reduction by `np.max` or `np.min`, which of nothing gives the number that all others surpass."""

    def reduce(x: Array, **how: Any) -> Any:
        if x.size:
            return function(x, **how)
        limits = (-np.inf, np.inf) if x.dtype.kind == "f" else (False, True)
        if x.dtype.kind in "iu":
            limits = (np.iinfo(x.dtype).min, np.iinfo(x.dtype).max)
        return function(x, initial=limits[0 if largest else 1], **how)

    return reduce


def _log_sum_exp(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    top = x.max(axis=axis, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, x.dtype.type(0))
    y = np.log(np.exp(x - top).sum(axis=axis, keepdims=True)) + top
    return np.asarray(y if keepdims else np.squeeze(y, axis))


def _norm(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    return np.asarray(np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims)))


def _as_rows(node: Node, x: Array) -> tuple[Array, int]:
    """Return the array and the axis of a softmax; before opset 13 all axes from it on count as one."""
    axis = node.get("axis", 1 if node.version < 13 else -1)
    if node.version >= 13:
        return x, axis
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:])), -1


def _softmax(node: Node, x: Array) -> Array:
    rows, axis = _as_rows(node, x)
    grown = np.exp(rows - rows.max(axis=axis, keepdims=True, initial=-np.inf))
    return np.asarray(grown / grown.sum(axis=axis, keepdims=True)).reshape(x.shape)


def _softmax_gradient(node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]) -> Gradients:
    y, axis = _as_rows(node, outputs[0])
    given = d[0].reshape(y.shape)
    return [(y * (given - (given * y).sum(axis=axis, keepdims=True))).reshape(d[0].shape)]


def _log_softmax(node: Node, x: Array) -> Array:
    rows, axis = _as_rows(node, x)
    shifted = rows - rows.max(axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))).reshape(x.shape)


def _log_softmax_gradient(node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]) -> Gradients:
    y, axis = _as_rows(node, outputs[0])
    given = d[0].reshape(y.shape)
    return [(given - np.exp(y) * given.sum(axis=axis, keepdims=True)).reshape(d[0].shape)]


def _arg(function: Callable[..., Any]) -> Operator:
    def run(node: Node, x: Array) -> Array:
        axis, keep = node.get("axis", 0), bool(node.get("keepdims", 1))
        if not node.get("select_last_index", 0):
            return np.asarray(function(x, axis=axis, keepdims=keep)).astype(np.int64)
        found = x.shape[axis] - 1 - function(np.flip(x, axis), axis=axis, keepdims=keep)
        return np.asarray(found).astype(np.int64)

    return Operator(run)


def _cumulative_sum(node: Node, x: Array, axis: Array) -> Array:
    along = integers(axis)[0]
    y = np.flip(x, along) if node.get("reverse", 0) else x
    total = np.cumsum(y, along, dtype=x.dtype)
    if node.get("exclusive", 0):
        total = total - y
    return np.flip(total, along) if node.get("reverse", 0) else total


def _layer_normalization(node: Node, x: Array, scale: Array, bias: Any = None) -> Any:
    axis = node.get("axis", -1) % x.ndim
    axes = tuple(range(axis, x.ndim))
    mean = x.mean(axis=axes, keepdims=True)
    spread = 1 / np.sqrt(((x - mean) ** 2).mean(axis=axes, keepdims=True) + x.dtype.type(node.get("epsilon", 1e-5)))
    y = (x - mean) * spread * scale
    y = y if bias is None else y + bias
    return (y, mean, spread)[: len(node.outputs)] if len(node.outputs) > 1 else y


def _batch_normalization(
    node: Node, x: Array, scale: Array, bias: Array, mean: Array, variance: Array
) -> Array:
    if node.get("training_mode", 0):
        raise ValueError("training_mode: expected 0, got 1")
    wide = [-1, *[1] * (x.ndim - 2)]
    factor = scale / np.sqrt(variance + variance.dtype.type(node.get("epsilon", 1e-5)))
    return np.asarray((x - mean.reshape(wide)) * factor.reshape(wide) + bias.reshape(wide))


REDUCING = {
    "ReduceSum": _reduction(np.sum, lambda x, y, d, n: d),
    "ReduceMean": _reduction(np.mean, lambda x, y, d, n: d / d.dtype.type(max(1, n))),
    "ReduceMax": _reduction(_extreme(np.max, True), _extreme_gradient),
    "ReduceMin": _reduction(_extreme(np.min, False), _extreme_gradient),
    "ReduceProd": _reduction(np.prod),
    "ReduceSumSquare": _reduction(lambda x, **how: np.sum(x * x, **how), lambda x, y, d, n: 2 * x * d),
    "ReduceL1": _reduction(lambda x, **how: np.sum(np.abs(x), **how), lambda x, y, d, n: np.sign(x) * d),
    "ReduceL2": _reduction(_norm, lambda x, y, d, n: x / y * d),
    "ReduceLogSumExp": _reduction(_log_sum_exp, lambda x, y, d, n: np.exp(x - y) * d),
    "Softmax": Operator(_softmax, _softmax_gradient),
    "LogSoftmax": Operator(_log_softmax, _log_softmax_gradient),
    "ArgMax": _arg(np.argmax),
    "ArgMin": _arg(np.argmin),
    "CumSum": Operator(_cumulative_sum),
    "LayerNormalization": Operator(_layer_normalization),
    "BatchNormalization": Operator(_batch_normalization),
}
