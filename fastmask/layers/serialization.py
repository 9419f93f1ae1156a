"""Layers to configs and back, in the form that Keras writes."""

from collections.abc import Mapping
from typing import Any

from fastmask.layers.base import Layer


def serialize(layer: Layer) -> dict[str, Any]:
    """Return the class name and config of a layer, without its weights."""
    return {
        "module": "keras.layers",
        "class_name": type(layer).__name__,
        "config": layer.get_config(),
        "registered_name": None,
    }


def deserialize(config: Mapping[str, Any], custom_objects: Mapping[str, type] | None = None) -> Layer:
    """Return a new layer from what `serialize` returned.

    Parameters
    ----------
    config : dict
        With entries ``"class_name"`` and ``"config"``.
    custom_objects : dict of str to class, optional
        Layer classes of your own by name; they come before those of `fastmask.layers`.

    Raises
    ------
    ValueError
        If there is no layer class of that name.
    """
    from fastmask import layers

    name = config["class_name"]
    found = (custom_objects or {}).get(name, getattr(layers, name, None))
    if not (isinstance(found, type) and issubclass(found, Layer)):
        raise ValueError(f"class_name must be that of a layer, got {name!r}")
    return found.from_config(config["config"])
