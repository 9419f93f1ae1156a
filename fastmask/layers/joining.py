"""Concatenate and Dot."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from fastmask import ops
from fastmask.layers import aligning
from fastmask.layers.base import Call, Gradients, Pullback, describe
from fastmask.layers.checks import Array, Shape
from fastmask.layers.flow import Back, Shown, cotangents, run
from fastmask.layers.merging import Merge
from fastmask.packing import PackedSequence, Packing


class Concatenate(Merge):
    """Put the inputs one behind the other along an axis.

    Parameters
    ----------
    axis : int, default -1
        Not the batch axis; 1 is that of time.
    **kwargs
        See `Layer`.

    Notes
    -----
    The output has a mask if any input has one; inputs without count as valid everywhere. Along the
    time axis the masks are put one behind the other too, else a step counts where it counts in any
    input.
    """

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = int(axis)

    def compute_mask(self, x: Any, mask: Any = None) -> Any:
        """Return the masks joined; None if no input has one."""
        masks = [None] * len(x) if mask is None else self._checked_masks(x, mask)
        return self._joined(masks, [np.shape(entry)[:2] for entry in x], self._along(np.ndim(x[0])))

    def _joined(self, masks: Sequence[Any], sizes: Sequence[tuple[int, ...]], axis: int) -> Any:
        if all(m is None for m in masks):
            return None
        found = [np.ones(n, bool) if m is None else m for m, n in zip(masks, sizes, strict=True)]
        return np.concatenate(found, axis=1) if axis == 1 else np.logical_or.reduce(found)

    def _along(self, rank: int) -> int:
        axis = self.axis + rank if self.axis < 0 else self.axis
        if not 0 < axis < rank:
            raise ValueError(f"axis must be one of {rank} axes but the first for {describe(self)}, got {self.axis}")
        return axis

    def compute_output_shape(self, input_shape: Any) -> Shape:
        shapes = self._checked_shapes(input_shape)
        axis = self._along(len(shapes[0]))
        others = [shape[:axis] + shape[axis + 1 :] for shape in shapes]
        sizes = [{n for n in column if n is not None} for column in zip(*others, strict=False)]
        if len({len(shape) for shape in shapes}) > 1 or any(len(known) > 1 for known in sizes):
            raise ValueError(f"x must hold inputs that differ on axis {axis} alone for {describe(self)}, got {shapes}")
        lengths = [shape[axis] for shape in shapes]
        joined = None if None in lengths else sum(cast(list[int], lengths))
        rest = [min(known) if len(known) == 1 else None for known in sizes]
        return (*rest[:axis], joined, *rest[axis:])

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        axis = self._along(len(x[0].shape))
        self.compute_output_shape([entry.shape for entry in x])
        if axis == 1 and any(isinstance(entry, PackedSequence) for entry in x):
            return self._in_time(x)
        y, backs, fill_back = (self._stored if aligning.share_plan(x) else self._grids)(x, axis, call.keep)

        def pullback(dy: Any) -> Gradients:
            d = backs(cotangents(dy, y, self.dtype)[0])
            if isinstance(dy, Shown) and fill_back is not None:
                d = [aligning.with_fill(own, part[0]) for own, part in zip(d, fill_back(dy.fill[None]), strict=True)]
            return Gradients(d, [])

        return y, pullback

    def _stored(self, xs: list[PackedSequence], axis: int, keep: bool) -> tuple[PackedSequence, Back, Back]:
        arrays, index, ways = aligning.stored(xs, keep)
        values, back = _join(arrays, axis - 1)
        fill, fill_back = _join(aligning.fills(xs), axis - 1)
        plan = xs[0].packing
        y = PackedSequence(values, plan, index, fill[0] if plan.masked else None, all(x.repeat for x in xs))
        return y, lambda d: [way(part) for way, part in zip(ways, back(d), strict=True)], fill_back

    def _grids(self, xs: list[Any], axis: int, keep: bool) -> tuple[Any, Back, Back | None]:
        arrays, masks, ways = aligning.grids(xs, keep)
        grid, back = _join(arrays, axis)

        def backs(d: Array) -> list[Any]:
            return [way(part) for way, part in zip(ways, back(d), strict=True)]

        if not any(isinstance(x, PackedSequence) for x in xs):
            return grid, backs, None
        mask, fill_back = self._joined(masks, [a.shape[:2] for a in arrays], axis), None
        y, pack_back = aligning.pack_grid(grid, mask, xs, keep)
        if all(m is not None for m in masks):
            fill, fill_back = _join(aligning.fills(xs), axis - 1)
            y = PackedSequence(y.values, y.packing, None, fill[0])
        return y, lambda d: backs(pack_back(d)), fill_back

    def _in_time(self, xs: list[Any]) -> tuple[PackedSequence, Pullback]:
        """Join in time without a padded grid: the values stay as they are and get a new index."""
        packed = [x if isinstance(x, PackedSequence) else PackedSequence.from_padded(x) for x in xs]
        mask = self._joined([aligning.mask_of(x) for x in packed], [x.shape[:2] for x in packed], 1)
        shape = (len(packed[0].packing.lengths), sum(x.packing.total_length for x in packed))
        plan = Packing.full(*shape) if mask is None else Packing.from_mask(mask)
        ends = np.cumsum([len(x.values) for x in packed])
        source = np.concatenate([_cells(x, end - len(x.values)) for x, end in zip(packed, ends, strict=True)], axis=1)
        shown = next((x for x in packed if x.packing.masked), None)
        index = source.reshape(-1)[plan.positions]
        y = PackedSequence(np.concatenate([x.values for x in packed]), plan, index, shown and shown.fill)

        def pullback(dy: Any) -> Gradients:
            parts = np.split(cast(Array, cotangents(dy, y, self.dtype)[0]), ends[:-1])
            places = zip(xs, packed, parts, strict=True)
            inputs = [d if own is p else ops.unpack(p.with_values(d)) for own, p, d in places]
            if isinstance(dy, Shown):
                inputs = [Shown(d, dy.fill) if p is shown else d for p, d in zip(packed, inputs, strict=True)]
            return Gradients(inputs, [])

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

    def __init__(self, axes: int | Sequence[int], normalize: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        pair = [axes, axes] if isinstance(axes, int) else axes
        if not isinstance(pair, (list, tuple)) or not all(isinstance(axis, int) for axis in pair):
            raise TypeError(f"axes must be an integer or a pair of integers, got {axes!r}")
        if len(pair) != 2:
            raise ValueError(f"axes must be an integer or a pair of integers, got {axes!r}")
        self.axes = axes if isinstance(axes, int) else list(axes)
        self.normalize = bool(normalize)
        self._pair = tuple(pair)

    @property
    def passes_mask(self) -> bool:
        return False

    def compute_mask(self, x: Any, mask: Any = None) -> None:
        """Return None."""
        return

    def _summed(self, shapes: Sequence[Any]) -> tuple[int, int]:
        if len(shapes) != 2:
            raise ValueError(f"x must be a list of two inputs for {describe(self)}, got {len(shapes)}")
        a, b = (axis + len(s) if axis < 0 else axis for axis, s in zip(self._pair, shapes, strict=True))
        if not (0 < a < len(shapes[0]) and 0 < b < len(shapes[1])):
            raise ValueError(f"axes must be axes of {list(shapes)} but the first for {describe(self)}, got {self.axes}")
        lengths = {shapes[0][a], shapes[1][b]} - {None}
        if len(lengths) > 1:
            raise ValueError(f"axes must have one length in both inputs for {describe(self)}, got {list(shapes)}")
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


def _cells(x: PackedSequence, offset: int) -> Any:
    """Return for every cell of the grid (B, T) the stored value that fills it, counted from `offset`."""
    cells = x.packing.grid()
    if x.index is not None and x.index.size:
        cells = np.where(cells < 0, cells, x.index[cells])
    return (cells + offset).reshape(x.shape[:2])
