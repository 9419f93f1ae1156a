"""How batches enter and leave layers, with or without a pullback."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastmask import ops
from fastmask.layers import checks
from fastmask.layers.checks import Array, Shape
from fastmask.packing import PackedSequence

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


def leave(y: PackedSequence, padded: bool, keep: bool) -> tuple[Any, Back]:
    """Pad a packed batch if that is what came in."""
    return run("unpack", keep, y) if padded else (y, same)


def unread_ids(ids: Array, mask: Array) -> Array:
    """Return ids (B, T, ...) with 0 where the mask (B, T) is False, whatever stands there."""
    return np.where(mask.reshape(*mask.shape, *[1] * (ids.ndim - 2)), ids, ids.dtype.type(0))


def open_shape(x: "Array | PackedSequence") -> Shape:
    """Return the shape of `x` with None for the axes that differ from batch to batch."""
    fixed = 2 if isinstance(x, PackedSequence) else 1
    return (None,) * min(fixed, len(x.shape)) + tuple(x.shape[fixed:])


def cotangents(dy: Any, outputs: Any, dtype: np.dtype[Any]) -> list[Array | None]:
    """Return the gradients by each of the outputs, checked.

    Parameters
    ----------
    dy : array_like, or tuple of array_like and None if `outputs` is a tuple
    outputs : ndarray, PackedSequence or tuple of them
    """
    single = not isinstance(outputs, tuple)
    outputs, dy = ((outputs,), (dy,)) if single else (outputs, dy)
    if not isinstance(dy, (tuple, list)) or len(dy) != len(outputs):
        raise ValueError(f"dy must be a tuple of {len(outputs)} gradients, got {type(dy).__name__}")
    if single and dy[0] is None:
        raise ValueError("dy must be an array, got None")
    names = ["dy"] if single else [f"dy[{i}]" for i in range(len(outputs))]
    return [
        None if d is None else checks.cotangent(name, d, _array(y).shape, dtype)
        for name, d, y in zip(names, dy, outputs, strict=True)
    ]


def _array(y: Any) -> Array:
    found: Array = y.values if isinstance(y, PackedSequence) else y
    return found
