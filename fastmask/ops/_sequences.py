"""Packing, unpacking and merging of batches, with gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from fastmask import kernels
from fastmask.batch.packing import PackedSequence, put_rows, take_rows
from fastmask.core.arguments import are_whole, as_array, choice
from fastmask.ops._arrays import (
    Array,
    Indices,
    check_broadcast,
    check_float,
    check_like,
    check_packed,
    check_packed_floats,
    check_shape,
)
from fastmask.ops._products import segment_sum

MERGE_MODES = ("concat", "sum", "mul", "ave")


def pack(x: ArrayLike, mask: ArrayLike | None = None) -> PackedSequence:
    """Pack a padded array.

    Parameters
    ----------
    x : array (B, T, ...)
        What stands where the mask is False is not read.
    mask : bool or integer array (B, T), optional
        Which steps count, in any pattern; all by default. It may have more axes of those of ``x``.
    """
    return PackedSequence.from_padded(x, mask)


def pack_vjp(x: ArrayLike, mask: ArrayLike | None = None) -> tuple[PackedSequence, Callable[[ArrayLike], Array]]:
    """:func:`pack` and its pullback: gradients of the values (N, ...) to those of ``x``, zeros at masked places."""
    packed = PackedSequence.from_padded(x, mask)
    plan, shape = packed.packing, packed.shape

    def pullback(d: ArrayLike) -> Array:
        gradient = as_array("d", d)
        check_shape("d", gradient, packed.values.shape)
        return put_rows(gradient, plan.positions, plan.batch_size * plan.total_length).reshape(shape)

    return packed, pullback


def _sum_tokens(d: Array, index: Array, like: Array) -> Array:
    """Sum rows ``d`` into an array shaped like ``like``; an index of -1 is left out."""
    width = int(np.prod(like.shape[1:], dtype=np.int64))
    flat = np.ascontiguousarray(d).reshape(index.size, width)
    return segment_sum(kernels.module(d.dtype), flat, index, like.shape[0]).reshape(like.shape)


def expand_vjp(packed: PackedSequence) -> tuple[Array, Callable[[ArrayLike], Array]]:
    """One value for each token, (N, ...), and the pullback: gradients of these to gradients of ``packed.values``."""
    data = check_packed("packed", packed).data

    def pullback(d: ArrayLike) -> Array:
        gradient = check_like("d", d, data)
        return gradient if packed.index is None else _sum_tokens(gradient, packed.index, packed.values)

    return data, pullback


def unpack(packed: PackedSequence) -> Array:
    """The padded array (B, T, ...), with what Keras shows at masked places."""
    return check_packed("packed", packed).pad()


def unpack_vjp(packed: PackedSequence) -> tuple[Array, Callable[[ArrayLike], Array]]:
    """:func:`unpack` and its pullback: gradients of the padded array to gradients of ``packed.values``.

    Where masked places repeat the valid token before them, their gradients go to that token.
    """
    check_packed("packed", packed)

    def pullback(d: ArrayLike) -> Array:
        gradient = check_like("d", d, packed)
        plan = packed.packing
        flat = gradient.reshape(plan.batch_size * plan.total_length, *packed.values.shape[1:])
        if not packed.repeat and packed.shown is None:
            tokens = take_rows(flat, plan.positions)
            return tokens if packed.index is None else _sum_tokens(tokens, packed.index, packed.values)
        return _sum_tokens(flat, packed.cells(), packed.values)

    return packed.pad(), pullback


def gather(packed: PackedSequence, cells: Indices) -> Array:
    """What the padded array shows in some of its cells, without making it.

    Parameters
    ----------
    packed : PackedSequence
    cells : int64 array (n,)
        Places ``row * T + step``.

    Returns
    -------
    array (n, ...)
    """
    source = _chosen(packed, cells)
    return take_rows(packed.values, source, packed.fill)


def _chosen(packed: PackedSequence, cells: Indices) -> Indices:
    """The stored value that each of these cells shows."""
    shown, wanted = check_packed("packed", packed).cells(), as_array("cells", cells)
    if wanted.ndim != 1 or not are_whole(wanted):
        raise TypeError(f"cells: expected integers of shape (n,), got {wanted.dtype} {wanted.shape}")
    if wanted.size and not (wanted.min() >= 0 and wanted.max() < shown.size):
        raise IndexError(f"cells: expected places from 0 to {shown.size - 1}, got {wanted.min()} to {wanted.max()}")
    return shown[wanted.astype(np.int64)]


def gather_vjp(packed: PackedSequence, cells: Indices) -> tuple[Array, Callable[[ArrayLike], tuple[Array, Array]]]:
    """:func:`gather` and its pullback: gradients of the cells to those of ``packed.values`` and of ``packed.fill``."""
    source = _chosen(packed, cells)
    out = take_rows(packed.values, source, packed.fill)

    def pullback(d: ArrayLike) -> tuple[Array, Array]:
        gradient = check_like("d", d, out)
        return _sum_tokens(gradient, source, packed.values), gradient[source < 0].sum(axis=0)

    return out, pullback


def time_order(backward: PackedSequence) -> PackedSequence:
    """The outputs of a backward run in the order of time.

    Parameters
    ----------
    backward : PackedSequence
        As a recurrent operation returns it with ``go_backwards``.
    """
    return time_order_vjp(backward)[0]


def time_order_vjp(backward: PackedSequence) -> tuple[PackedSequence, Callable[[ArrayLike], Array]]:
    """:func:`time_order` and its pullback, between gradients of values."""
    reverse = check_packed("backward", backward).packing.reverse
    out = PackedSequence(take_rows(backward.data, reverse), backward.packing.reversed, None, backward.fill)

    def pullback(d: ArrayLike) -> Array:
        gradient = check_like("d", d, out.values)
        tokens = take_rows(gradient, reverse)
        return tokens if backward.index is None else _sum_tokens(tokens, backward.index, backward.values)

    return out, pullback


def _matrix(name: str, packed: PackedSequence) -> Array:
    """The tokens of a packed batch of vectors."""
    data = check_packed_floats(name, packed).data
    if data.ndim != 2:
        raise ValueError(f"{name}: expected values (tokens, units), got shape {data.shape}")
    return data


def _merge(a: Array, b: Array, mode: str) -> Array:
    if mode == "concat":
        return np.concatenate([a, b], axis=1)
    if mode == "mul":
        return a * b
    return a + b if mode == "sum" else (a + b) * a.dtype.type(0.5)


def _unmerge(d: Array, a: Array, b: Array, mode: str) -> tuple[Array, Array]:
    if mode == "concat":
        return d[:, : a.shape[1]], d[:, a.shape[1] :]
    if mode == "mul":
        return d * b, d * a
    half = d if mode == "sum" else d * a.dtype.type(0.5)
    return half, half


def merge_rows_vjp(
    forward: ArrayLike, backward: ArrayLike, mode: str = "concat"
) -> tuple[Array, Callable[[ArrayLike], tuple[Array, Array]]]:
    """Merge rows (B, H) of two directions, such as their last outputs, as :func:`merge_directions_vjp` merges steps.

    Returns
    -------
    merged : array (B, 2H) for "concat", else (B, H)
    pullback : callable
        From the gradient of the merged rows to those of the two arguments.
    """
    choice("mode", mode, MERGE_MODES)
    a = check_float("forward", forward, 2)
    b = check_float("backward", backward, 2, a.dtype)
    if a.shape[0] != b.shape[0] or (mode != "concat" and a.shape != b.shape):
        raise ValueError(f"backward: expected rows to go with shape {a.shape}, got {b.shape}")
    merged = _merge(a, b, mode)

    def pullback(d: ArrayLike) -> tuple[Array, Array]:
        gradient = check_like("d", d, merged)
        da, db = _unmerge(gradient, a, b, mode)
        return np.ascontiguousarray(da), np.ascontiguousarray(db)

    return merged, pullback


def merge_directions_vjp(
    forward: PackedSequence, backward: PackedSequence, mode: str = "concat"
) -> tuple[PackedSequence, Callable[[ArrayLike], tuple[Array, Array]]]:
    """Merge the outputs of a forward and a backward run as Keras's Bidirectional does.

    Parameters
    ----------
    forward : PackedSequence
        Values (N, H), in the order of time.
    backward : PackedSequence
        Values (N, H), as a recurrent operation returns them with ``go_backwards``.
    mode : {"concat", "sum", "mul", "ave"}

    Returns
    -------
    merged : PackedSequence
        Values (N, 2H) for "concat", else (N, H), in the order of time; zeros at masked places.
    pullback : callable
        From gradients of the merged values to those of the two arguments' values.
    """
    choice("mode", mode, MERGE_MODES)
    a, other = (_matrix(*named) for named in (("forward", forward), ("backward", backward)))
    plan = forward.packing
    if forward.shape[:2] != backward.shape[:2] or not np.array_equal(plan.lengths, backward.packing.lengths):
        raise ValueError("backward: expected rows of the lengths of those of forward, got others")
    if a.dtype != other.dtype or (mode != "concat" and a.shape != other.shape):
        raise ValueError(f"backward: expected {a.dtype} to go with shape {a.shape}, got {other.dtype} {other.shape}")
    b = take_rows(other, plan.reverse)
    merged = PackedSequence(_merge(a, b, mode), plan)

    def pullback(d: ArrayLike) -> tuple[Array, Array]:
        gradient = check_like("d", d, merged.values)
        da, db = _unmerge(gradient, a, b, mode)
        return np.ascontiguousarray(da), take_rows(db, plan.reverse)

    return merged, pullback


def multiply_vjp(x: ArrayLike, factor: ArrayLike) -> tuple[Array, Callable[[ArrayLike], Array]]:
    """``x * factor`` for arrays of one shape or a factor that broadcasts to x (dropout), and the pullback for ``x``."""
    array = check_float("x", x)
    other = check_float("factor", factor, None, array.dtype)
    check_broadcast("factor", other, array.shape)

    def pullback(dy: ArrayLike) -> Array:
        gradient = check_like("dy", dy, array)
        return gradient * other

    return array * other, pullback
