"""Where data enters a model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastmask import config
from fastmask.layers.base import checks
from fastmask.layers.base.calls import Call, Pullback
from fastmask.layers.base.checks import Shape
from fastmask.layers.base.layer import Layer
from fastmask.layers.base.symbolic import History, KerasTensor, Node


class InputLayer(Layer):
    """The layer that stands for one input of a model; `Input` makes it.

    Parameters
    ----------
    shape : tuple of int or None, optional
        Without the batch axis; None for an axis of any length.
    batch_size : int, optional
    dtype : str, optional
        Of the data; `fastmask.config.floatx` when left out. Ids may have any.
    batch_shape : tuple of int or None, optional
        The shape with the batch axis, in place of `shape`.
    name : str, optional
    sparse, ragged, optional : bool, optional
        Only the defaults of Keras.
    **kwargs
        See `Layer`.
    """

    supports_masking = True

    def __init__(
        self,
        shape: Sequence[int | None] | None = None,
        batch_size: int | None = None,
        dtype: Any = None,
        sparse: bool | None = None,
        ragged: bool | None = None,
        batch_shape: Sequence[int | None] | None = None,
        name: str | None = None,
        optional: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        for option, value in (("sparse", sparse), ("ragged", ragged), ("optional", optional)):
            checks.choice(option, value or False, (False,))
        if (shape is None) == (batch_shape is None):
            raise ValueError(f"shape, batch_shape: expected exactly one of them, got {shape} and {batch_shape}")
        for option, given in (("shape", shape), ("batch_shape", batch_shape)):
            if given is not None and not isinstance(given, (tuple, list)):
                raise TypeError(f"{option}: expected a tuple of int or None, got {given!r}")
        whole = (batch_size, *(shape or ())) if batch_shape is None else batch_shape
        self.batch_shape: Shape = checks.plain_shape(whole)
        self.data_dtype = config.floatx() if dtype is None else np.dtype(dtype).name
        self.build(self.batch_shape)
        node = Node(self, [])
        history = History(self, 0, 0)
        node.outputs = [KerasTensor(self.batch_shape, self.data_dtype, self.name, None, history)]
        self.nodes.append(node)

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        raise ValueError(f"layer {self.name!r} (InputLayer) cannot be called: its output is what models are made of")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as Keras writes them."""
        kinds = {"sparse": False, "ragged": False, "optional": False}
        return {"batch_shape": self.batch_shape, "dtype": self.data_dtype, "name": self.name, **kinds}


def Input(  # noqa: N802
    shape: Sequence[int | None] | None = None,
    batch_size: int | None = None,
    dtype: Any = None,
    sparse: bool | None = None,
    batch_shape: Sequence[int | None] | None = None,
    name: str | None = None,
) -> KerasTensor:
    """Return a symbolic tensor that stands for an input of a model.

    Parameters
    ----------
    shape : tuple of int or None
        Without the batch axis; None for an axis of any length: ``Input((None,))`` for ids,
        ``Input((None, 8))`` for sequences of 8 features.
    batch_size : int, optional
    dtype : str, optional
        Such as "int32" for ids; only noted.
    sparse : bool, optional
        Only False.
    batch_shape : tuple of int or None, optional
        The shape with the batch axis, in place of `shape`.
    name : str, optional
        Also the key of this input where data is given as a dict.
    """
    layer = InputLayer(shape, batch_size, dtype, sparse, batch_shape=batch_shape, name=name)
    return layer.nodes[0].outputs[0]
