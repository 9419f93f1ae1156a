"""TimeDistributed: a layer for every step, and masks that go on within the steps."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, cast

import numpy as np

from fastmask.batch.packing import PackedSequence
from fastmask.core.errors import IdError
from fastmask.layers.base import checks
from fastmask.layers.base.arguments import with_dtype_of
from fastmask.layers.base.checks import Array, Shape
from fastmask.layers.base.exchange import TorchForm
from fastmask.layers.base.flow import Back, Shown, cotangents, enter, folded, run, unfolded, unpack_shown, unread_ids
from fastmask.layers.base.layer import Call, Gradients, Layer, Pullback, describe
from fastmask.layers.base.serialization import deserialize, serialize
from fastmask.layers.core import RowLayer
from fastmask.layers.logic import AnyFeature


class TimeDistributed(RowLayer):
    """Apply a layer to every step.

    Parameters
    ----------
    layer : Layer
        Sees the steps as a batch: of a packed input, only the valid ones.
    **kwargs
        See `Layer`.

    Notes
    -----
    Input (B, T, ...) or packed, output with the same two first axes and the same mask.

    Of a mask with more axes, (B, S, T), the layer gets what belongs to its rows, (T,) each. Where it uses that up, as
    a recurrent layer that returns its last output does, the output's mask is (B, S): a step counts if anything within
    it does. A mask that the layer makes of its rows, (T,) each, becomes one of (B, S, T).
    """

    masks_within = False

    def __init__(self, layer: Layer, **kwargs: Any) -> None:
        if not isinstance(layer, Layer):
            raise TypeError(f"layer: expected a Layer, got {layer!r}")
        for name in ("stateful", "return_state"):
            if getattr(layer, name, False):
                raise ValueError(f"layer: expected {name}=False in TimeDistributed, got True for {describe(layer)}")
        self.layer, self.takes_ids, self.makes_mask = layer, layer.takes_ids, layer.makes_mask
        super().__init__(**with_dtype_of(layer, kwargs))

    @property
    def sublayers(self) -> dict[str, Layer]:
        return {"layer": self.layer}

    def create_weights(self, input_shape: Shape) -> None:
        if not self.layer.built:
            self.layer.parent_path = self.path
            self.layer.build((None, *input_shape[2:]))
        self.masks_within = bool(self.layer.mask_flow([0], 1)[0])
        if self.masks_within and len(input_shape) < 3:
            raise ValueError(f"input_shape: expected at least 3 axes for {describe(self)}, got {input_shape}")

    def torch_forms(self, number: int) -> list[TorchForm]:
        return self.layer.torch_forms(number)

    @property
    def may_mask(self) -> bool:
        return self.masks_within

    @property
    def pack_key(self) -> Hashable:
        return ("within", self.layer.pack_key) if self.masks_within else None

    def mask_flow(self, masked: Sequence[int], outputs: int) -> list[int]:
        axes = masked[0]
        within = max(axes - 1, 2) if axes > 2 or (axes and self.masks_within) else 0
        if within:
            self.layer.require_masking(axes=within)
        inner = self.layer.mask_flow([within], 1)[0]
        return [inner + 1 if inner else min(axes, 2)]

    def compute_mask(self, x: Any, mask: Any = None) -> Any:
        """Return the mask of the output: that which the layer makes, or `mask` as far as the output has its axes."""
        if self.makes_mask:
            return self.layer.compute_mask(x, mask)
        if mask is None:
            return None
        for _ in range(self.mask_flow([mask.ndim], 1)[0], mask.ndim):
            mask = AnyFeature()(mask)
        return mask

    def pack_input(self, x: Any, mask: Any = None) -> PackedSequence:
        """Pack a padded `x` for the layer: by the mask that it makes, else by `mask`, which is for all of a step."""
        if not self.masks_within:
            return super().pack_input(x, mask)
        x = self.check_input(x)
        mask = checks.mask_for(mask, x.shape, self.takes_ids)
        if mask is not None and not self.makes_mask:
            return PackedSequence.from_padded(x, _within(mask, x.shape))
        flat = folded(x)
        packed = self.layer.pack_input(flat) if self.makes_mask else PackedSequence.from_padded(flat)
        return replace(packed, packing=packed.packing.over((*x.shape[:2], *packed.packing.leading[1:])))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        inner = self.layer.compute_output_shape((None, *input_shape[2:]))
        return (*input_shape[:2], *inner[1:])

    def check_input(self, x: Any) -> Any:
        x = x if isinstance(x, PackedSequence) else checks.as_array("x", x)
        if len(x.shape) < 2:
            raise ValueError(f"x: expected at least the axes (B, T), got shape {x.shape}")
        return x if self.takes_ids else checks.float_input(x, self.dtype)

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        try:
            return self._forward(x, call)
        except IdError as error:
            # Rows of the layer are steps, which count on from row to row unless they stand in a packed list.
            counted = error.place and (not isinstance(x, PackedSequence) or len(x.packing.leading) > 1)
            place = (*divmod(error.place[0], x.shape[1]), *error.place[1:]) if counted else ()
            raise IdError(error.message, place) from None

    def _forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        if not isinstance(x, PackedSequence):
            if call.mask is None:
                return self._grid(x, call)
            if call.mask.ndim > 2:
                return self._nested_grid(x, call)
            return self._grid(unread_ids(x, call.mask), call) if self.takes_ids else self._masked_grid(x, call)
        if len(x.packing.leading) > 1:
            return self._nested(x, call)
        if self.masks_within:
            return self._spread(x, call)
        if x.index is None or not (call.training and self.stochastic):
            return super().forward(x, call)
        data, collapse = run("expand", call.keep, x)
        y, pullback = super().forward(PackedSequence(data, x.packing, None, x.fill, x.repeat), call)

        def through(dy: Any) -> Gradients:
            gradients = cast(Pullback, pullback)(dy)
            return gradients._replace(inputs=collapse(gradients.inputs))

        return y, through

    def _grid(self, x: Array, call: Call) -> tuple[Array, Pullback | None]:
        steps = x.shape[:2]
        flat, pullback = self.map_rows(x.reshape(steps[0] * steps[1], *x.shape[2:]), call)
        y = flat.reshape(*steps, *flat.shape[1:])

        def through(dy: Any) -> Gradients:
            d = cast(Array, cotangents(dy, y, self.dtype)[0])
            gradients = cast(Pullback, pullback)(d.reshape(flat.shape))
            inputs = gradients.inputs
            return gradients._replace(inputs=None if inputs is None else inputs.reshape(x.shape))

        return y, through

    def _nested(self, x: PackedSequence, call: Call) -> tuple[PackedSequence, Pullback | None]:
        """Run the layer on the packed steps of a batch whose plan goes on within them."""
        y, pullback = self.layer.apply(folded(x), training=call.training, keep=call.keep)
        return unfolded(y, x.packing), pullback

    def _nested_grid(self, x: Array, call: Call) -> tuple[Array, Pullback | None]:
        source, enter_back = enter(x, call.mask, call.keep)
        packed, pullback = self._nested(source, call)
        y, leave_back = unpack_shown(packed, call.keep)

        def through(dy: Any) -> Gradients:
            gradients = cast(Pullback, pullback)(leave_back(cotangents(dy, y, self.dtype)[0]))
            return self._through(gradients, enter_back)

        return y, through

    def _spread(self, x: PackedSequence, call: Call) -> tuple[PackedSequence, Pullback | None]:
        """Give a layer that makes masks of its own the steps that count, packed as far as it may mask them."""
        grid, unpack_back = run("unpack", call.keep, x)
        source, pack_back = run("pack", call.keep, grid, _within(x.packing.mask, grid.shape))
        y, pullback = self._nested(source, call)

        def through(dy: Any) -> Gradients:
            return self._through(cast(Pullback, pullback)(dy), lambda d: unpack_back(pack_back(d)))

        return y, through

    def _through(self, gradients: Gradients, back: Back) -> Gradients:
        """Take the gradient by packed inputs back to those that came in."""
        d = gradients.inputs
        inputs = None if self.takes_ids else back(d.values if isinstance(d, Shown) else d)
        return gradients._replace(inputs=inputs)

    def map_rows(self, values: Array, call: Call) -> tuple[Array, Pullback | None]:
        return self.layer.apply(values, training=call.training, keep=call.keep)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"layer": serialize(self.layer)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Self:
        return cls(**{**config, "layer": deserialize(config["layer"], custom_objects)})


def _within(mask: Array, shape: tuple[int, ...]) -> Array:
    """Return a mask of the steps of an array as one of what is within them; one with more axes as it is."""
    return np.broadcast_to(mask[..., None], shape[:3]) if mask.ndim == 2 else mask
