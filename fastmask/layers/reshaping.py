"""Layers that change the shape or drop the mask: RepeatVector, Reshape and DropMask."""

from collections.abc import Sequence
from math import prod
from typing import Any, cast

import numpy as np

from fastmask.batch.packing import PackedSequence
from fastmask.layers.base import checks
from fastmask.layers.base.checks import Array, Shape
from fastmask.layers.base.flow import cotangents, run, same, unpack_shown
from fastmask.layers.base.layer import Call, Gradients, Layer, Pullback, describe


class RepeatVector(Layer):
    """Repeat each row's vector `n` times: (B, F) to (B, n, F). Takes no mask.

    Parameters
    ----------
    n : int
    **kwargs
        See `Layer`.
    """

    input_rank = 2

    def __init__(self, n: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(n, int) or isinstance(n, bool):
            raise TypeError(f"n: expected an integer, got {n!r}")
        self.n = checks.positive_int("n", n)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        self.check_rank("input_shape", tuple(input_shape))
        return (input_shape[0], self.n, input_shape[1])

    def forward(self, x: Any, call: Call) -> tuple[Array, Pullback | None]:
        checks.require_memory("the output of RepeatVector", (x.shape[0], self.n, *x.shape[1:]), x.dtype)
        y = np.repeat(x[:, None], self.n, axis=1)

        def pullback(dy: Any) -> Gradients:
            return Gradients(cast(Array, cotangents(dy, y, self.dtype)[0]).sum(axis=1), [])

        return y, pullback


class Reshape(Layer):
    """Give every row another shape. Takes no mask.

    Parameters
    ----------
    target_shape : sequence of int
        Without the batch axis; one entry may be -1, which stands for what is left.
    **kwargs
        See `Layer`.

    Raises
    ------
    ValueError
        If the sizes do not agree, or more than one entry is -1.
    """

    def __init__(self, target_shape: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target_shape = tuple(int(n) for n in target_shape)
        if self.target_shape.count(-1) > 1 or any(n < -1 or n == 0 for n in self.target_shape):
            raise ValueError(f"target_shape: expected positive integers and at most one -1, got {self.target_shape}")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], *self._target(tuple(input_shape[1:])))

    def _target(self, shape: Shape) -> Shape:
        known = prod(n for n in self.target_shape if n != -1)
        if None in shape:
            return tuple(None if n == -1 else n for n in self.target_shape)
        size = prod(cast(tuple[int, ...], shape))
        if size % known if -1 in self.target_shape else size != known:
            raise ValueError(
                f"target_shape: expected one for rows of shape {shape} in {describe(self)}, got {self.target_shape}"
            )
        return tuple(size // known if n == -1 else n for n in self.target_shape)

    def forward(self, x: Any, call: Call) -> tuple[Array, Pullback | None]:
        if len(x.shape) == 0:
            raise ValueError(f"x: expected a batch axis for {describe(self)}, got a single number")
        grid, back = run("unpack", call.keep, x) if isinstance(x, PackedSequence) else (x, same)
        y = grid.reshape(len(grid), *self._target(grid.shape[1:]))

        def pullback(dy: Any) -> Gradients:
            d = cast(Array, cotangents(dy, y, self.dtype)[0])
            return Gradients(back(d.reshape(grid.shape)), [])

        return y, pullback

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"target_shape": list(self.target_shape)}


class DropMask(Layer):
    """Go on without the mask: masked places become ordinary steps that hold what Keras shows there.

    The explicit way to give a masked sequence to a layer that takes no mask. A padded array comes
    out as it went in.

    Parameters
    ----------
    **kwargs
        See `Layer`.
    """

    supports_masking = True

    @property
    def passes_mask(self) -> bool:
        return False

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        if not isinstance(x, PackedSequence) or not x.packing.masked:
            return x, lambda dy: Gradients(cotangents(dy, x, self.dtype)[0], [])
        grid, unpack_back = unpack_shown(x, call.keep)
        y, pack_back = run("pack", call.keep, grid)

        def pullback(dy: Any) -> Gradients:
            return Gradients(unpack_back(pack_back(cotangents(dy, y, self.dtype)[0])), [])

        return y, pullback

    def compute_mask(self, x: Any, mask: Any = None) -> None:
        """Return None."""
        return
