"""Configs of models as Keras 1, 2 and 3 write them, brought into the one form of Keras 3."""

from collections.abc import Callable, Mapping
from inspect import isclass
from typing import Any

from fastmask import layers, ops
from fastmask.core.errors import REMEDY, FileFormatError
from fastmask.core.objects import written
from fastmask.layers.base.checks import ACTIVATION_ALIASES
from fastmask.layers.base.serialization import layer_configs
from fastmask.saving import dropping, graphs, keras1, versions
from fastmask.saving.nodes import MERGING, MODELS, Config

Classes = Mapping[str, Any] | None

_NOT_LAYERS = ("Layer", "Variable", "Gradients", "Recurrent")
_CUDNN = {"CuDNNLSTM": "LSTM", "CuDNNGRU": "GRU"}
_ACTIVATIONS = ("activation", "recurrent_activation")
_OLD_HARD_SIGMOID = "hard_sigmoid_keras2"
# Arguments of Keras's layers that fastmask does not have, with the values that change nothing.
_IDLE: dict[str, tuple[Any, ...]] = {
    "autocast": (True, False, None),
    "quantization_config": (None,),
    "ragged": (False, None),
    "sparse": (False, None),
    "time_major": (False, None),
    "input_dtype": ("int32", "int64", "float32", "float64", None),
    "renorm": (False, None),
    "fused": (True, False, None),
    "virtual_batch_size": (None,),
    "adjustment": (None,),
    "synchronized": (False, None),
    "causal": (False,),
}


def supported() -> list[str]:
    """Return the class names of the layers and models that fastmask has."""
    public = (getattr(layers, name) for name in layers.__all__)
    own = {thing.__name__ for thing in public if isclass(thing) and issubclass(thing, layers.Layer)}
    return sorted({*own, "Sequential", "Functional"} - {*_NOT_LAYERS})


def modern(config: Any, version: str, custom_objects: Classes = None) -> Config:
    """Return the config of a model or layer in the form of Keras 3, in which only known classes are left.

    Parameters
    ----------
    config : dict
        With "class_name" and "config".
    version : str
        Of the Keras that wrote it.
    custom_objects : mapping of str to class, optional
        Names beyond those of fastmask.

    Raises
    ------
    FileFormatError
        If it names a class that fastmask has no layer for, or is malformed.
    """
    name, inner = _parts(config)
    if is_model(name, custom_objects):
        return _model(config, name, inner, version, custom_objects)
    if version.startswith("1."):
        name, inner = keras1.layer(name, inner)
    name = _CUDNN.get(name, name)
    _require(name, config, custom_objects)
    found = dict(inner)
    if name in (custom_objects or {}):
        return {**config, "config": found}
    for wrapped in ("layer", "backward_layer"):
        if isinstance(found.get(wrapped), Mapping):
            found[wrapped] = modern(found[wrapped], version, custom_objects)
    _drop_idle(name, found)
    if not version.startswith("3"):
        _from_keras2(name, found, config["class_name"])
    _old_masks(name, found, version)
    for key in _ACTIVATIONS:
        if key in found:
            found[key] = _activation(found[key], name, version)
    return written("keras.layers", name, found, **_place(config))


def is_model(name: str, custom_objects: Classes) -> bool:
    """Return whether a class name is that of a model, one of `custom_objects` included."""
    own = (custom_objects or {}).get(name)
    return name in MODELS if own is None else bool(getattr(own, "is_graph", False))


def _model(config: Config, name: str, inner: Any, version: str, custom_objects: Classes) -> Config:
    def each(layer: Any) -> Config:
        return modern(layer, version, custom_objects)

    place = _place(config)
    if name in (custom_objects or {}):
        return written(None, name, _of_class(inner, each, version), name, **place)
    if name == "Sequential":
        return written("keras", name, _sequential(inner, each, version), **place)
    found = graphs.functional(inner, each, version)
    return written("keras.src.models.functional", "Functional", found, **place)


def _of_class(inner: Any, each: Callable[[Any], Config], version: str) -> Config:
    """Return the config of a model of the user's class: its own arguments, and a graph made modern if there is one."""
    found = dict(inner)
    if not layer_configs(found):
        return found
    graph = graphs.functional if "input_layers" in found else _sequential
    return found | graph(found, each, version)


def _sequential(inner: Any, each: Callable[[Any], Config], version: str) -> Config:
    """Return the config of a Sequential; old ones are just the list of layers."""
    found = {"layers": inner} if isinstance(inner, list) else dict(inner)
    if not isinstance(found.get("layers"), list) or not found["layers"]:
        raise FileFormatError(f"a Sequential: expected a list of layers, got {str(found.get('layers'))[:80]}")
    found["layers"] = dropping.in_stack([each(layer) for layer in found["layers"]], version)
    shape = found["layers"][0]["config"].pop("batch_input_shape", None)
    if found["layers"][0]["class_name"] != "InputLayer" and shape:
        found["layers"].insert(0, _input_layer(shape, found["layers"][0]))
    return {key: found[key] for key in ("name", "trainable", "layers", "build_input_shape") if key in found}


def _input_layer(shape: Any, first: Config) -> Config:
    dtype = "int32" if first["class_name"] == "Embedding" else "float32"
    inner = {"batch_shape": shape, "dtype": dtype, "name": f"{first['config'].get('name')}_input"}
    return written("keras.layers", "InputLayer", inner)


def _place(config: Config) -> Config:
    """Return what tells where in a graph a layer stands."""
    return {key: config[key] for key in ("name", "inbound_nodes") if key in config}


def _parts(config: Any) -> tuple[str, Any]:
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str):
        raise FileFormatError(f"a layer: expected a dict with a class_name, got {str(config)[:80]}")
    inner = config.get("config")
    if not isinstance(inner, dict) and not (config["class_name"] == "Sequential" and isinstance(inner, list)):
        raise FileFormatError(f"the config of a {config['class_name']}: expected a dict, got {str(inner)[:80]}")
    return config["class_name"], inner


def _require(name: str, config: Config, custom_objects: Classes) -> None:
    module = str(config.get("module") or "keras.layers")
    operation = ".ops." in f"{module}."
    if not operation and (name in supported() or name in (custom_objects or {})):
        return
    kind = f"operation {name!r} ({module})" if operation else f"layer class {name!r}"
    raise FileFormatError(
        f"fastmask has no {kind}; supported are {', '.join(supported())}, and classes of your own in "
        f"custom_objects; {REMEDY}"
    )


def _drop_idle(name: str, config: Config) -> None:
    for key, allowed in _IDLE.items():
        if key in config and config[key] in allowed:
            del config[key]
    if name == "InputLayer":
        shape = config.pop("batch_input_shape", None) or config.get("batch_shape")
        kept = {"batch_shape": shape, "dtype": config.get("dtype"), "name": config.get("name")}
        config.clear()
        config.update(kept)


def _from_keras2(name: str, config: Config, class_name: str) -> None:
    """Write out what was the default, or had another form, before Keras 3."""
    if class_name in _CUDNN:
        config.update(activation="tanh", recurrent_activation="sigmoid")
        if name == "GRU":
            config["reset_after"] = True
    if name == "GRU":
        config.setdefault("reset_after", False)
    if name in ("LSTM", "GRU"):
        config.setdefault("recurrent_activation", "hard_sigmoid")
    if name in ("SimpleRNN", "LSTM", "GRU"):
        config.pop("implementation", None)
    if isinstance(config.get("axis"), list) and len(config["axis"]) == 1:
        config["axis"] = config["axis"][0]
    if name == "Embedding":
        config.pop("input_length", None)
    if name == "SpatialDropout1D":
        config.pop("noise_shape", None)
    if config.get("batch_input_shape") is None:
        config.pop("batch_input_shape", None)


def _old_masks(name: str, config: Config, version: str) -> None:
    """Write out what a layer did to masks where that was not what it does in Keras 3 of today."""
    if name in (*MERGING, "Concatenate") and versions.mask_mode(version) != "or":
        config["mask_mode"] = versions.mask_mode(version)
    if name == "Bidirectional" and versions.repeats_both_ways(version):
        config["zero_output_for_mask"] = False


def _activation(value: Any, layer: str, version: str) -> Any:
    """Return the name of an activation; that of Keras 1 and 2 where its definition has changed."""
    if isinstance(value, Mapping):
        known = str(value.get("module") or "keras").split(".")[0] in ("keras", "builtins")
        value = value.get("config") if known and isinstance(value.get("config"), str) else value
    value = ACTIVATION_ALIASES.get(value, value) if isinstance(value, str) else value
    if value == "hard_sigmoid" and not version.startswith("3"):
        value = _OLD_HARD_SIGMOID
    if value is None or value in ops.ACTIVATIONS:
        return value
    raise FileFormatError(
        f"the {layer} uses the activation {value!r}; fastmask has {', '.join(ops.ACTIVATIONS)}; {REMEDY}"
    )
