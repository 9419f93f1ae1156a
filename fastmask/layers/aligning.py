"""Several inputs side by side: by their stored values if one plan holds for all, else on the padded grid."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastmask.batch.packing import PackedSequence, Packing
from fastmask.layers.base.checks import Array
from fastmask.layers.base.flow import Back, Shown, fill_of, run, same, unpack_shown

Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]


def equal_plans(a: Packing, b: Packing) -> bool:
    """Return whether two plans put the same steps in the same places, under a mask or not."""
    if a is b:
        return True
    alike = (a.leading, a.total_length, a.tokens) == (b.leading, b.total_length, b.tokens)
    return alike and a.masked == b.masked and np.array_equal(a.positions, b.positions)


def nested(xs: Sequence[Any]) -> bool:
    """Return whether the plan of an input goes on within the steps of the batch."""
    return any(isinstance(x, PackedSequence) and len(x.packing.leading) > 1 for x in xs)


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
    return [fill_of(x)[None] for x in xs]


def same_grid(xs: Sequence[Any]) -> bool:
    """Return whether all inputs are packed, of one batch size, number of steps and number of axes."""
    if not all(isinstance(x, PackedSequence) for x in xs):
        return False
    return len({(*x.shape[:2], len(x.shape)) for x in xs}) == 1


def plan_of(mask: Mask | None, xs: Sequence[PackedSequence]) -> Packing:
    """Return the plan of a mask, or of none: that of an input if it has this mask."""
    for plan in (x.packing for x in xs):
        if plan.masked == (mask is not None) and (mask is None or np.array_equal(plan.mask, mask)):
            return plan
    return Packing.full(*xs[0].shape[:2]) if mask is None else Packing.from_mask(mask)


def visible_cells(plan: Packing, xs: Sequence[PackedSequence]) -> tuple[Indices, Indices]:
    """Return the cells of the tokens, and after them masked ones, and which of these each masked cell shows.

    Where no input shows anything else than in the masked cell before, that cell stands for both.
    """
    blank = ~plan.mask
    begins = blank.copy()
    begins[:, 1:] &= ~blank[:, :-1]
    for x in xs:
        source = x.cells().reshape(blank.shape)
        begins[:, 1:] |= blank[:, 1:] & (source[:, 1:] != source[:, :-1])
    runs = np.cumsum(begins.reshape(-1)) - 1 + plan.tokens
    return np.concatenate([plan.positions, np.flatnonzero(begins)]), runs[blank.reshape(-1)].astype(np.int64)


def gather(x: PackedSequence, cells: Indices, keep: bool) -> tuple[Array, Back]:
    """Return what an input shows in cells of the grid; the pullback may return a `Shown`."""
    rows, back = run("gather", keep, x, cells)
    if not x.packing.masked or x.shown is not None:
        return rows, lambda d: back(d)[0]
    return rows, lambda d: Shown(*back(d))


def grids(xs: Sequence[Any], keep: bool) -> tuple[list[Array], list[Mask | None], list[Back]]:
    """Return padded arrays, with what Keras shows at masked places, their masks and the ways back."""
    pairs = [unpack_shown(x, keep) if isinstance(x, PackedSequence) else (x, same) for x in xs]
    return [grid for grid, _ in pairs], [mask_of(x) for x in xs], [back for _, back in pairs]


def mask_of(x: Any) -> Mask | None:
    """Return the mask that an input carries."""
    return x.packing.mask if isinstance(x, PackedSequence) and x.packing.masked else None


def with_fill(d: Any, fill: Array) -> Shown:
    """Add the gradient by what masked places show to that by an input."""
    return Shown(d.values, d.fill + fill) if isinstance(d, Shown) else Shown(d, fill)
