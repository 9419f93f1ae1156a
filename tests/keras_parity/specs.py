"""Models as data, so that the recording and the tests build the same one from one description.

A layer is ``[class name, config]``, a wrapper ``[class name, config, layer]``; a model is a list of layers.
"""

from __future__ import annotations

from typing import Any


def make_layer(layers: Any, spec: list[Any], dtype: str) -> Any:
    """Build the layer that ``spec`` describes from the classes of the module ``layers``."""
    name, config, *inner = spec
    wrapped = [make_layer(layers, child, dtype) for child in inner]
    return getattr(layers, name)(*wrapped, **config, dtype=dtype)


def make_layers(layers: Any, specs: list[Any], dtype: str) -> list[Any]:
    """Build every layer of a model."""
    return [make_layer(layers, spec, dtype) for spec in specs]


def make_named(module: Any, spec: Any) -> Any:
    """Return a string as it is, and build ``[class name, config]``, e.g. a loss or an optimizer."""
    if isinstance(spec, (list, tuple)):
        name, config = spec
        return getattr(module, name)(**config)
    return spec
