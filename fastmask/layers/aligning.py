"""Several inputs side by side: by their stored values if one plan holds for all, else on the padded grid."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastmask.layers.checks import Array
from fastmask.layers.flow import Back, Shown, run, same, unpack_shown
from fastmask.packing import PackedSequence, Packing, put_rows, take_rows

Mask = npt.NDArray[np.bool_]


def equal_plans(a: Packing, b: Packing) -> bool:
    """Return whether two plans put the same steps in the same places, under a mask or not."""
    if a is b:
        return True
    alike = (a.batch_size, a.total_length, a.tokens) == (b.batch_size, b.total_length, b.tokens)
    return alike and a.masked == b.masked and np.array_equal(a.positions, b.positions)


def share_plan(xs: Sequence[Any]) -> bool:
    """Return whether all inputs are packed by one plan and have as many axes."""
    if not all(isinstance(x, PackedSequence) and x.values.ndim == xs[0].values.ndim for x in xs):
        return False
    return all(equal_plans(xs[0].packing, x.packing) for x in xs[1:])


def stored(xs: Sequence[PackedSequence], keep: bool) -> tuple[list[Array], Any, list[Back]]:
    """Return arrays whose rows belong together, the index that goes with them, and the ways back."""
    if all(x.index is xs[0].index for x in xs):
        return [x.values for x in xs], xs[0].index, [same for _ in xs]
    pairs = [run("expand", keep, x) for x in xs]
    return [data for data, _ in pairs], None, [back for _, back in pairs]


def fills(xs: Sequence[PackedSequence]) -> list[Array]:
    """Return what masked places of each input show, as one row (1, ...)."""
    rows = [np.zeros(x.values.shape[1:], x.dtype) if x.fill is None else np.asarray(x.fill, x.dtype) for x in xs]
    return [row[None] for row in rows]


def grids(xs: Sequence[Any], keep: bool) -> tuple[list[Array], list[Mask | None], list[Back]]:
    """Return padded arrays, with what Keras shows at masked places, their masks and the ways back."""
    pairs = [unpack_shown(x, keep) if isinstance(x, PackedSequence) else (x, same) for x in xs]
    return [grid for grid, _ in pairs], [mask_of(x) for x in xs], [back for _, back in pairs]


def mask_of(x: Any) -> Mask | None:
    """Return the mask that an input carries."""
    return x.packing.mask if isinstance(x, PackedSequence) and x.packing.masked else None


def pack_grid(y: Array, mask: Mask | None, xs: Sequence[Any], keep: bool) -> tuple[PackedSequence, Back]:
    """Pack a padded array by a mask, or whole for None; by the plan of an input if that has this mask."""
    plans = [x.packing for x in xs if isinstance(x, PackedSequence) and x.packing.masked == (mask is not None)]
    for plan in plans:
        fits = (plan.batch_size, plan.total_length) == y.shape[:2]
        if fits and (mask is None or np.array_equal(plan.mask, mask)):
            return pack_by(y, plan)
    packed, back = run("pack", keep, y, mask)
    return packed, back


def pack_by(y: Array, plan: Packing) -> tuple[PackedSequence, Back]:
    """Pack a padded array by a given plan."""
    cells = plan.batch_size * plan.total_length
    packed = PackedSequence(take_rows(y.reshape(cells, *y.shape[2:]), plan.positions), plan)
    return packed, lambda d: put_rows(d, plan.positions, cells).reshape(y.shape)


def with_fill(d: Any, fill: Array) -> Shown:
    """Add the gradient by what masked places show to that by an input."""
    return Shown(d.values, d.fill + fill) if isinstance(d, Shown) else Shown(d, fill)
