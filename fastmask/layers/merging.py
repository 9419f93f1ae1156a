"""Merging layers, entry by entry: Add, Subtract, Multiply, Average, Maximum and Minimum."""

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np

from fastmask.layers import aligning, checks
from fastmask.layers.base import Call, Gradients, Layer, Pullback, describe
from fastmask.layers.checks import Array, Shape
from fastmask.layers.flow import Back, Shown, cotangents, run
from fastmask.packing import PackedSequence


class Merge(Layer):
    """Base of the layers that make one output of a list of inputs."""

    supports_masking = True
    takes_list = True

    def create_weights(self, input_shape: Any) -> None:
        self._checked_shapes(input_shape)
        self.compute_output_shape(input_shape)

    def _checked_shapes(self, shapes: Any) -> list[Shape]:
        if not isinstance(shapes, (list, tuple)) or not shapes or not all(isinstance(s, (list, tuple)) for s in shapes):
            raise ValueError(f"x must be a list of at least one input for {describe(self)}, got shape {shapes}")
        sizes = {shape[0] for shape in shapes if shape} - {None}
        if len(sizes) > 1:
            raise ValueError(f"x must hold inputs of one batch size for {describe(self)}, got shapes {shapes}")
        return [tuple(shape) for shape in shapes]

    def _checked_masks(self, x: Any, mask: Any) -> list[Any]:
        for name, value in (("mask", mask), ("x", x)):
            if not isinstance(value, (list, tuple)):
                raise ValueError(f"{name} must be a list for {describe(self)}, got {type(value).__name__}")
        if len(mask) != len(x):
            raise ValueError(f"mask must hold one mask or None for each of {len(x)} inputs, got {len(mask)}")
        return [checks.mask_for(m, np.shape(m)) for m in mask]


class Elementwise(Merge):
    """Base of the layers that merge entry by entry.

    Inputs with fewer axes than others get axes of length 1 behind the batch axis, and axes of
    length 1 are repeated. The output has a mask if every input has: a step counts where it counts
    in any of them.
    """

    mode: ClassVar[str]

    def mask_flow(self, masked: Sequence[bool], outputs: int) -> list[bool]:
        return [all(masked)]

    def compute_mask(self, x: Any, mask: Any = None) -> Any:
        """Return where any of the masks is True; None if an input has none."""
        if mask is None:
            return None
        masks = self._checked_masks(x, mask)
        return None if any(m is None for m in masks) else np.logical_or.reduce(masks)

    def compute_output_shape(self, input_shape: Any) -> Shape:
        shapes = self._checked_shapes(input_shape)
        rank = max(map(len, shapes))
        wide = [(*shape[:1], *(1,) * (rank - len(shape)), *shape[1:]) for shape in shapes]
        out = [_common(sizes) for sizes in zip(*wide, strict=True)]
        if "differ" in out:
            raise ValueError(f"x must hold inputs of shapes that fit together for {describe(self)}, got {shapes}")
        return tuple(cast(list[int | None], out))

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        self.compute_output_shape([entry.shape for entry in x])
        merged = self._stored if aligning.share_plan(x) else self._grids
        y, backs, fill_back = merged(x, call.keep)

        def pullback(dy: Any) -> Gradients:
            d = backs(cotangents(dy, y, self.dtype)[0])
            if isinstance(dy, Shown) and fill_back is not None:
                parts = fill_back(dy.fill[None])
                d = [aligning.with_fill(own, part[0]) for own, part in zip(d, parts, strict=True)]
            return Gradients(d, [])

        return y, pullback

    def _stored(self, xs: list[PackedSequence], keep: bool) -> tuple[PackedSequence, Back, Back | None]:
        arrays, index, ways = aligning.stored(xs, keep)
        values, back = run("merge", keep, arrays, self.mode)
        plan = xs[0].packing
        fill, fill_back = self._fill(xs, keep) if plan.masked else (None, None)
        repeat = all(x.repeat for x in xs) and self.mode in ("add", "subtract", "average")
        y = PackedSequence(values, plan, index, fill, repeat)
        return y, lambda d: [way(part) for way, part in zip(ways, back(d), strict=True)], fill_back

    def _grids(self, xs: list[Any], keep: bool) -> tuple[Any, Back, Back | None]:
        arrays, masks, ways = aligning.grids(xs, keep)
        rank = max(array.ndim for array in arrays)
        wide = [a.reshape(a.shape[:1] + (1,) * (rank - a.ndim) + a.shape[1:]) for a in arrays]
        masks = [m if a.ndim == rank else None for m, a in zip(masks, arrays, strict=True)]
        grid, back = run("merge", keep, wide, self.mode, masks)

        def backs(d: Array) -> list[Any]:
            shaped = zip(ways, back(d), arrays, strict=True)
            return [way(part.reshape(array.shape)) for way, part, array in shaped]

        if not any(isinstance(x, PackedSequence) for x in xs):
            return grid, backs, None
        mask, fill_back = None, None
        if all(m is not None for m in masks):
            mask = np.broadcast_to(np.logical_or.reduce(cast(Any, masks)), grid.shape[:2])
        y, pack_back = aligning.pack_grid(grid, mask, xs, keep)
        if mask is not None:
            fill, fill_back = self._fill(xs, keep)
            y = PackedSequence(y.values, y.packing, None, fill)
        return y, lambda d: backs(pack_back(d)), fill_back

    def _fill(self, xs: list[PackedSequence], keep: bool) -> tuple[Array, Back]:
        """Return what the output shows where every input is masked."""
        nowhere = [np.zeros(1, bool) for _ in xs]
        row, back = run("merge", keep, aligning.fills(xs), self.mode, nowhere)
        return row[0], back


class Add(Elementwise):
    """The sum of the inputs. For shapes and masks see `Elementwise`."""

    mode = "add"


class Subtract(Elementwise):
    """The first of two inputs less the second. For shapes and masks see `Elementwise`."""

    mode = "subtract"

    def _checked_shapes(self, shapes: Any) -> list[Shape]:
        found = super()._checked_shapes(shapes)
        if len(found) != 2:
            raise ValueError(f"x must be a list of two inputs for {describe(self)}, got {len(found)}")
        return found


class Multiply(Elementwise):
    """The product of the inputs, where masked steps count as 1. See `Elementwise`."""

    mode = "multiply"


class Average(Elementwise):
    """The mean of the inputs. For shapes and masks see `Elementwise`."""

    mode = "average"


class Maximum(Elementwise):
    """The largest of the inputs that are not masked. See `Elementwise`."""

    mode = "maximum"


class Minimum(Elementwise):
    """The smallest of the inputs that are not masked. See `Elementwise`."""

    mode = "minimum"


def add(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """Return ``Add(**kwargs)(inputs)``."""
    return Add(**kwargs)(inputs)


def subtract(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """Return ``Subtract(**kwargs)(inputs)``."""
    return Subtract(**kwargs)(inputs)


def multiply(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """Return ``Multiply(**kwargs)(inputs)``."""
    return Multiply(**kwargs)(inputs)


def average(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """Return ``Average(**kwargs)(inputs)``."""
    return Average(**kwargs)(inputs)


def maximum(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """Return ``Maximum(**kwargs)(inputs)``."""
    return Maximum(**kwargs)(inputs)


def minimum(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """Return ``Minimum(**kwargs)(inputs)``."""
    return Minimum(**kwargs)(inputs)


def _common(sizes: Sequence[int | None]) -> int | str | None:
    """Return the length that axes of these lengths have when repeated: None if it is not known."""
    known = {n for n in sizes if n is not None and n != 1}
    if len(known) > 1:
        return "differ"
    if None in sizes:
        return None
    return 0 if 0 in known else max([1, *known])
