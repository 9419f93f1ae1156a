"""Operators that arrange numbers anew, or tell and make shapes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from fastmask.convert.onnx.graph import Array, Node
from fastmask.convert.onnx.operators.base import (
    Gradients,
    Operator,
    constant_list,
    integers,
    reduced_to,
    size_of_inputs,
)


def _transpose(node: Node, x: Array) -> Array:
    return x.transpose(node.get("perm", range(x.ndim)[::-1]))


def _transpose_gradient(node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]) -> Gradients:
    perm = node.get("perm", range(inputs[0].ndim)[::-1])
    return [d[0].transpose(np.argsort(perm))]


def _reshape(node: Node, x: Array, shape: Any = None) -> Array:
    wanted = constant_list(node, "shape", shape) or []
    if not node.get("allowzero", 0):
        wanted = [x.shape[axis] if n == 0 else n for axis, n in enumerate(wanted)]
    return x.reshape(wanted)


def _as_input(node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]) -> Gradients:
    """Give a gradient the shape of the first input."""
    return [d[0].reshape(inputs[0].shape), *[None] * (len(inputs) - 1)]


def _squeeze(node: Node, x: Array, axes: Any = None) -> Array:
    chosen = constant_list(node, "axes", axes)
    return np.squeeze(x, None if chosen is None else tuple(chosen))


def _unsqueeze(node: Node, x: Array, axes: Any = None) -> Array:
    return np.expand_dims(x, tuple(constant_list(node, "axes", axes) or ()))


def _flatten(node: Node, x: Array) -> Array:
    axis = node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


def _shape(node: Node, x: Array) -> Array:
    return np.array(x.shape[node.get("start", 0) : node.get("end")], np.int64)


def _cast(node: Node, x: Array) -> Array:
    return x.astype(cast_dtype(node.get("to")))


def cast_dtype(number: Any) -> np.dtype[Any]:
    """Return the dtype of one of ONNX's numbers of types; ValueError if it has no counterpart."""
    found = _DTYPES.get(number)
    if found is None:
        raise ValueError(f"to: expected a type of real numbers or bool, got type {number}")
    return np.dtype(found)


_DTYPES = {
    1: "f4", 2: "u1", 3: "i1", 4: "u2", 5: "i2", 6: "i4", 7: "i8", 9: "?", 10: "f2", 11: "f8", 12: "u4", 13: "u8",
}  # fmt: skip


def _cast_gradient(node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]) -> Gradients:
    kept = inputs[0].dtype.kind == "f" and outputs[0].dtype.kind == "f"
    return [d[0].astype(inputs[0].dtype) if kept else None, *[None] * (len(inputs) - 1)]


def _concat(node: Node, *inputs: Array) -> Array:
    return np.concatenate(inputs, node.get("axis", 1))


def _concat_gradient(node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]) -> Gradients:
    axis = node.get("axis", 1)
    return np.split(d[0], np.cumsum([x.shape[axis] for x in inputs])[:-1], axis)


def _split_sizes(node: Node, x: Array, sizes: Any) -> list[int]:
    found = constant_list(node, "split", sizes)
    if found is not None:
        return found
    n, parts = x.shape[node.get("axis", 0)], node.get("num_outputs", len(node.outputs))
    each = -(-n // parts)
    return [max(0, min(each, n - each * i)) for i in range(parts)]


def _split(node: Node, x: Array, sizes: Any = None) -> tuple[Array, ...]:
    return tuple(np.split(x, np.cumsum(_split_sizes(node, x, sizes))[:-1], node.get("axis", 0)))


def _split_gradient(node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]) -> Gradients:
    parts = [np.zeros_like(y) if g is None else g for y, g in zip(outputs, d, strict=True)]
    return [np.concatenate(parts, node.get("axis", 0)), *[None] * (len(inputs) - 1)]


def _slices(node: Node, x: Array, *inputs: Any) -> tuple[slice, ...]:
    given = [*inputs, *[None] * (4 - len(inputs))]
    starts, ends, axes, steps = (
        constant_list(node, name, value)
        for name, value in zip(("starts", "ends", "axes", "steps"), given, strict=True)
    )
    axes = list(range(len(starts or ()))) if axes is None else axes
    steps = [1] * len(axes) if steps is None else steps
    chosen = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts or (), ends or (), axes, steps, strict=True):
        n = x.shape[axis]
        if step > 0:
            chosen[axis] = slice(start, end, step)
            continue
        # Counted from the end: what lies before the first place means "up to and with it".
        stop = end + n if -n <= end < 0 else end
        first = start + n if start < 0 else start
        chosen[axis] = slice(min(first, n - 1), None if stop < 0 else stop, step)
    return tuple(chosen)


def _slice(node: Node, x: Array, *inputs: Any) -> Array:
    return x[_slices(node, x, *inputs)]


def _slice_gradient(node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]) -> Gradients:
    found = np.zeros(inputs[0].shape, d[0].dtype)
    found[_slices(node, *inputs)] = d[0]
    return [found, *[None] * (len(inputs) - 1)]


def _expand(node: Node, x: Array, shape: Array) -> Array:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(integers(shape))))


def _repeated_gradient(node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]) -> Gradients:
    return [reduced_to(inputs[0].shape, d[0]), None]


def _tile(node: Node, x: Array, repeats: Array) -> Array:
    return np.tile(x, integers(repeats))


def _tile_gradient(node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]) -> Gradients:
    x, repeats = inputs
    pairs = [n for pair in zip(integers(repeats), x.shape, strict=True) for n in pair]
    return [d[0].reshape(pairs).sum(axis=tuple(range(0, 2 * x.ndim, 2))), None]


def _constant_of_shape(node: Node, shape: Array) -> Array:
    value = np.asarray(node.get("value", np.zeros(1, np.float32))).reshape(-1)
    return np.full(integers(shape), value[0], value.dtype)


def _range(node: Node, start: Array, limit: Array, delta: Array) -> Array:
    start, limit, delta = (np.reshape(entry, ()) for entry in (start, limit, delta))
    count = max(0, int(np.ceil((np.asarray(limit, "f8") - start) / delta)))
    return np.asarray(start + np.arange(count) * delta).astype(start.dtype)


def _identity(node: Node, x: Any) -> Any:
    return x


def _identity_gradient(node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]) -> Gradients:
    return [d[0], *[None] * (len(inputs) - 1)]


def _dropout(node: Node, x: Array, ratio: Any = None, training: Any = None) -> Any:
    if training is not None and np.any(training):
        raise ValueError("training_mode: expected False, got True")
    return (x, np.ones(x.shape, bool))[: len(node.outputs)] if len(node.outputs) > 1 else x


def _pad(node: Node, x: Array, pads: Any = None, value: Any = None, axes: Any = None) -> Array:
    widths = constant_list(node, "pads", pads) or []
    chosen = range(x.ndim) if axes is None else integers(axes)
    half = len(widths) // 2
    pairs = [(0, 0)] * x.ndim
    for axis, before, after in zip(chosen, widths[:half], widths[half:], strict=True):
        pairs[axis] = (before, after)
    kept = tuple(slice(max(0, -b), n - max(0, -a)) for (b, a), n in zip(pairs, x.shape, strict=True))
    pairs = [(max(0, b), max(0, a)) for b, a in pairs]
    mode = node.get("mode", "constant")
    if mode != "constant":
        return np.pad(x[kept], pairs, mode)
    fill = node.get("value", 0.0) if value is None or not np.size(value) else np.asarray(value).item()
    return np.pad(x[kept], pairs, constant_values=fill)


def _reverse_sequence(node: Node, x: Array, lengths: Array) -> Array:
    batch, time = node.get("batch_axis", 1), node.get("time_axis", 0)
    steps = np.arange(x.shape[time])[:, None]
    order = np.where(steps < lengths, lengths - 1 - steps, steps)
    if batch < time:
        order = order.T
    return np.take_along_axis(x, order.reshape(*order.shape, *[1] * (x.ndim - 2)).astype(np.int64), time)


def _reverse_gradient(node: Node, inputs: Sequence[Any], outputs: Sequence[Any], d: Sequence[Any]) -> Gradients:
    return [_reverse_sequence(node, d[0], inputs[1]), None]


SHAPING = {
    "Transpose": Operator(_transpose, _transpose_gradient, size_of_inputs),
    "Reshape": Operator(_reshape, _as_input, size_of_inputs),
    "Squeeze": Operator(_squeeze, _as_input, size_of_inputs),
    "Unsqueeze": Operator(_unsqueeze, _as_input, size_of_inputs),
    "Flatten": Operator(_flatten, _as_input, size_of_inputs),
    "Shape": Operator(_shape, None, lambda node, x: 8 * np.ndim(x)),
    "Size": Operator(lambda node, x: np.array(x.size, np.int64), None, lambda node, x: 8),
    "Cast": Operator(_cast, _cast_gradient, lambda node, x: 8 * np.size(x)),
    "CastLike": Operator(lambda node, x, like: x.astype(like.dtype), _cast_gradient, lambda node, x, y: 8 * np.size(x)),
    "Concat": Operator(_concat, _concat_gradient, size_of_inputs),
    "Split": Operator(_split, _split_gradient, size_of_inputs),
    "Slice": Operator(_slice, _slice_gradient, size_of_inputs),
    "Expand": Operator(
        _expand, _repeated_gradient, lambda node, x, shape: x.nbytes * max(1, prod(map(abs, integers(shape))))
    ),
    "Tile": Operator(
        _tile, _tile_gradient, lambda node, x, repeats: x.nbytes * prod(map(abs, integers(repeats)))
    ),
    "ConstantOfShape": Operator(
        _constant_of_shape, None, lambda node, shape: 8 * prod(map(abs, integers(shape)))
    ),
    "Range": Operator(_range),
    "Identity": Operator(_identity, _identity_gradient, size_of_inputs),
    "Dropout": Operator(_dropout, _identity_gradient),
    "Pad": Operator(_pad),
    "ReverseSequence": Operator(_reverse_sequence, _reverse_gradient, size_of_inputs),
}
