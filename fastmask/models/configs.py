"""Models to configs and back, in the form of Keras 3."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, signature
from typing import Any

from fastmask.layers import Layer, deserialize, serialize
from fastmask.layers.base.symbolic import KerasTensor, Node

Config = dict[str, Any]

_BASE = ("name", "trainable", "dtype")


def takes_graph(cls: Any) -> bool:
    """Return whether the constructor of a class of models is like that of its base, or hands all on to it."""
    parameters = list(signature(cls.__init__).parameters.values())[1:]
    kinds = {parameter.kind for parameter in parameters}
    if {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD} <= kinds:
        return True
    names = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    count = len(cls.graph_arguments)
    return tuple(names[:count]) == cls.graph_arguments and {*names[count:]} <= {"name", "trainable"}


def made(cls: type, arguments: Mapping[str, Any]) -> Any:
    """Return a model made by the constructor of its class.

    Name, trainable and dtype, which configs have of every layer, are given to a constructor that takes them. The dtype
    is that of the layers.

    Raises
    ------
    TypeError
        If the constructor takes other arguments.
    """
    given = signature(cls.__init__)  # type: ignore[misc]
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in given.parameters.values())
    common = {name for name in _BASE if name not in given.parameters and (name == "dtype" or not open_ended)}
    taken = {name: value for name, value in arguments.items() if name not in common}
    try:
        given.bind(None, **taken)
    except TypeError as error:
        raise TypeError(
            f"config: expected the arguments of {cls.__name__}, which its get_config must return, or a from_config of "
            f"its own, got {sorted(arguments)} ({error})"
        ) from None
    model = cls(**taken)
    model.name = arguments.get("name") or model.name
    if arguments.get("trainable") is False:
        model.trainable = False
    return model


def beside_graph(plain: bool, config: Mapping[str, Any]) -> Config:
    """Return what a config has beside the graph; name and trainable alone for a class without arguments of its own."""
    graph = ("layers", "input_layers", "output_layers", "build_input_shape")
    return {key: value for key, value in config.items() if (key in _BASE if plain else key not in graph)}


def functional_config(model: Any, map_structure: Callable[..., Any]) -> Config:
    """Return the config of a graph: its layers with the calls that belong to it."""
    kept = set(model.graph.nodes) | {tensor.node for tensor in model.inputs}
    numbers: dict[Node, int] = {}
    for layer in model.graph.layers:
        numbers |= {node: i for i, node in enumerate(node for node in layer.nodes if node in kept)}

    def place(tensor: KerasTensor) -> list[Any]:
        layer = tensor.history.layer
        return [layer.name, numbers[tensor.node] + _first_call(layer), tensor.history.tensor_index]

    layers = []
    for layer in model.graph.layers:
        nodes = [_node_config(node, numbers) for node in layer.nodes if node in kept and node.inputs]
        layers.append({**serialize(layer), "name": layer.name, "inbound_nodes": nodes})
    return {
        "name": model.name,
        "trainable": model.trainable,
        "layers": layers,
        "input_layers": map_structure(place, model.input_structure),
        "output_layers": map_structure(place, model.output_structure),
    }


def sequential_config(model: Any) -> Config:
    """Return the config of a stack of layers, that of its input first if it is known."""
    start = [tensor.history.layer for tensor in model.start]
    config = {"name": model.name, "trainable": model.trainable, "layers": [*map(serialize, [*start, *model.layers])]}
    return config | ({"build_input_shape": model.input_shape} if model.built else {})


def layers_of(config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None) -> tuple[list[Layer], Any]:
    """Return new layers of a stack, and the shape to build it for if one is known."""
    layers = [deserialize(entry, custom_objects) for entry in config["layers"]]
    return layers, config.get("build_input_shape")


def rebuilt(config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None) -> tuple[Any, Any]:
    """Return the inputs and outputs of a graph of new layers.

    Raises
    ------
    ValueError
        If a layer's inputs are not results of layers of the config.
    """
    entries = config["layers"]
    layers = {entry["name"]: deserialize(entry, custom_objects) for entry in entries}
    todo = deque((entry["name"], i, node) for entry in entries for i, node in enumerate(entry["inbound_nodes"]))
    waiting: dict[tuple[str, int], list[Any]] = {}
    while todo:
        name, number, node = todo.popleft()
        lacking = _called(name, number, node, layers)
        if lacking is None:
            todo += waiting.pop((name, number), [])
        else:
            waiting.setdefault(lacking, []).append((name, number, node))
    if waiting:
        names = ", ".join(sorted({name for calls in waiting.values() for name, _, _ in calls}))
        raise ValueError(f"config: expected that of a graph without loops, got one that cannot connect {names}")
    return _mapped(config["input_layers"], layers), _mapped(config["output_layers"], layers)


def _called(name: str, number: int, node: Mapping[str, Any], layers: Mapping[str, Layer]) -> tuple[str, int] | None:
    """Make call `number` of a layer as a node says; if it depends on one that is not there yet, return that."""
    missing = [(name, number - 1)] if len(layers[name].nodes) < number else []

    def resolve(value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("class_name") == "__keras_tensor__":
            place = value["config"]["keras_history"]
            found = _tensor(place, layers)
            missing.extend([(place[0], place[1])] if found is None else [])
            return found
        if isinstance(value, Mapping):
            return {key: resolve(entry) for key, entry in value.items()}
        return [resolve(entry) for entry in value] if isinstance(value, (list, tuple)) else value

    args = [resolve(value) for value in node["args"]]
    kwargs = {key: resolve(value) for key, value in node["kwargs"].items() if value is not None}
    if missing:
        return missing[0]
    layers[name](*args, **kwargs)
    return None


def _tensor(place: Sequence[Any], layers: Mapping[str, Layer], offset: int = 0) -> KerasTensor | None:
    name, node, index = place
    if name not in layers:
        raise ValueError(f"config: expected all layers that others depend on, got none named {name!r}")
    nodes = layers[name].nodes
    return nodes[node - offset].outputs[index] if node - offset < len(nodes) else None


def _mapped(places: Any, layers: Mapping[str, Layer]) -> Any:
    if isinstance(places, Mapping):
        return {key: _mapped(entry, layers) for key, entry in places.items()}
    if not isinstance(places[0], str):
        return type(places)([_mapped(entry, layers) for entry in places])
    found = _tensor(places, layers, _first_call(layers.get(places[0])))
    if found is None:
        raise ValueError(f"config: expected a call of which {tuple(places)} is the result, got none")
    return found


def _first_call(layer: Any) -> int:
    """Return the number of a layer's first call among a graph's outputs: Keras counts the making of a graph there."""
    return int(getattr(layer, "counts_making", False))


def _node_config(node: Node, numbers: Mapping[Node, int]) -> Config:
    def of(tensor: KerasTensor) -> Config:
        history = [tensor.history.layer.name, numbers[tensor.node], tensor.history.tensor_index]
        shape = [*tensor.shape]
        return {
            "class_name": "__keras_tensor__",
            "config": {"shape": shape, "dtype": tensor.dtype, "keras_history": history},
        }

    x, kwargs = node.arguments(of)
    return {"args": [x], "kwargs": kwargs}
