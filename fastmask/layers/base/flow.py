"""How batches enter and leave layers, with or without a pullback."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from fastmask import ops
from fastmask.batch.packing import PackedSequence, Packing, put_rows, take_rows
from fastmask.layers.base import checks
from fastmask.layers.base.calls import Call, Gradients, Pullback
from fastmask.layers.base.checks import Array, Shape

Back = Callable[..., Any]


def run(op: str, keep: bool, *args: Any, **kwargs: Any) -> tuple[Any, Back]:
    """Call ``ops.<op>``, which stores nothing, or ``ops.<op>_vjp`` if the pullback is kept.

    Operations that have nothing to store come with a pullback only.
    """
    plain = None if keep else getattr(ops, op, None)
    if plain is not None:
        return plain(*args, **kwargs), same
    y, back = getattr(ops, f"{op}_vjp")(*args, **kwargs)
    return y, back


def same(value: Any) -> Any:
    """Return `value`: the pullback of doing nothing."""
    return value


def enter(x: "Array | PackedSequence", mask: Any, keep: bool) -> tuple[PackedSequence, Back]:
    """Pack a padded batch; leave a packed one as it is."""
    return (x, same) if isinstance(x, PackedSequence) else run("pack", keep, x, mask)


def enter_read(x: Array, mask: Any, read: Any, keep: bool) -> tuple[Any, Back]:
    """Pack a padded batch under its mask, if it has one; it holds and shows zeros where `read` is False.

    Where `read` is True outside the mask, it shows what stands there.
    """
    if read is None or np.array_equal(read, np.ones(x.shape[:2], bool) if mask is None else mask):
        return (x, same) if mask is None else enter(x, mask, keep)
    cells, features = np.flatnonzero(read), x.shape[read.ndim :]

    def hidden(values: Array) -> Array:
        return np.where(read.reshape(*read.shape, *[1] * len(features)), values, values.dtype.type(0))

    if mask is None:
        return hidden(x), hidden
    values = np.concatenate([take_rows(x.reshape(read.size, *features), cells), np.zeros((1, *features), x.dtype)])
    number = np.full(read.size, len(cells))
    number[cells] = np.arange(len(cells))
    plan = Packing.from_mask(mask)
    y = PackedSequence(values, plan, number[plan.positions], None, False, number[~mask.reshape(-1)])
    return y, lambda d: put_rows(d[:-1], cells, read.size).reshape(x.shape)


def enter_several(layer: Any, xs: Sequence[Any], masks: Sequence[Any], call: Call) -> list[tuple[Any, Back]]:
    """Pack the padded arrays among several inputs that have a mask; what the layer does not read becomes zeros."""
    if all(m is None for m in masks):
        return [(x, same) for x in xs]
    carried = [x.packing.mask if isinstance(x, PackedSequence) and x.packing.masked else None for x in xs]
    known = [own if mask is None else mask for own, mask in zip(carried, masks, strict=True)]
    reads = layer.reads([x.shape for x in xs], known, call.options)
    pairs = zip(xs, masks, reads, strict=True)
    return [(x, same) if isinstance(x, PackedSequence) else enter_read(x, m, read, call.keep) for x, m, read in pairs]


def tokens_of(x: "Array | PackedSequence", mask: Any) -> tuple[ops.Tokens, Back]:
    """The tokens of a batch as a recurrent program takes them; those of a padded one stay where they stand."""
    if isinstance(x, PackedSequence):
        values = ops.check_float("x", x.values, 2)
        return ops.Tokens(values, x.packing, x.index, x.index is not None and not x.apart, x.source), same
    shape, flags = x.shape, x.flags
    plan = full_plan(*shape[:2]) if mask is None else Packing.from_mask(mask)
    values = x if flags.c_contiguous and flags.aligned else np.require(x, None, ("C", "A"))
    values = values.reshape(shape[0] * shape[1], shape[2])
    return ops.Tokens(values, plan, plan.positions), lambda d: d.reshape(shape)


def full_plan(rows: int, steps: int) -> Packing:
    """The plan of a batch without a mask; small ones are kept."""
    return _kept_plan(rows, steps) if rows * steps <= ops.tuning.KEPT_PLAN_TOKENS else Packing.full(rows, steps)


_kept_plan = lru_cache(maxsize=8)(Packing.full)


def pack_by(y: Array, plan: Packing) -> tuple[PackedSequence, Back]:
    """Pack a padded array by a given plan."""
    cells = plan.batch_size * plan.total_length
    tokens = take_rows(y.reshape(cells, *y.shape[len(plan.leading) + 1 :]), plan.positions)
    return PackedSequence(tokens, plan), lambda d: put_rows(d, plan.positions, cells).reshape(y.shape)


def fill_of(x: PackedSequence) -> Array:
    """Return what masked places of a batch show, zeros where it does not say."""
    return np.zeros(x.values.shape[1:], x.dtype) if x.fill is None else np.asarray(x.fill, x.dtype)


def leave(y: PackedSequence, padded: bool, keep: bool) -> tuple[Any, Back]:
    """Pad a packed batch if that is what came in."""
    return run("unpack", keep, y) if padded else (y, same)


def unread_ids(ids: Array, mask: Array) -> Array:
    """Return ids with 0 where the mask, of some of their first axes, is False, whatever stands there."""
    return np.where(mask.reshape(*mask.shape, *[1] * (ids.ndim - mask.ndim)), ids, ids.dtype.type(0))


def folded(x: "Array | PackedSequence") -> Any:
    """Return a batch with its first two axes made one, so that its steps are rows."""
    if isinstance(x, PackedSequence):
        return replace(x, packing=x.packing.folded)
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def unfolded(y: "Array | PackedSequence", plan: Packing) -> PackedSequence:
    """Return what came of a batch of a plan that was `folded`, with the first two axes apart.

    The values, and so their gradients, stay as they are. An array has one entry for each step: those of steps in
    which nothing counts are what masked places show.
    """
    if isinstance(y, PackedSequence):
        own = y.packing
        return replace(y, packing=plan if own is plan.folded else own.over((*plan.leading[:2], *own.leading[1:])))
    outer = plan.outer
    return PackedSequence(y, outer, outer.positions, shown=np.flatnonzero(~outer.mask))


def apply_several(layer: Any, xs: Any, masks: Any, call: Call) -> tuple[Any, Any]:
    """Call a layer that takes a list: padded arrays that have a mask are packed before and padded after."""
    if not isinstance(xs, (list, tuple)) or not xs:
        raise TypeError(f"x: expected a list of inputs for layer {layer.name!r}, got {type(xs).__name__}")
    xs = [layer.check_input(x) for x in xs]
    masks = [None] * len(xs) if masks is None else list(masks)
    if len(masks) != len(xs):
        raise ValueError(f"mask: expected one mask or None for each of {len(xs)} inputs, got {len(masks)}")
    padded = not any(isinstance(x, PackedSequence) for x in xs)
    masks = [_own_mask(x, mask) for x, mask in zip(xs, masks, strict=True)]
    entered = enter_several(layer, xs, masks, call)
    values = [x for x, _ in entered]
    if any(isinstance(x, PackedSequence) and x.packing.masked for x in values):
        layer.require_masking()
    if not layer.built:
        layer.build([open_shape(x) for x in values])
    y, pullback = layer.forward(values, call)
    y, leave_back = leave_all(y, padded, call.keep)

    def through(dy: Any) -> Gradients:
        if padded:
            given = cotangents(dy, y, layer.dtype)
            dy = leave_back(tuple(given) if isinstance(y, tuple) else given[0])
        gradients: Gradients = pullback(dy)
        found = zip(entered, gradients.inputs, strict=True)
        inputs = [d if d is None or back is same else back(_values_of(d)) for (_, back), d in found]
        return gradients._replace(inputs=inputs)

    return y, through


def _own_mask(x: Any, mask: Any) -> Any:
    """Return the mask that was passed for one of several inputs, checked."""
    if mask is not None and isinstance(x, PackedSequence):
        raise ValueError("mask: expected None with a PackedSequence, which carries its own, got one")
    return checks.mask_for(mask, x.shape)


def leave_all(y: Any, padded: bool, keep: bool) -> tuple[Any, Back]:
    """Pad one output or each of a tuple where it is packed, if that is what came in."""
    if not padded:
        return y, same
    if not isinstance(y, tuple):
        return leave(y, True, keep) if isinstance(y, PackedSequence) else (y, same)
    left = [leave_all(entry, True, keep) for entry in y]

    def back(dy: Any) -> Any:
        return tuple(None if d is None else b(d) for (_, b), d in zip(left, dy, strict=True))

    return tuple(entry for entry, _ in left), back


def summed(first: list[Any], second: list[Any]) -> list[Any]:
    """Add up two lists of gradients by the same weights; None stands for zeros."""
    pairs = zip(first, second, strict=True)
    return [b if a is None else a if b is None else add(a, b) for a, b in pairs]


def add(a: Any, b: Any) -> Any:
    """Return the sum of two gradients, sparse if both are."""
    if not (isinstance(a, ops.SparseRows) and isinstance(b, ops.SparseRows)):
        a, b = (d.dense() if isinstance(d, ops.SparseRows) else d for d in (a, b))
        return a + b
    ids, index = np.unique(np.concatenate([a.ids, b.ids]), return_inverse=True)
    rows = np.zeros((ids.size, a.shape[1]), a.rows.dtype)
    rows[index[: a.ids.size]] = a.rows
    rows[index[a.ids.size :]] += b.rows
    return ops.SparseRows(ids, rows, a.shape)


def open_shape(x: "Array | PackedSequence") -> Shape:
    """Return the shape of `x` with None for the axes that differ from batch to batch."""
    shape = x.shape
    if isinstance(x, PackedSequence):
        axes = len(x.packing.leading) + 1
        return (*[None] * axes, *shape[axes:])
    return (None, *shape[1:]) if shape else ()


def as_rows(x: Array) -> Array:
    """Return `x` (..., F) as rows (n, F), also where F is 0."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


class Shown:
    """The gradient by a packed batch and by what its masked places show.

    A layer that brings masked places to light (`DropMask`, a merge of different masks) hands it back in
    place of an array; one whose masked places depend on its weights puts it to use, and the others
    see `values` alone.

    Parameters
    ----------
    values : ndarray
        Like the batch's ``values``.
    fill : ndarray
        Like its ``fill``.
    """

    __array_ufunc__ = None

    def __init__(self, values: Array, fill: Array) -> None:
        self.values, self.fill = values, fill

    def __add__(self, other: "Shown | Array") -> "Shown":
        if isinstance(other, Shown):
            return Shown(self.values + other.values, self.fill + other.fill)
        return Shown(self.values + other, self.fill)

    __radd__ = __add__

    def map(self, function: Callable[[Array], Array]) -> "Shown":
        """Return the gradient with `function` applied to its values."""
        return Shown(function(self.values), self.fill)


def unpack_shown(x: PackedSequence, keep: bool) -> tuple[Array, Back]:
    """Pad a batch; the pullback returns a `Shown` where masked places show what `fill` says."""
    grid, back = run("unpack", keep, x)
    if not (keep and x.packing.masked) or x.shown is not None:
        return grid, back
    blank = (x.packing.grid(x.repeat) < 0).reshape(*x.packing.leading, x.packing.total_length)

    def pullback(d: Array) -> Any:
        return Shown(back(d), d[blank].sum(axis=0))

    return grid, pullback


def cotangents(dy: Any, outputs: Any, dtype: np.dtype[Any]) -> list[Array | None]:
    """Return the gradients by each of the outputs, checked.

    Parameters
    ----------
    dy : array_like, or tuple of array_like and None if `outputs` is a tuple
    outputs : ndarray, PackedSequence or tuple of them
    """
    if not isinstance(outputs, tuple):
        if dy is None:
            raise ValueError("dy: expected an array, got None")
        return [checks.cotangent("dy", _values_of(dy), _array(outputs).shape, dtype)]
    if not isinstance(dy, (tuple, list)) or len(dy) != len(outputs):
        raise ValueError(f"dy: expected a tuple of {len(outputs)} gradients, got {type(dy).__name__}")
    return [
        None if d is None else checks.cotangent(f"dy[{i}]", _values_of(d), _array(y).shape, dtype)
        for i, (d, y) in enumerate(zip(dy, outputs, strict=True))
    ]


def pulled(y: Any, back: Back, dtype: np.dtype[Any]) -> Pullback:
    """Return the pullback of a layer without weights; `back` takes the gradient by its output `y`."""
    return lambda dy: Gradients(back(cotangents(dy, y, dtype)[0]), [])


def _array(y: Any) -> Array:
    found: Array = y.values if isinstance(y, PackedSequence) else y
    return found


def _values_of(d: Any) -> Any:
    return d.values if isinstance(d, Shown) else d
