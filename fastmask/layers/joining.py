"""Concatenate and Dot."""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, cast

import numpy as np

from fastmask.batch.packing import PackedSequence, Packing
from fastmask.layers import aligning
from fastmask.layers.aligning import Mask
from fastmask.layers.base.checks import Array, Shape
from fastmask.layers.base.flow import Back, Shown, cotangents, run
from fastmask.layers.base.layer import Call, Gradients, Pullback, describe
from fastmask.layers.merging import MaskMerge, Merge


class Concatenate(MaskMerge):
    """Put the inputs one behind the other along an axis.

    Parameters
    ----------
    axis : int, default -1
        Not the batch axis; 1 is that of time.
    **kwargs
        See `MaskMerge` for `mask_mode`, and `Layer`.

    Notes
    -----
    The output has a mask if any input has one; inputs without count as valid everywhere. Along the
    time axis the masks are put one behind the other too, else a step counts where it counts in any
    input; `mask_mode` may say otherwise.
    """

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = int(axis)

    def joined_mask(self, shapes: Sequence[Any], masks: Sequence[Any]) -> Mask | None:
        present = [mask for mask in masks if mask is not None]
        if self.mask_mode == "drop" or not present:
            return None
        axes, axis = present[0].ndim, self._along(len(shapes[0]))
        found = [np.ones(shape[:axes], bool) if m is None else m for m, shape in zip(masks, shapes, strict=True)]
        if axis < axes:
            return np.concatenate(found, axis=axis)
        return self.joined(found)

    def loses_mask(self, masked: Sequence[int]) -> bool:
        axis = self._along(len(cast(Any, self.input_shape)[0]))
        return axis >= max(masked) and super().loses_mask(masked)

    def reads(self, shapes: Sequence[Any], masks: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
        """Return the steps of each input at which the output counts."""
        axes = max([2, *(mask.ndim for mask in masks if mask is not None)])
        in_time = self._along(len(shapes[0])) < axes and self.mask_mode != "drop"
        return [None] * len(shapes) if in_time else super().reads(shapes, masks, options)

    def flow_within(self, masked: Sequence[int]) -> None:
        super().flow_within(masked)
        axis = self._along(len(cast(Any, self.input_shape)[0])) if self.input_shape else 0
        if 0 < axis < max(masked) - 1:
            raise TypeError(
                f"axis: expected the last of the {max(masked)} axes of the masks that {describe(self)} joins, or one "
                f"behind it, got {self.axis}"
            )

    def by_steps(self, x: list[Any], call: Call) -> tuple[PackedSequence, Pullback]:
        one = copy(self)
        one.axis = self._along(len(x[0].shape)) - len(x[0].shape)
        return Merge.by_steps(one, x, call)

    def _along(self, rank: int) -> int:
        axis = self.axis + rank if self.axis < 0 else self.axis
        if not 0 < axis < rank:
            raise ValueError(f"axis: expected one of {rank} axes but the first for {describe(self)}, got {self.axis}")
        return axis

    def compute_output_shape(self, input_shape: Any) -> Shape:
        shapes = self._checked_shapes(input_shape)
        axis = self._along(len(shapes[0]))
        others = [shape[:axis] + shape[axis + 1 :] for shape in shapes]
        sizes = [{n for n in column if n is not None} for column in zip(*others, strict=False)]
        if len({len(shape) for shape in shapes}) > 1 or any(len(known) > 1 for known in sizes):
            raise ValueError(f"x: expected inputs that differ on axis {axis} alone for {describe(self)}, got {shapes}")
        lengths = [shape[axis] for shape in shapes]
        joined = None if None in lengths else sum(cast(list[int], lengths))
        rest = [min(known) if len(known) == 1 else None for known in sizes]
        return (*rest[:axis], joined, *rest[axis:])

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        if aligning.nested(x):
            return self.by_steps(x, call)
        axis = self._along(len(x[0].shape))
        self.compute_output_shape([entry.shape for entry in x])
        y: Any
        if not any(isinstance(entry, PackedSequence) for entry in x):
            y, array_back = _join(x, axis)
            return y, lambda dy: Gradients(array_back(cotangents(dy, y, self.dtype)[0]), [])
        packed, ways = self.packed(x, call.keep)
        if axis == 1:
            return self._in_time(packed, ways)
        return self.side_by_side(packed, ways, call.keep)

    def fits(self, xs: list[PackedSequence]) -> bool:
        alike = all(x.shown is xs[0].shown and (x.shown is None or x.index is xs[0].index) for x in xs)
        alike = alike and not (self.mask_mode == "drop" and xs[0].packing.masked)
        return aligning.share_plan(xs) and alike and len({x.repeat for x in xs}) == 1

    def merge_rows(self, rows: list[Array], masks: list[Any] | None, keep: bool) -> tuple[Array, Back]:
        # Rows of tokens lack the axis of time, along which inputs are joined elsewhere.
        return _join(rows, self._along(rows[0].ndim + 1) - 1)

    def _in_time(self, xs: list[PackedSequence], ways: list[Back]) -> tuple[PackedSequence, Pullback]:
        """Join in time without a padded grid: the values stay as they are and get a new index."""
        mask = self.joined_mask([x.shape for x in xs], [aligning.mask_of(x) for x in xs])
        plan = Packing.full(len(xs[0].packing.lengths), sum(x.packing.total_length for x in xs))
        plan = plan if mask is None else Packing.from_mask(mask)
        stored, offsets = zip(*[_with_fill_row(x) for x in xs], strict=True)
        ends = np.cumsum([len(values) for values in stored])
        sources = [_sources(x, end - len(values)) for x, values, end in zip(xs, stored, ends, strict=True)]
        source = np.concatenate(sources, axis=1).reshape(-1)
        shown = source[~mask.reshape(-1)] if mask is not None else None
        y = PackedSequence(np.concatenate(stored), plan, source[plan.positions], None, False, shown)

        def pullback(dy: Any) -> Gradients:
            parts = np.split(cast(Array, cotangents(dy, y, self.dtype)[0]), ends[:-1])
            d = [Shown(part[:-1], part[-1]) if own else part for part, own in zip(parts, offsets, strict=True)]
            return Gradients([way(part) for way, part in zip(ways, d, strict=True)], [])

        return y, pullback


class Dot(Merge):
    """Sums of products over one axis of each of two inputs, row by row.

    Parameters
    ----------
    axes : int or pair of int
        The axis of each input to sum over; not that of the batch.
    normalize : bool, default False
        Whether to scale the vectors along these axes to norm 1 first, which gives their cosine.
    **kwargs
        See `Layer`.

    Notes
    -----
    Inputs (B, T, F) and (B, S, F) with ``axes=2`` give (B, T, S); two vectors per row give (B, 1).
    The output has no mask; masked steps take part with what Keras shows there.
    """

    passes_mask = False

    def __init__(self, axes: int | Sequence[int], normalize: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        pair = [axes, axes] if isinstance(axes, int) else axes
        if not isinstance(pair, (list, tuple)) or not all(isinstance(axis, int) for axis in pair):
            raise TypeError(f"axes: expected an integer or a pair of integers, got {axes!r}")
        if len(pair) != 2:
            raise ValueError(f"axes: expected an integer or a pair of integers, got {axes!r}")
        self.axes = axes if isinstance(axes, int) else list(axes)
        self.normalize = bool(normalize)
        self._pair = tuple(pair)

    def _summed(self, shapes: Sequence[Any]) -> tuple[int, int]:
        if len(shapes) != 2:
            raise ValueError(f"x: expected a list of two inputs for {describe(self)}, got {len(shapes)}")
        a, b = (axis + len(s) if axis < 0 else axis for axis, s in zip(self._pair, shapes, strict=True))
        if not (0 < a < len(shapes[0]) and 0 < b < len(shapes[1])):
            raise ValueError(
                f"axes: expected axes of {list(shapes)} but the first for {describe(self)}, got {self.axes}"
            )
        lengths = {shapes[0][a], shapes[1][b]} - {None}
        if len(lengths) > 1:
            raise ValueError(f"axes: expected one length in both inputs for {describe(self)}, got {list(shapes)}")
        return a, b

    def compute_output_shape(self, input_shape: Any) -> Shape:
        shapes = self._checked_shapes(input_shape)
        a, b = self._summed(shapes)
        first, second = shapes
        out = (*first[:a], *first[a + 1 :], *second[1:b], *second[b + 1 :])
        return out if len(out) > 1 else (*out, 1)

    def forward(self, x: Any, call: Call) -> tuple[Array, Pullback | None]:
        axes = self._summed([entry.shape for entry in x])
        arrays, _, ways = aligning.grids(x, call.keep)
        y, back = run("batch_dot", call.keep, *arrays, axes, self.normalize)

        def pullback(dy: Any) -> Gradients:
            parts = back(cotangents(dy, y, self.dtype)[0])
            return Gradients([way(part) for way, part in zip(ways, parts, strict=True)], [])

        return y, pullback


def concatenate(inputs: Sequence[Any], axis: int = -1, **kwargs: Any) -> Any:
    """Return ``Concatenate(axis, **kwargs)(inputs)``."""
    return Concatenate(axis, **kwargs)(inputs)


def dot(inputs: Sequence[Any], axes: int | Sequence[int] = -1, **kwargs: Any) -> Any:
    """Return ``Dot(axes, **kwargs)(inputs)``."""
    return Dot(axes, **kwargs)(inputs)


def _join(arrays: Sequence[Array], axis: int) -> tuple[Array, Back]:
    edges = np.cumsum([array.shape[axis] for array in arrays])[:-1]
    return np.concatenate(arrays, axis=axis), lambda d: np.split(d, edges, axis=axis)


def _with_fill_row(x: PackedSequence) -> tuple[Array, bool]:
    """Return the stored values and, if masked places show it, the fill below them; and whether it is there."""
    if not x.packing.masked or x.shown is not None:
        return x.values, False
    return np.concatenate([x.values, aligning.fills([x])[0]]), True


def _sources(x: PackedSequence, offset: int) -> Any:
    """Return for every cell of the grid (B, T) the stored value that it shows, counted from `offset`."""
    cells = x.cells()
    return (np.where(cells < 0, len(x.values), cells) + offset).reshape(x.shape[:2])
