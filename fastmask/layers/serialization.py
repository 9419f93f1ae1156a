"""Layers to configs and back, in the form that Keras writes."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from fastmask.layers.base import Layer

_MODELS = {"Functional": "Model", "Model": "Model", "Sequential": "Sequential"}


def serialize(layer: Layer) -> dict[str, Any]:
    """Return the class name and config of a layer or model, without its weights."""
    module, name, registered = "keras.layers", type(layer).__name__, None
    if layer.is_graph:
        module = "keras" if name == "Sequential" else "keras.src.models.functional"
        name, registered = (name, None) if name == "Sequential" else ("Functional", "Functional")
    return {"module": module, "class_name": name, "config": layer.get_config(), "registered_name": registered}


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

    name = config["class_name"]
    known = models if name in _MODELS else layers
    found = (custom_objects or {}).get(name, getattr(known, _MODELS.get(name, name), None))
    if not (isinstance(found, type) and issubclass(found, Layer)):
        raise ValueError(f"class_name must be that of a layer, got {name!r}")
    if "custom_objects" in signature(found.from_config).parameters:
        return found.from_config(config["config"], custom_objects)  # type: ignore[call-arg]
    return found.from_config(config["config"])
