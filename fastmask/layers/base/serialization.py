"""Layers to configs and back, in the form that Keras writes."""

from collections.abc import Mapping
from importlib import import_module
from inspect import signature
from typing import Any, cast

from fastmask.core import budget
from fastmask.layers.base.layer import Layer

_LAYER_BYTES = 8192  # A layer takes about this much memory without its weights.
_classes: dict[str, type[Layer]] = {}


def register(classes: Mapping[str, type[Layer]]) -> None:
    """Make classes known by the names that configs have for them."""
    _classes.update(classes)


def serialize(layer: Layer) -> dict[str, Any]:
    """Return the class name and config of a layer or model, without its weights."""
    return named(layer, layer.get_config())


def named(layer: Layer, config: dict[str, Any], own: bool = True) -> dict[str, Any]:
    """Return a config with the name of a layer's class; that of the graph under it unless `own`, for a model."""
    kind = type(layer)
    module: str | None = "keras.layers"
    name, registered = kind.__name__, None
    if layer.is_graph and own and kind not in _classes.values():
        module, registered = None, name
    elif layer.keras_class is not None:
        module, name, registered = layer.keras_class
    return {"module": module, "class_name": name, "config": config, "registered_name": registered}


def layer_configs(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the configs of the layers in that of a model; none where the constructor of its class makes them."""
    found = config.get("layers")
    listed = isinstance(found, list) and all(isinstance(entry, Mapping) and "class_name" in entry for entry in found)
    return cast(list[dict[str, Any]], found) if listed else []


def deserialize(config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Layer:
    """Return a new layer or model from what `serialize` returned.

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
    budget.take(_LAYER_BYTES, "the layers")
    name = config["class_name"]
    if name not in _classes:
        import_module("fastmask.models")  # It stands above this module, and registers its classes.
    found = (custom_objects or {}).get(name, _classes.get(name))
    if not (isinstance(found, type) and issubclass(found, Layer)):
        raise ValueError(f"class_name: expected that of a layer, got {name!r}")
    if "custom_objects" in signature(found.from_config).parameters:
        return found.from_config(config["config"], custom_objects)  # type: ignore[call-arg]
    return found.from_config(config["config"])
