"""Layers to configs and back, in the form that Keras writes."""

from collections.abc import Mapping
from inspect import signature
from typing import Any, cast

from fastmask import budget
from fastmask.layers.base import Layer

_LAYER_BYTES = 8192  # without weights
_MODELS = {"Functional": "Model", "Model": "Model", "Sequential": "Sequential"}


def serialize(layer: Layer) -> dict[str, Any]:
    """Return the class name and config of a layer or model, without its weights."""
    return named(layer, layer.get_config())


def named(layer: Layer, config: dict[str, Any], own: bool = True) -> dict[str, Any]:
    """Return a config with the name of a layer's class; that of the graph under it unless `own`, for a model."""
    from fastmask import models

    kind = type(layer)
    module: str | None = "keras.layers"
    name, registered = kind.__name__, None
    if isinstance(layer, models.Model):
        if own and kind not in (models.Model, models.Sequential):
            module, registered = None, name
        elif isinstance(layer, models.Sequential):
            module, name = "keras", "Sequential"
        else:
            module, name, registered = "keras.src.models.functional", "Functional", "Functional"
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
    from fastmask import layers, models

    budget.take(_LAYER_BYTES, "the layers")
    name = config["class_name"]
    known = models if name in _MODELS else layers
    found = (custom_objects or {}).get(name, getattr(known, _MODELS.get(name, name), None))
    if not (isinstance(found, type) and issubclass(found, Layer)):
        raise ValueError(f"class_name must be that of a layer, got {name!r}")
    if "custom_objects" in signature(found.from_config).parameters:
        return found.from_config(config["config"], custom_objects)  # type: ignore[call-arg]
    return found.from_config(config["config"])
