"""What calls of layers take and return."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastmask.layers.base.checks import Array


class Gradients(NamedTuple):
    """What a pullback returns.

    Attributes
    ----------
    inputs : ndarray or None
        Like the input array, or like ``x.values`` of a packed input; None if the input holds ids.
        A list of these if the layer takes a list.
    weights : list
        In the order of ``get_weights()``; that of an `Embedding` is sparse (``SparseRows``), that
        of a weight which no gradient reaches is None.
    initial_state : tuple of ndarray, or None if no initial state was passed
    """

    inputs: Any
    weights: list[Any]
    initial_state: tuple[Array, ...] | None = None


Pullback = Callable[[Any], Gradients]


class Call(NamedTuple):
    """The arguments of one call, checked. `keep` asks for a pullback; `options` are a layer's own."""

    mask: "npt.NDArray[np.bool_] | None" = None
    initial_state: Any = None
    training: bool = False
    keep: bool = False
    options: Mapping[str, Any] = MappingProxyType({})
