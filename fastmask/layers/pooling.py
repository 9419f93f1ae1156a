"""Pooling over time: GlobalAveragePooling1D and GlobalMaxPooling1D."""

from typing import Any, ClassVar

from fastmask.layers.base import checks
from fastmask.layers.base.checks import Array, Shape
from fastmask.layers.base.flow import enter, pulled, run
from fastmask.layers.base.layer import Call, Layer, Pullback


class GlobalPooling(Layer):
    """Base of the layers that make one vector of all valid steps of a row."""

    supports_masking = True
    passes_mask = False
    input_rank = 3
    op: ClassVar[str]

    def __init__(self, data_format: str | None = None, keepdims: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        checks.choice("data_format", data_format, (None, "channels_last"))
        self.data_format = "channels_last"
        self.keepdims = bool(keepdims)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        kept = (1,) if self.keepdims else ()
        return (input_shape[0], *kept, *input_shape[2:])

    def forward(self, x: Any, call: Call) -> tuple[Array, Pullback | None]:
        source, enter_back = enter(x, call.mask, call.keep)
        pooled, back = run(self.op, call.keep, source)
        y = pooled[:, None] if self.keepdims else pooled
        return y, pulled(y, lambda d: enter_back(back(d.reshape(pooled.shape))), self.dtype)


class GlobalAveragePooling1D(GlobalPooling):
    """The mean of every feature over the valid steps of each row.

    Parameters
    ----------
    data_format : {"channels_last"}, optional
        Accepted for Keras's sake.
    keepdims : bool, default False
        Whether to keep the time axis, with length 1.
    **kwargs
        See `Layer`.

    Notes
    -----
    Input (B, T, F) with an optional mask, output (B, F). A row without a valid step gives zeros
    (Keras gives NaN).
    """

    op = "average_pool"


class GlobalMaxPooling1D(GlobalPooling):
    """The largest value of every feature over the valid steps of each row.

    Parameters and shapes are those of `GlobalAveragePooling1D`. A row without a valid step gives
    zeros. Keras has no mask here: it takes the padding's values too.
    """

    op = "max_pool"
