"""Initializers, regularizers and constraints: from the constructor's arguments to the weights."""

from typing import Any

from fastmask import constraints, initializers, regularizers
from fastmask.layers.base.layer import Layer
from fastmask.layers.base.variable import Variable

_KINDS = {
    "initializer": initializers.get,
    "regularizer": regularizers.get,
    "constraint": constraints.get,
}


def keep_options(layer: Layer, **arguments: Any) -> None:
    """Set attributes such as ``kernel_regularizer``; other arguments of the constructor are passed over."""
    for name, value in arguments.items():
        kind = _KINDS.get(name.rpartition("_")[2])
        if kind is not None:
            setattr(layer, name, kind(value))


def add_kept(
    layer: Layer, name: str, shape: tuple[int, ...], part: str | None = None, initializer: Any = None
) -> Variable:
    """Create the weight `name` with the options that `keep_options` set for it.

    Parameters
    ----------
    layer : Layer
    name : str
    shape : tuple of int
    part : str, optional
        What stands before ``_initializer`` and so on; `name` by default.
    initializer : callable, optional
        In place of the layer's.
    """
    part = part or name
    return layer.add_weight(
        shape,
        initializer or getattr(layer, f"{part}_initializer"),
        name,
        regularizer=getattr(layer, f"{part}_regularizer"),
        constraint=getattr(layer, f"{part}_constraint"),
    )
