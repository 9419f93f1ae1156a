"""Masking: skip the steps whose features all have one value."""

from collections.abc import Hashable
from typing import Any

import numpy as np
import numpy.typing as npt

from fastmask.batch.packing import PackedSequence
from fastmask.layers.base import checks
from fastmask.layers.base.checks import Array, Shape
from fastmask.layers.base.flow import Back, pulled, run, same
from fastmask.layers.base.layer import Call, Layer, Pullback, describe
from fastmask.layers.base.symbolic import KerasTensor
from fastmask.layers.logic import AnyFeature, NotEqual, differs


class Masking(Layer):
    """Mask every step whose features all equal `mask_value`.

    Parameters
    ----------
    mask_value : float, default 0.0
        NaN masks the steps whose features are all NaN; in Keras it masks none.
    **kwargs
        See `Layer`.

    Notes
    -----
    Input (B, T, F), output the same with zeros at masked steps; the mask of an input with more axes
    has all but the last of them. The mask is made anew: one that came in is ignored. A step of
    genuine values that all equal `mask_value` is masked too.
    """

    supports_masking = True
    makes_mask = True

    def __init__(self, mask_value: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mask_value = float(mask_value)

    @property
    def pack_key(self) -> Hashable:
        return ("masking", self.mask_value)

    def check_rank(self, name: str, shape: Shape) -> None:
        if len(shape) < 3:
            raise ValueError(f"{name}: expected at least 3 axes for {describe(self)}, got shape {shape}")

    def compute_mask(self, x: Any, mask: Any = None) -> Any:
        """Return the mask (B, T) of a padded or symbolic `x`: True where a feature is not `mask_value`."""
        if isinstance(x, KerasTensor):
            return AnyFeature()(NotEqual(self.mask_value)(x))
        return self._differs(self.check_input(x))

    def pack_input(self, x: Any, mask: Any = None) -> PackedSequence:
        """Pack the steps of a padded `x` (B, T, F) that are not masked; what `mask` says is ignored."""
        x = self.check_input(x)
        checks.mask_for(mask, x.shape)
        packed = PackedSequence.from_padded(x, self._differs(x))
        return packed.with_values(packed.values, fill=np.full(x.shape[-1:], self.mask_value, x.dtype))

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        y, back = (self._packed if isinstance(x, PackedSequence) else self._grid)(x, call.keep)
        return y, pulled(y, back, self.dtype)

    def _grid(self, x: Array, _: bool) -> tuple[Array, Back]:
        kept = self._differs(x)[..., None]
        return np.where(kept, x, x.dtype.type(0)), lambda d: np.where(kept, d, d.dtype.type(0))

    def _packed(self, x: PackedSequence, keep: bool) -> tuple[PackedSequence, Back]:
        """Return `x` with zeros at masked places; packed anew if the mask changes."""
        # Without a fill nothing stands at masked places, which then lie behind the ends of the sequences of a list.
        filled = x.repeat or x.shown is not None or (x.fill is not None and self._differs(np.asarray(x.fill)).any())
        stays_masked = x.values.ndim == 2 and not (x.packing.masked and filled)
        if stays_masked and self._differs(x.values).all():
            return x.with_values(x.values), same
        if x.fill is None and not x.repeat and x.shown is None:
            x = x.with_values(x.values, fill=np.full(x.values.shape[1:], self.mask_value, x.dtype))
        grid, unpack_back = run("unpack", keep, x)
        y, pack_back = run("pack", keep, grid, self._differs(grid))
        return y, lambda d: unpack_back(pack_back(d))

    def _differs(self, x: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = differs(x, self.mask_value).any(axis=-1)
        return found
