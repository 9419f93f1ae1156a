"""Layers that users define by `build`, `call` and `vjp` on padded arrays."""

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from math import prod
from typing import Any

import numpy as np

from fastmask.batch.packing import PackedSequence, Packing
from fastmask.core import budget
from fastmask.layers.base import checks
from fastmask.layers.base.calls import Call, Gradients, Pullback
from fastmask.layers.base.checks import Array
from fastmask.layers.base.flow import Back, cotangents, enter, pack_by, run, same, unpack_shown
from fastmask.layers.base.holder import AnyLayer, describe


def adopt(cls: type[AnyLayer], base: type[AnyLayer]) -> None:
    """Prepare a new subclass: its `call` is what runs, and its `build` is noted as done."""
    own = vars(cls)
    cls.may_hold = cls.may_hold or "call" in own or "sublayers" in own
    if "call" in own and "forward" not in own:
        cls.forward = base.forward
    if "build" in own:
        cls.build = _noted(own["build"])


def _noted(build: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    @wraps(build)
    def noted(self: Any, input_shape: Any) -> None:
        shape = checks.plain_shape(input_shape)
        if not self.built:
            build(self, shape)
            self.built = True
        self.input_shape = shape
        self.output_shape = self.compute_output_shape(shape)

    return noted


def forward(layer: AnyLayer, x: Any, call: Call) -> tuple[Any, Pullback | None]:
    """Run `call` of a layer on padded arrays, or its `vjp` if the pullback is kept."""
    sources = x if layer.takes_list else [x]
    entered = [_grid(source, call) for source in sources]
    grids, masks = [grid for grid, _, _ in entered], [mask for _, mask, _ in entered]
    value, mask = (grids, masks) if layer.takes_list else (grids[0], masks[0])
    given = {"mask": mask, "training": call.training, "initial_state": call.initial_state, **call.options}
    found, back = _run(layer, value, given, call.keep)
    outputs = [np.asarray(y, layer.dtype) for y in (found if isinstance(found, (tuple, list)) else [found])]
    padded = not any(isinstance(source, PackedSequence) for source in sources)
    plans = [None] * len(outputs) if padded else _plans(layer, value, mask, len(outputs), sources)
    left = [(y, same) if plan is None else pack_by(y, plan) for y, plan in zip(outputs, plans, strict=True)]
    several = isinstance(found, (tuple, list))
    output = tuple(y for y, _ in left) if several else left[0][0]

    def pullback(dy: Any) -> Gradients:
        d = [None if g is None else b(g) for g, (_, b) in zip(cotangents(dy, output, layer.dtype), left, strict=True)]
        gradients = _gradients(layer, back(tuple(d) if several else d[0]))
        inputs = gradients.inputs if layer.takes_list else [gradients.inputs]
        pulled = [None if g is None else b(np.asarray(g)) for g, (_, _, b) in zip(inputs, entered, strict=True)]
        return gradients._replace(inputs=pulled if layer.takes_list else pulled[0])

    return output, pullback


def computes_mask(layer: AnyLayer) -> bool:
    """Return whether a user's layer has a `compute_mask` of its own."""
    base = next(cls for cls in type(layer).__mro__ if cls.__module__ == _BASE)
    return type(layer).forward is base.forward and type(layer).compute_mask is not base.compute_mask  # type: ignore[attr-defined]


def mask_flow(layer: AnyLayer, masked: Sequence[int], outputs: int) -> list[int]:
    """Ask a layer's own `compute_mask`, on arrays of zeros, for the number of axes of the mask of each output."""
    shapes: Any = layer.input_shape if layer.takes_list else [layer.input_shape]
    whole = [tuple(2 if n is None else n for n in shape) for shape in shapes]
    for shape in whole:
        budget.take(prod(shape) * layer.dtype.itemsize, f"an input of {describe(layer)}")
    grids = [np.zeros(shape, layer.dtype) for shape in whole]
    masks = [np.ones(grid.shape[:axes], bool) if axes else None for grid, axes in zip(grids, masked, strict=True)]
    found = layer.compute_mask(*((grids, masks) if layer.takes_list else (grids[0], masks[0])))
    return [0 if mask is None else np.ndim(mask) for mask in _per_output(found, outputs)]


def _grid(x: Any, call: Call) -> tuple[Array, Any, Back]:
    """Return a padded array, zero where a mask of its caller hides it, its mask and the pullback."""
    if not isinstance(x, PackedSequence) and call.mask is None:
        return x, None, same
    if isinstance(x, PackedSequence):
        grid, back = unpack_shown(x, call.keep)
        return grid, x.packing.mask if x.packing.masked else None, lambda d: back(d.astype(x.dtype, copy=False))
    source, enter_back = enter(x, call.mask, call.keep)
    grid, unpack_back = run("unpack", call.keep, source)
    return grid, call.mask, lambda d: enter_back(unpack_back(d.astype(source.dtype, copy=False)))


def _run(layer: AnyLayer, value: Any, given: dict[str, Any], keep: bool) -> tuple[Any, Back]:
    if keep and not _has_gradient(type(layer)):
        raise NotImplementedError(
            f"{describe(layer)} has no gradient, so it cannot be trained or trained through: define "
            "vjp(self, x) beside call(self, x), returning the output and its pullback"
        )
    function = layer.vjp if keep else layer.call
    names = signature(function).parameters
    result = function(value, **{name: entry for name, entry in given.items() if name in names})
    return result if keep else (result, same)


def _has_gradient(cls: type) -> bool:
    """Return whether the `vjp` of a class belongs to its `call`: not that of a base with another one."""
    depths = {name: depth_of(cls, name) for name in ("vjp", "call")}
    return depths["vjp"] <= depths["call"] < len(cls.__mro__) and cls.__mro__[depths["vjp"]].__module__ != _BASE


def depth_of(cls: type, name: str) -> int:
    """Return how many classes are asked before the one that defines a method."""
    return next(i for i, base in enumerate(cls.__mro__) if name in vars(base))


_BASE = "fastmask.layers.base.layer"


def _plans(layer: AnyLayer, value: Any, mask: Any, outputs: int, sources: Sequence[Any]) -> list[Packing | None]:
    """Return the plan of each output that carries a mask; that of an input where the masks are the same."""
    known = list(zip(mask if layer.takes_list else [mask], sources, strict=True))
    plans: list[Packing | None] = []
    for found in _per_output(layer.compute_mask(value, mask), outputs):
        same_mask = (source.packing for own, source in known if own is found)
        plans.append(None if found is None else next(same_mask, None) or Packing.from_mask(found))
    return plans


def _per_output(masks: Any, outputs: int) -> list[Any]:
    if isinstance(masks, (list, tuple)):
        return [*masks, *[None] * outputs][:outputs]
    return [masks, *[None] * (outputs - 1)]


def _gradients(layer: AnyLayer, found: Any) -> Gradients:
    """Return what a user's pullback returned as `Gradients`: dx alone, or dx and a list for the weights."""
    gradients = Gradients(*found) if isinstance(found, tuple) else Gradients(found, [])
    if len(gradients.weights) != len(layer.weights):
        raise ValueError(
            f"pullback of {describe(layer)}: expected one gradient for each of its "
            f"{len(layer.weights)} weights, got {len(gradients.weights)}"
        )
    return gradients
