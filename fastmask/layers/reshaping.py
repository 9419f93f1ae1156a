"""Layers that change the shape or drop the mask: RepeatVector, Flatten, Reshape and DropMask."""

from collections.abc import Sequence
from math import prod
from typing import Any, cast

import numpy as np

from fastmask.batch.packing import PackedSequence
from fastmask.layers.base import checks
from fastmask.layers.base.checks import Array, Shape
from fastmask.layers.base.flow import pulled, run, same, unpack_shown
from fastmask.layers.base.layer import Call, Layer, Pullback, describe


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
        return y, pulled(y, lambda d: d.sum(axis=1), self.dtype)


class RowReshape(Layer):
    """Base of the layers that give every row another shape. They take no mask."""

    def row_shape(self, shape: Shape) -> Shape:
        """Return the new shape of rows of `shape`; None stands for an axis of any length in both."""
        raise NotImplementedError(f"{type(self).__name__} must override row_shape")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], *self.row_shape(tuple(input_shape[1:])))

    def check_input(self, x: Any) -> Any:
        x = super().check_input(x)
        if not x.shape:
            raise ValueError(f"x: expected at least the axis (B,) for {describe(self)}, got a scalar")
        return x

    def forward(self, x: Any, call: Call) -> tuple[Array, Pullback | None]:
        grid, back = run("unpack", call.keep, x) if isinstance(x, PackedSequence) else (x, same)
        y = grid.reshape(len(grid), *cast(tuple[int, ...], self.row_shape(grid.shape[1:])))
        return y, pulled(y, lambda d: back(d.reshape(grid.shape)), self.dtype)


class Flatten(RowReshape):
    """Put all axes but the first into one: (B, ...) to (B, size). Takes no mask.

    Parameters
    ----------
    data_format : {"channels_last"}, optional
        Accepted for Keras's sake.
    **kwargs
        See `Layer`.
    """

    def __init__(self, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_format = checks.choice("data_format", data_format, (None, "channels_last"))

    def row_shape(self, shape: Shape) -> Shape:
        return (None if None in shape else prod(cast(tuple[int, ...], shape)),)


class Reshape(RowReshape):
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

    def row_shape(self, shape: Shape) -> Shape:
        known = prod(n for n in self.target_shape if n != -1)
        if None in shape:
            return tuple(None if n == -1 else n for n in self.target_shape)
        size = prod(cast(tuple[int, ...], shape))
        if size % known if -1 in self.target_shape else size != known:
            raise ValueError(
                f"target_shape: expected one for rows of shape {shape} in {describe(self)}, got {self.target_shape}"
            )
        return tuple(size // known if n == -1 else n for n in self.target_shape)

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
    passes_mask = False

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        if not isinstance(x, PackedSequence) or not x.packing.masked:
            return x, pulled(x, same, self.dtype)
        grid, unpack_back = unpack_shown(x, call.keep)
        y, pack_back = run("pack", call.keep, grid)
        return y, pulled(y, lambda d: unpack_back(pack_back(d)), self.dtype)
