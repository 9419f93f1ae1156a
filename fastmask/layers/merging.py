"""Merging layers, entry by entry: Add, Subtract, Multiply, Average, Maximum and Minimum."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, ClassVar, cast

import numpy as np

from fastmask.batch.packing import PackedSequence
from fastmask.layers import aligning
from fastmask.layers.aligning import Mask
from fastmask.layers.base import checks
from fastmask.layers.base.checks import Array, Shape
from fastmask.layers.base.flow import Back, Shown, cotangents, enter_read, folded, run, same, unfolded
from fastmask.layers.base.layer import Call, Gradients, Layer, Pullback, describe


class Merge(Layer):
    """Base of the layers that make one output of a list of inputs."""

    supports_masking = True
    takes_list = True

    def joined_mask(self, shapes: Sequence[Any], masks: Sequence[Any]) -> Mask | None:
        """Return the mask of the output for inputs of known shapes, or None."""
        return None

    def reads(self, shapes: Sequence[Any], masks: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
        """Return the steps of each input at which the output counts."""
        self.compute_output_shape(tuple(shapes))
        self.flow_within([0 if mask is None else mask.ndim for mask in masks])
        found, rank = self.joined_mask(shapes, masks), max(map(len, shapes))
        return [_seen(found, shape, rank) for shape in shapes]

    def create_weights(self, input_shape: Any) -> None:
        self._checked_shapes(input_shape)
        self.compute_output_shape(input_shape)

    def _checked_shapes(self, shapes: Any) -> list[Shape]:
        if not isinstance(shapes, (list, tuple)) or not shapes or not all(isinstance(s, (list, tuple)) for s in shapes):
            raise ValueError(f"x: expected a list of at least one input for {describe(self)}, got shape {shapes}")
        sizes = {shape[0] for shape in shapes if shape} - {None}
        if len(sizes) > 1:
            raise ValueError(f"x: expected inputs of one batch size for {describe(self)}, got shapes {shapes}")
        return [tuple(shape) for shape in shapes]

    def packed(self, xs: list[Any], keep: bool) -> tuple[list[Any], list[Back]]:
        """Pack padded arrays that go with packed inputs, if they have as many axes."""
        ranks = {len(x.shape) for x in xs if isinstance(x, PackedSequence)}
        pairs = [
            run("pack", keep, x) if not isinstance(x, PackedSequence) and x.ndim in ranks else (x, same) for x in xs
        ]
        return [x for x, _ in pairs], [way for _, way in pairs]

    def flow_within(self, masked: Sequence[int]) -> None:
        """Raise TypeError if there are masks of more than two axes that do not go together."""
        ranks = {len(cast(Any, shape)) for shape in self.input_shape or ()}
        if max(masked) > 2 and (len({*masked} - {0}) > 1 or len(ranks) > 1):
            raise TypeError(
                f"mask: expected as many axes in all masks of {describe(self)}, and in its inputs, where one has more "
                f"than two, got {list(masked)} axes (0 for none) for inputs of shapes {self.input_shape}"
            )

    def by_steps(self, x: list[Any], call: Call) -> tuple[PackedSequence, Pullback]:
        """Merge inputs whose plans go on within the steps of the batch: step by step, as if these were the rows."""
        plans = [entry.packing if isinstance(entry, PackedSequence) else None for entry in x]
        self.flow_within([len(plan.leading) + 1 if plan is not None and plan.masked else 0 for plan in plans])
        plan = next(plan for plan in plans if plan is not None and len(plan.leading) > 1)
        # What is packed by the steps alone has no mask here.
        flat = [own is not None and len(own.leading) == 1 for own in plans]
        pairs = [run("unpack", call.keep, e) if unpack else (e, same) for e, unpack in zip(x, flat, strict=True)]
        y, pullback = self.forward([folded(e) for e, _ in pairs], call)

        def through(dy: Any) -> Gradients:
            gradients = cast(Pullback, pullback)(dy)
            found = zip(pairs, gradients.inputs, strict=True)
            inputs = [d if isinstance(e, PackedSequence) else way(d.reshape(e.shape)) for (e, way), d in found]
            return gradients._replace(inputs=inputs)

        return unfolded(y, plan), through

    def _checked_masks(self, x: Any, mask: Any) -> list[Any]:
        for name, value in (("mask", mask), ("x", x)):
            if not isinstance(value, (list, tuple)):
                raise ValueError(f"{name}: expected a list for {describe(self)}, got {type(value).__name__}")
        if len(mask) != len(x):
            raise ValueError(f"mask: expected one mask or None for each of {len(x)} inputs, got {len(mask)}")
        return [checks.mask_for(m, np.shape(m), ids=True) for m in mask]


class MaskMerge(Merge):
    """Base of the merging layers whose output has a mask made of those of the inputs.

    Parameters
    ----------
    mask_mode : {"or", "and", "drop"}, default "or"
        How masks are joined. "or" is the rule of Keras since version 3.4, "and" that of Keras 1 and 2: a step
        counts where it counts in every input that has a mask. From 3.0 to 3.3 the output had no mask, "drop".
        Under the old rules values do not depend on masks. Layers in a file follow the Keras that wrote it.
    **kwargs
        See `Layer`.

    Attributes
    ----------
    loss_told : bool
        Whether a warning has said that the layer loses masks.
    """

    loss_told = False

    def __init__(self, *, mask_mode: str = "or", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mask_mode = checks.choice("mask_mode", mask_mode, ("or", "and", "drop"))

    def mask_flow(self, masked: Sequence[int], outputs: int) -> list[int]:
        self.flow_within(masked)
        return [0 if self.mask_mode == "drop" else max(masked)]

    def joined(self, masks: Sequence[Mask]) -> Mask:
        """Return where one of some masks is true, or all of them are, as `mask_mode` has it."""
        return reduce(np.logical_and if self.mask_mode == "and" else np.logical_or, masks)

    def loses_mask(self, masked: Sequence[int]) -> bool:
        """Return whether all steps count, although inputs have masks, because others have none."""
        return self.mask_mode == "or" and any(masked) and not all(masked)

    def compute_mask(self, x: Any, mask: Any = None) -> Any:
        """Return the masks joined, or None."""
        masks = [None] * len(x) if mask is None else self._checked_masks(x, mask)
        return self.joined_mask([np.shape(entry) for entry in x], masks)

    @property
    def fills_alone(self) -> bool:
        """Whether masked places show the merged fills even where those of the inputs repeat tokens."""
        return False

    def fits(self, xs: list[PackedSequence]) -> bool:
        """Return whether one plan holds for all, and masked places show what `fill` or `repeat` can say."""
        raise NotImplementedError

    def merge_rows(self, rows: list[Array], masks: list[Any] | None, keep: bool) -> tuple[Array, Back]:
        """Merge arrays whose first axis counts rows or tokens; the masks say which of them count."""
        raise NotImplementedError

    def side_by_side(self, xs: list[PackedSequence], ways: list[Back], keep: bool) -> tuple[PackedSequence, Pullback]:
        """Merge packed batches of one grid; the ways lead back from them to what the layer was given."""
        fill_back: Back | None = None
        if self.fits(xs):
            y, back, fill_back = self._stored(xs, keep)
        else:
            y, back = self._cells(xs, keep)

        def pullback(dy: Any) -> Gradients:
            d = back(cotangents(dy, y, self.dtype)[0])
            if isinstance(dy, Shown) and fill_back is not None:
                parts = fill_back(dy.fill[None])
                d = [aligning.with_fill(own, part[0]) for own, part in zip(d, parts, strict=True)]
            return Gradients([way(part) for way, part in zip(ways, d, strict=True)], [])

        return y, pullback

    def _stored(self, xs: list[PackedSequence], keep: bool) -> tuple[PackedSequence, Back, Back | None]:
        """Merge stored values, and what masked places show."""
        arrays, index, ways = aligning.stored(xs, keep)
        values, back = self.merge_rows(arrays, None, keep)
        fill, fill_back = None, None
        if xs[0].packing.masked:
            rows, fill_back = self.merge_rows(aligning.fills(xs), [np.zeros(1, bool) for _ in xs], keep)
            fill = rows[0]
        repeat = all(x.repeat for x in xs) and not self.fills_alone
        y = PackedSequence(values, xs[0].packing, index, fill, repeat, xs[0].shown)
        return y, lambda d: [way(part) for way, part in zip(ways, back(d), strict=True)], fill_back

    def _cells(self, xs: list[PackedSequence], keep: bool) -> tuple[PackedSequence, Back]:
        """Merge what the inputs show at the tokens of the output, and where it is masked."""
        masks = [aligning.mask_of(x) for x in xs]
        plan = aligning.plan_of(self.joined_mask([x.shape for x in xs], masks), xs)
        cells, shown = aligning.visible_cells(plan, xs) if plan.masked else (plan.positions, None)
        pairs = [aligning.gather(x, cells, keep) for x in xs]
        valid = [None if m is None else m.reshape(-1)[cells] for m in masks]
        values, back = self.merge_rows([rows for rows, _ in pairs], valid, keep)
        index = None if shown is None or not len(shown) else np.arange(plan.tokens)
        y = PackedSequence(values, plan, index, None, False, None if index is None else shown)
        return y, lambda d: [way(part) for (_, way), part in zip(pairs, back(d), strict=True)]

    def get_config(self) -> dict[str, Any]:
        # Keras's constructors have no such argument.
        config = {name: value for name, value in super().get_config().items() if name != "mask_mode"}
        return config if self.mask_mode == "or" else config | {"mask_mode": self.mask_mode}


class Elementwise(MaskMerge):
    """Base of the layers that merge entry by entry.

    Inputs with fewer axes than others get axes of length 1 behind the batch axis, and axes of
    length 1 are repeated. The output has a mask if every input has: a step counts where it counts
    in any of them. For ``mask_mode="and"`` see `MaskMerge`.
    """

    mode: ClassVar[str]

    def mask_flow(self, masked: Sequence[int], outputs: int) -> list[int]:
        joined = super().mask_flow(masked, outputs)
        return [0] if self.mask_mode == "or" and not all(masked) else joined

    def joined_mask(self, shapes: Sequence[Any], masks: Sequence[Any]) -> Mask | None:
        rank = max(map(len, shapes))
        own = [mask for mask, shape in zip(masks, shapes, strict=True) if mask is not None and len(shape) == rank]
        if not own or self.mask_mode == "drop" or (self.mask_mode == "or" and len(own) < len(masks)):
            return None
        axes = own[0].ndim
        steps = np.broadcast_shapes(*[shape[:axes] for shape in shapes if len(shape) == rank])
        return np.broadcast_to(self.joined(own), steps)

    def compute_output_shape(self, input_shape: Any) -> Shape:
        shapes = self._checked_shapes(input_shape)
        rank = max(map(len, shapes))
        wide = [(*shape[:1], *(1,) * (rank - len(shape)), *shape[1:]) for shape in shapes]
        out = [_common(sizes) for sizes in zip(*wide, strict=True)]
        if "differ" in out:
            raise ValueError(f"x: expected inputs of shapes that fit together for {describe(self)}, got {shapes}")
        return tuple(cast(list[int | None], out))

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        if aligning.nested(x):
            return self.by_steps(x, call)
        self.compute_output_shape([entry.shape for entry in x])
        packed, ways = self.packed(x, call.keep)
        if not aligning.same_grid(packed):
            return self._grids(x, call.keep)
        return self.side_by_side(packed, ways, call.keep)

    @property
    def fills_alone(self) -> bool:
        return self.mode == "multiply" and self.mask_mode == "or"

    def fits(self, xs: list[PackedSequence]) -> bool:
        if not aligning.share_plan(xs) or (self.mask_mode == "drop" and xs[0].packing.masked):
            return False
        first, alike = xs[0], self.mask_mode != "or" or self.mode in ("add", "subtract", "average")
        if any(x.shown is not None for x in xs):
            return alike and all(x.shown is first.shown and x.index is first.index for x in xs)
        if not first.packing.masked or self.fills_alone:
            return True
        return len({x.repeat for x in xs}) == 1 and (alike or not first.repeat)

    def _grids(self, xs: list[Any], keep: bool) -> tuple[Any, Pullback]:
        """Merge arrays of which some are repeated along the batch's steps."""
        arrays, masks, ways = aligning.grids(xs, keep)
        rank = max(array.ndim for array in arrays)
        wide = [a.reshape(a.shape[:1] + (1,) * (rank - a.ndim) + a.shape[1:]) for a in arrays]
        masks = [m if a.ndim == rank else None for m, a in zip(masks, arrays, strict=True)]
        y, back = self.merge_rows(wide, masks, keep)
        leave_back: Back = same
        if any(isinstance(x, PackedSequence) for x in xs):
            mask = self.joined_mask([array.shape for array in arrays], masks)
            y, leave_back = run("pack", keep, y) if mask is None else enter_read(y, mask, np.ones_like(mask), keep)

        def pullback(dy: Any) -> Gradients:
            parts = back(leave_back(cotangents(dy, y, self.dtype)[0]))
            shaped = zip(ways, parts, arrays, strict=True)
            return Gradients([way(part.reshape(array.shape)) for way, part, array in shaped], [])

        return y, pullback

    def merge_rows(self, rows: list[Array], masks: list[Any] | None, keep: bool) -> tuple[Array, Back]:
        return run("merge", keep, rows, self.mode, masks if self.mask_mode == "or" else None)


class Add(Elementwise):
    """The sum of the inputs. For shapes and masks see `Elementwise`."""

    mode = "add"


class Subtract(Elementwise):
    """The first of two inputs less the second. For shapes and masks see `Elementwise`."""

    mode = "subtract"

    def _checked_shapes(self, shapes: Any) -> list[Shape]:
        found = super()._checked_shapes(shapes)
        if len(found) != 2:
            raise ValueError(f"x: expected a list of two inputs for {describe(self)}, got {len(found)}")
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


def _seen(mask: Mask | None, shape: Any, rank: int) -> Mask:
    """Return the steps of an input at which the output, of so many axes, counts; a mask of None is everywhere.

    An input of fewer axes is seen at all steps of a row, and an axis of length 1 wherever the output has more.
    """
    if mask is None or len(shape) < 2:
        return np.ones(shape[:2], bool) if mask is None else mask
    steps = shape[: mask.ndim]
    if len(shape) < rank:
        rows: Mask = np.any(mask, axis=tuple(range(1, mask.ndim)), keepdims=True).reshape(-1, 1)
        return np.broadcast_to(rows, shape[:2])
    lost = tuple(axis for axis, size in enumerate(steps) if size != mask.shape[axis])
    return np.broadcast_to(mask.any(axis=lost, keepdims=True), steps) if lost else mask


def _common(sizes: Sequence[int | None]) -> int | str | None:
    """Return the length that axes of these lengths have when repeated: None if it is not known."""
    known = {n for n in sizes if n is not None and n != 1}
    if len(known) > 1:
        return "differ"
    if None in sizes:
        return None
    return 0 if 0 in known else max([1, *known])
