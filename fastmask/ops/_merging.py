"""Several arrays into one: entry by entry under masks, and products over an axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmask.core.arguments import choice
from fastmask.ops._arrays import Array, check_bool, check_broadcast, check_float, check_like, check_list

Mask = NDArray[np.bool_]
Masks = Sequence[Mask | None] | None
Pullback = Callable[[ArrayLike], list[Array]]

_SHORTEST = 1e-7
MERGES = ("add", "subtract", "multiply", "average", "maximum", "minimum")


def merge(arrays: Sequence[ArrayLike], mode: str, masks: Masks = None) -> Array:
    """Merge arrays entry by entry as Keras's merging layers do.

    Parameters
    ----------
    arrays : sequence of float32 or float64 arrays
        Of shapes that broadcast to each other, with one number of axes; two for "subtract".
    mode : {"add", "subtract", "multiply", "average", "maximum", "minimum"}
    masks : sequence of bool arrays or None, optional
        For each array its mask over the first axes. "multiply" takes masked entries for 1 and gives
        0 where every array has a mask and none is valid; "maximum" and "minimum" leave masked
        entries out. The others do plain arithmetic.
    """
    return merge_vjp(arrays, mode, masks)[0]


def merge_vjp(arrays: Sequence[ArrayLike], mode: str, masks: Masks = None) -> tuple[Array, Pullback]:
    """:func:`merge` and its pullback ``dy -> [d_array, ...]``.

    Of equal largest or smallest entries the first array's gets the gradient.
    """
    choice("mode", mode, MERGES)
    given = [check_float(f"arrays[{i}]", array) for i, array in enumerate(check_list("arrays", arrays))]
    if not given or (mode == "subtract" and len(given) != 2):
        wanted = "two" if mode == "subtract" else "one or more"
        raise ValueError(f"arrays: expected {wanted} for {mode!r}, got {len(given)}")
    _check_together(given)
    valid = _check_masks(masks, given)
    y, back = _ARITHMETIC[mode](given, valid)

    def pullback(dy: ArrayLike) -> list[Array]:
        d = check_like("dy", dy, y)
        return [_unbroadcast(part, array.shape) for part, array in zip(back(d), given, strict=True)]

    return y, pullback


def _check_together(arrays: list[Array]) -> None:
    first = arrays[0]
    for i, array in enumerate(arrays):
        if array.dtype != first.dtype:
            raise TypeError(f"arrays[{i}]: expected {first.dtype}, as the other arrays, got {array.dtype}")
        if array.ndim != first.ndim:
            raise ValueError(f"arrays[{i}]: expected {first.ndim} dimensions, as arrays[0], got shape {array.shape}")
    try:
        np.broadcast_shapes(*[array.shape for array in arrays])
    except ValueError:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"arrays: expected shapes that broadcast to each other, got {shapes}") from None


def _check_masks(masks: Masks, arrays: list[Array]) -> list[Mask | None]:
    if masks is None:
        return [None] * len(arrays)
    if len(check_list("masks", masks)) != len(arrays):
        raise ValueError(f"masks: expected {len(arrays)}, one for each array, got {len(masks)}")
    valid: list[Mask | None] = []
    for i, (mask, array) in enumerate(zip(masks, arrays, strict=True)):
        own = None if mask is None else check_bool(f"masks[{i}]", mask)
        if own is not None:
            check_broadcast(f"masks[{i}]", own, array.shape[: own.ndim])
            own = own.reshape(own.shape + (1,) * (array.ndim - own.ndim))
        valid.append(own)
    return valid


def _linear(factors: Callable[[int], list[float]]) -> Callable[..., tuple[Array, Callable[[Array], list[Array]]]]:
    def combine(arrays: list[Array], _: list[Mask | None]) -> tuple[Array, Callable[[Array], list[Array]]]:
        scale = [arrays[0].dtype.type(f) for f in factors(len(arrays))]
        y = arrays[0] if len(arrays) == 1 else arrays[0] + (arrays[1] if scale[1] > 0 else -arrays[1])
        for array in arrays[2:]:
            y = y + array
        y = y * scale[0] if scale[0] != 1 else y
        return y, lambda d: [d if f == 1 else d * f for f in scale]

    return combine


def _multiply(arrays: list[Array], masks: list[Mask | None]) -> tuple[Array, Callable[[Array], list[Array]]]:
    one = arrays[0].dtype.type(1)
    factors = [a if m is None else np.where(m, a, one) for a, m in zip(arrays, masks, strict=True)]
    before = [np.ones_like(arrays[0], shape=())]
    for factor in factors:
        before.append(before[-1] * factor)
    due = _any(masks)
    y = before[-1] if due is None else np.where(due, before[-1], 0 * one)

    def back(d: Array) -> list[Array]:
        d = d if due is None else np.where(due, d, 0 * one)
        parts: list[Array] = []
        after = d
        for factor, mask, earlier in zip(factors[::-1], masks[::-1], before[-2::-1], strict=True):
            part = after * earlier
            parts.insert(0, part if mask is None else np.where(mask, part, 0 * one))
            after = after * factor
        return parts

    return y, back


def _select(sign: int) -> Callable[..., tuple[Array, Callable[[Array], list[Array]]]]:
    def choose(arrays: list[Array], masks: list[Mask | None]) -> tuple[Array, Callable[[Array], list[Array]]]:
        y, due, taken = arrays[0], masks[0], []
        for array, mask in zip(arrays[1:], masks[1:], strict=True):
            take = (array > y if sign > 0 else array < y) | np.isnan(array)
            take = take if due is None else take | ~due
            take = take if mask is None else take & mask
            due = None if due is None or mask is None else due | mask
            y = np.where(take, array, y)
            taken.append(take)

        def back(d: Array) -> list[Array]:
            parts: list[Array] = []
            for take in taken[::-1]:
                parts.insert(0, np.where(take, d, d.dtype.type(0)))
                d = np.where(take, d.dtype.type(0), d)
            return [d, *parts]

        return y, back

    return choose


_ARITHMETIC = {
    "add": _linear(lambda n: [1.0] * n),
    "subtract": _linear(lambda n: [1.0, -1.0]),
    "average": _linear(lambda n: [1.0 / n] * n),
    "multiply": _multiply,
    "maximum": _select(1),
    "minimum": _select(-1),
}


def batch_dot(x: ArrayLike, y: ArrayLike, axes: tuple[int, int], normalize: bool = False) -> Array:
    """Sums of products over one axis of each array, row by row.

    Parameters
    ----------
    x, y : float32 or float64 array (B, ...)
    axes : pair of int
        Which axis of x and of y, from 1 on; they have one length.
    normalize : bool, default False
        Whether to scale both to a norm of 1 along these axes first.

    Returns
    -------
    array (B, other axes of x, other axes of y), or (B, 1) if there are none
    """
    return batch_dot_vjp(x, y, axes, normalize)[0]


def batch_dot_vjp(
    x: ArrayLike, y: ArrayLike, axes: tuple[int, int], normalize: bool = False
) -> tuple[Array, Callable[[ArrayLike], tuple[Array, Array]]]:
    """:func:`batch_dot` and its pullback ``d -> (dx, dy)``."""
    a, b = check_float("x", x), check_float("y", y)
    b = check_float("y", b, None, a.dtype)
    if len(check_list("axes", axes)) != 2 or not all(isinstance(axis, (int, np.integer)) for axis in axes):
        raise ValueError(f"axes: expected a pair of whole numbers, got {axes!r}")
    if a.ndim <= axes[0] or b.ndim <= axes[1] or min(axes) < 1:
        raise ValueError(f"axes: expected axes of shapes {a.shape} and {b.shape} but the first, got {axes}")
    if a.shape[0] != b.shape[0] or a.shape[axes[0]] != b.shape[axes[1]]:
        raise ValueError(f"y: expected {a.shape[0]} rows with {a.shape[axes[0]]} entries to sum, got {b.shape}")
    left, right = np.moveaxis(a, axes[0], -1), np.moveaxis(b, axes[1], -1)
    scale = [_normalized(part) if normalize else (part, lambda d: d) for part in (left, right)]
    rows = [_as_rows(part) for part, _ in scale]
    shape = (*left.shape[:-1], *right.shape[1:-1])
    out = (rows[0] @ rows[1].swapaxes(1, 2)).reshape(shape if len(shape) > 1 else (*shape, 1))

    def pullback(dout: ArrayLike) -> tuple[Array, Array]:
        d = check_like("d", dout, out)
        d = d.reshape(len(a), rows[0].shape[1], rows[1].shape[1])
        dx = scale[0][1]((d @ rows[1]).reshape(left.shape))
        dy = scale[1][1]((d.swapaxes(1, 2) @ rows[0]).reshape(right.shape))
        return np.moveaxis(dx, -1, axes[0]), np.moveaxis(dy, -1, axes[1])

    return out, pullback


def _as_rows(part: Array) -> Array:
    middle = int(np.prod(part.shape[1:-1], dtype=np.int64))
    return part.reshape(part.shape[0], middle, part.shape[-1])


def _normalized(x: Array) -> tuple[Array, Callable[[Array], Array]]:
    """Vectors along the last axis over their norms, or over 1e-7 if they are shorter, as in Keras."""
    squares = (x * x).sum(axis=-1, keepdims=True)
    long = squares > _SHORTEST**2
    factor = 1 / np.sqrt(np.maximum(squares, x.dtype.type(_SHORTEST**2)))
    y = x * factor
    return y, lambda d: factor * (d - np.where(long, y * (d * y).sum(axis=-1, keepdims=True), 0 * d))


def _any(masks: list[Mask | None]) -> Mask | None:
    found: Mask | None = masks[0]
    for mask in masks[1:]:
        found = None if found is None or mask is None else found | mask
    return found


def _unbroadcast(d: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes along which an array of this shape was repeated."""
    axes = tuple(i for i, (own, n) in enumerate(zip(shape, d.shape, strict=True)) if own == 1 and n != 1)
    return d.sum(axis=axes, keepdims=True) if axes else d
