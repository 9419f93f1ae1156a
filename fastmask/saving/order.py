"""The layers of models in the order in which a file has them.

Keras orders the layers of a graph by their distance from the outputs. Files of Keras 2, whose graphs
have no operations on masks, may have another order than the same model has today.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from fastmask.layers import Layer, Variable
from fastmask.layers.base.serialization import layer_configs

Orders = Mapping[int, list[Layer]]  # layers by the id of their model


def require_built(model: Any) -> None:
    """Raise ValueError if a model, of fastmask or of Keras, has no weights yet."""
    if not model.built:
        raise ValueError(f"model: expected a built one, got {model.name!r} without weights; call build(input_shape)")


def of_config(model: Any, config: Mapping[str, Any]) -> Orders:
    """Return the order of a model's layers, and of models inside it, by its config."""
    return dict(_pairs(model, config))


def layers_of(model: Any, orders: Orders) -> list[Layer]:
    """Return the layers of a model in the order of the file."""
    found: list[Layer] = orders.get(id(model), model.layers)
    return found


def trained(model: Any, orders: Orders) -> list[Variable]:
    """Return the variables that training changes in the order of the file."""
    wanted = {id(variable) for variable in model.trainable_weights}
    return list({id(v): v for v in _weights(model, orders) if id(v) in wanted}.values())


def stored(layer: Any, orders: Orders) -> list[Variable]:
    """Return the weights of a layer or model as legacy files have them: those that train come first."""
    first = trained(layer, orders)
    known = {id(variable) for variable in first}
    return first + list({id(v): v for v in _weights(layer, orders) if id(v) not in known}.values())


def _weights(layer: Any, orders: Orders) -> Iterator[Variable]:
    if not hasattr(layer, "layers"):
        yield from layer.weights
        return
    for inner in layers_of(layer, orders):
        yield from _weights(inner, orders)


def _pairs(model: Any, config: Mapping[str, Any]) -> Iterator[tuple[int, list[Layer]]]:
    named = {layer.name: layer for layer in model.layers}
    entries = [entry for entry in layer_configs(config["config"]) if entry["config"].get("name") in named]
    if len(entries) == len(named):
        yield id(model), [named[entry["config"]["name"]] for entry in entries]
    for entry in entries:
        layer = named[entry["config"]["name"]]
        while "layer" in entry["config"] and hasattr(layer, "layer"):
            entry, layer = entry["config"]["layer"], layer.layer
        if hasattr(layer, "layers"):
            yield from _pairs(layer, entry)
