"""Models of Keras as models of fastmask, and back: architecture, weights, and what `compile` was given."""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from fastmask import layers
from fastmask.core import budget
from fastmask.core.errors import FileFormatError
from fastmask.models import Model
from fastmask.saving import compiled, configs
from fastmask.saving.masks import keras_config, old_rules
from fastmask.saving.order import of_config, require_built, trained

Classes = Mapping[str, Any] | None

_ONLY_HERE = "hard_sigmoid_keras2"


def from_keras(model: Any, custom_objects: Classes = None, compile: bool = True) -> Model:
    """Return a model of fastmask with the layers and weights of a Keras model; see `Model.from_keras`."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"model: expected a Keras model, got {type(model).__name__}")
    require_built(model)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    modern = configs.modern(config, keras.__version__, custom_objects)
    if not configs.is_model(modern["class_name"], custom_objects):
        raise FileFormatError(f"model: expected a Sequential or a functional model, got a {type(model).__name__}")
    with budget.placeholders(sys.maxsize):
        found: Any = layers.deserialize(modern, custom_objects)
        if not found.built:
            found.build(model.input_shape)
    for mine, theirs in _pairs(found, model):
        _require_fit(mine, theirs)
        mine.set_weights(theirs.get_weights())
    if compile and model.compiled and config.get("compile_config"):
        compiled.compile_model(found, config["compile_config"], custom_objects)
        if model.optimizer is not None and model.optimizer.built:
            stored = [_array(variable) for variable in model.optimizer.variables]
            compiled.restore(found, stored, of_config(found, modern))
    return found


def to_keras(model: Model, compile: bool = True) -> Any:
    """Return a Keras model with the layers and weights of a model of fastmask; see `Model.to_keras`."""
    require_built(model)
    config = keras_config(model, own=False)
    if f'"{_ONLY_HERE}"' in json.dumps(config):
        raise ValueError(f"model {model.name!r}: expected activations of Keras 3, got {_ONLY_HERE!r}, which it has not")
    old = old_rules(config)
    if old:
        raise ValueError(
            f"model {model.name!r}: expected one that does to masks what Keras 3 does, got layer {old[0]!r}, which "
            "joins or shows them as the older Keras did whose file it is from (mask_mode, zero_output_for_mask)"
        )
    found = keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))  # a copy, which Keras takes apart
    if not found.built:
        found.build(model.input_shape)
    for mine, theirs in _pairs(model, found):
        _require_fit(mine, theirs)
        theirs.set_weights([array.copy() for array in mine.get_weights()])
    given = compiled.compile_config(model) if compile else None
    if given is not None:
        found.compile_from_config(given)
        _give_state(model, found, config)
    return found


def _give_state(model: Model, found: Any, config: Mapping[str, Any]) -> None:
    """Give the optimizer of a Keras model the state of that of a model of fastmask."""
    orders = of_config(model, config)
    slots = compiled.slots(model.optimizer, trained(model, orders))
    found.optimizer.build(found.trainable_variables)
    theirs = [variable for variable in found.optimizer.variables if tuple(variable.shape)]
    if [tuple(variable.shape) for variable in theirs] != [slot.shape for slot in slots if slot.shape]:
        name = type(found.optimizer).__name__
        raise ValueError(f"optimizer: expected the state of Keras's {name}, got another; use compile=False")
    found.optimizer.iterations.assign(model.optimizer.iterations)
    for variable, slot in zip(theirs, (slot for slot in slots if slot.shape), strict=True):
        variable.assign(slot.numpy())  # JAX goes on using the memory that it is given


def _pairs(model: Any, other: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the layers of two equal models, one of fastmask and one of Keras."""
    for layer in model.layers:
        mine, theirs = layer, other.get_layer(layer.name)
        while hasattr(mine, "layer") and hasattr(theirs, "layer"):
            mine, theirs = mine.layer, theirs.layer
        if mine.is_graph:
            yield from _pairs(mine, theirs)
        else:
            yield mine, theirs


def _require_fit(mine: Any, theirs: Any) -> None:
    """Raise ValueError unless the weights of two layers have the same shapes."""
    shapes = [[tuple(variable.shape) for variable in layer.weights] for layer in (mine, theirs)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"layer {theirs.name!r}: expected weights of shapes {shapes[0]} in Keras as in fastmask, got {shapes[1]}"
        )


def _array(variable: Any) -> Any:
    array: Any = np.asarray(keras.ops.convert_to_numpy(variable))
    return array
