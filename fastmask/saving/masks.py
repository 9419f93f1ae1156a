"""Configs of models for Keras 3: masks written out, layers in Keras's order.

Keras has the operations that compute masks in its graphs. It would make them by itself, but not for
a call with an initial state, and under names that layers may have; and they count where it orders
the layers, by which it numbers the groups of weights and the slots of optimizers.
"""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

from fastmask import layers
from fastmask.layers.base.holder import describe
from fastmask.layers.base.serialization import layer_configs, named
from fastmask.layers.base.symbolic import KerasTensor, Node
from fastmask.layers.logic import MaskOperation
from fastmask.layers.merging import MaskMerge
from fastmask.saving.nodes import MERGING, RECURRENT, calls_of, tensor, tensors, tensors_of
from fastmask.saving.operations import as_operation, operation

Config = dict[str, Any]

_TAKE_MASK = (*RECURRENT, "TimeDistributed", "GlobalAveragePooling1D", "BatchNormalization", "Attention")
_BY_MASK = ("Multiply", "Maximum", "Minimum")  # whose results depend on the masks of their inputs
# Arguments that Keras 3 does not have; a file with one opens in fastmask only.
_OLD_RULES = dict.fromkeys((*MERGING, "Concatenate"), "mask_mode") | {"Bidirectional": "zero_output_for_mask"}


def keras_config(model: Any, own: bool = True) -> Config:
    """Return the config of a model in the form of Keras 3, with masks and order as there.

    Models of the user's classes keep them, and what their `get_config` returns; unless `own`, they are the graphs that
    they are made of.
    """
    _require_keras_masks(model)
    return _entry(model, layers.serialize(model), own)


def old_rules(config: Config) -> list[str]:
    """Return the names of the layers that do to masks what Keras 3 does not, in the config of a layer or model."""
    inner = config["config"]
    if _OLD_RULES.get(config["class_name"]) in inner:
        return [inner["name"]]
    entries = layer_configs(inner) + [entry for key, entry in inner.items() if key == "layer"]
    return [name for entry in entries for name in old_rules(entry)]


def _entry(layer: Any, entry: Config, own: bool, within: bool = False) -> Config:
    """Return the config of a layer or model, with the configs of the models in it made new as well."""
    if hasattr(layer, "layers"):
        entry = entry if own else entry | named(layer, layer.graph_config(), own)
        return entry | {"config": _inner(layer, entry["config"], own, within)}
    if not own and hasattr(layer, "layer"):
        inner = _entry(layer.layer, entry["config"]["layer"], own, True)
        return entry | {"config": entry["config"] | {"layer": inner}}
    return entry


def _inner(model: Any, config: Config, own: bool, within: bool) -> Config:
    """Return the config of a model with those of its layers made new."""
    given = layer_configs(config)
    made = model.operations
    if not made or len(given) < len(made):  # then the constructor of its class makes them
        return config
    entries = given[: -len(made)]  # the input of a stack, which is no operation
    for layer, entry in zip(made, given[-len(made) :], strict=True):
        new = _entry(layer, entry, own, True)
        entries.append(as_operation(new) if isinstance(layer, MaskOperation) else new)
    masks = _Masks(model.graph, entries) if any("inbound_nodes" in entry for entry in entries) else None
    # Which masks reach a model within another is not known here, so that its old rules stay.
    if not within:
        ends = zip(made, entries[-len(made) :], strict=True)
        entries[-len(made) :] = [_without_idle(entry, layer, masks) for layer, entry in ends]
    config = config | {"layers": entries}
    if masks is None:
        return config
    config["layers"] = entries + masks.operations
    rank = {name: i for i, name in enumerate(keras_order(config))}
    return config | {"layers": sorted(config["layers"], key=lambda entry: rank[entry["name"]])}


def _without_idle(entry: Config, layer: Any, masks: "_Masks | None") -> Config:
    """Return the config of a layer without an old rule for masks that changes nothing where the layer stands."""
    if isinstance(layer, layers.Bidirectional):
        acts = layer.return_sequences and any(any(node.mask_sources) for node in layer.nodes)
    else:
        acts = masks is not None and layer in masks.by_old_rules
    idle = None if acts else _OLD_RULES.get(entry["class_name"])
    return entry | {"config": {name: value for name, value in entry["config"].items() if name != idle}}


def _joins_by_and(layer: MaskMerge, masks: Sequence[Config | None]) -> bool:
    """Return whether a merge of inputs with these masks gives another mask by AND than by OR."""
    in_time = isinstance(layer, layers.Concatenate) and layer.axis == 1
    return layer.mask_mode == "and" and not in_time and any(mask != masks[0] for mask in masks)


def _acts_by_old_rules(layer: MaskMerge, masks: Sequence[Config | None]) -> bool:
    """Return whether a merge of inputs with these masks gives anything else than in Keras 3."""
    by_mask = type(layer).__name__ in _BY_MASK and layer.mask_mode != "or"
    return any(masks) and (by_mask or layer.mask_mode == "drop" or _joins_by_and(layer, masks))


def _require_keras_masks(model: Any) -> None:
    """Raise ValueError if a layer's call gets a mask and takes none in Keras, or makes one that Keras drops."""
    for node in model.graph.nodes:
        if getattr(node.layer, "masks_within", False) and not node.layer.makes_mask:
            raise ValueError(
                f"{describe(node.layer.layer)} makes a mask within {describe(node.layer)}, which Keras drops: make the "
                "mask by a layer before it"
            )
        name = type(node.layer).__name__
        own = "mask" in signature(type(node.layer).call).parameters
        if any(node.masks) and name not in _TAKE_MASK and not own and not hasattr(node.layer, "layers"):
            raise ValueError(
                f"a {name} takes no mask argument in Keras, which {describe(node.layer)} was called with; pass the "
                "mask to a layer before it"
            )


def in_keras_order(graph: Any) -> list[layers.Layer]:
    """Return the layers of a graph as Keras 3 orders them, operations on masks taken into account."""
    kept = set(graph.nodes)
    made = {layer: [node for node in layer.nodes if node in kept] for layer in graph.layers}
    numbers = {node: i for nodes in made.values() for i, node in enumerate(nodes)}

    def of(tensor: KerasTensor) -> Config:
        place = [tensor.history.layer.name, numbers.get(tensor.node, 0), tensor.history.tensor_index]
        return {"class_name": "__keras_tensor__", "config": {"keras_history": place}}

    def call(node: Node) -> Config:
        given = [of(tensor) for tensor in node.inputs]
        args = [given] if node.layer.takes_list else given
        kwargs: Config = {"initial_state": [of(tensor) for tensor in node.states]}
        if any(mask is not None for mask in node.masks):
            kwargs["mask"] = [None if mask is None else of(mask) for mask in node.masks]
        return {"args": args, "kwargs": kwargs}

    entries = [
        {"name": layer.name, "inbound_nodes": [call(node) for node in nodes if node.inputs]}
        for layer, nodes in made.items()
    ]
    ends = [of(tensor)["config"]["keras_history"] for tensor in graph.outputs]
    operations = _Masks(graph, entries).operations
    named = {layer.name: layer for layer in graph.layers}
    return [
        named[name] for name in keras_order({"layers": entries + operations, "output_layers": ends}) if name in named
    ]


class _Masks:
    """Adds the operations on masks of a graph, and the mask arguments of its calls."""

    def __init__(self, graph: Any, entries: Sequence[Config]) -> None:
        self.operations: list[Config] = []
        self.by_old_rules: set[Any] = set()
        self._known: dict[KerasTensor, Config | None] = {}
        self._taken = {entry["name"] for entry in entries}
        kept, named = set(graph.nodes), {layer.name: layer for layer in graph.layers}
        calls: dict[Node, Config] = {}
        for entry in entries:
            made = [node for node in named[entry["name"]].nodes if node in kept and node.inputs]
            calls |= dict(zip(made, entry["inbound_nodes"], strict=True))
        for node in graph.nodes:
            if node.inputs:
                self._call(node, calls[node])

    def _call(self, node: Node, call: Config) -> None:
        name = type(node.layer).__name__
        explicit = call["kwargs"].get("mask")
        given = explicit if isinstance(explicit, list) else [explicit]
        masks = [self._known.get(tensor) for tensor in node.inputs]
        masks = masks if explicit is None else [own or mask for own, mask in zip(given, masks, strict=True)]
        if isinstance(node.layer, MaskMerge) and _acts_by_old_rules(node.layer, masks):
            self.by_old_rules.add(node.layer)
        if any(masks) and (name in _TAKE_MASK or hasattr(node.layer, "layers")):
            call["kwargs"] = call["kwargs"] | {"mask": masks if node.layer.takes_list else masks[0]}
        if not any(tensor.mask_source is not None for tensor in node.outputs) or hasattr(node.layer, "layers"):
            return
        given = call["args"][0] if node.layer.takes_list else call["args"]
        found = self._output(node.layer, given, masks)
        if name == "TimeDistributed":
            for _ in range(node.outputs[0].mask_axes, max(node.mask_axes)):
                found = self._make("Any", found, axis=-1, keepdims=False)
        self._known |= {tensor: found for tensor in node.outputs if tensor.mask_source is not None}

    def _output(self, layer: Any, given: list[Config], masks: list[Config | None]) -> Config | None:
        while type(layer).__name__ == "TimeDistributed" and layer.makes_mask:
            layer = layer.layer
        name = type(layer).__name__
        if name == "Embedding" and layer.makes_mask:
            return self._make("NotEqual", given[0], 0)
        if name == "Masking":
            return self._make("Any", self._make("NotEqual", given[0], layer.mask_value), axis=-1, keepdims=False)
        if name == "Concatenate":
            return self._concatenated(layer, given, masks)
        present = [mask for mask in masks if mask is not None]
        found = present[0] if present else None
        for mask in present[1:] if name in MERGING else ():
            found = self._make("LogicalAnd" if _joins_by_and(layer, masks) else "LogicalOr", found, mask)
        return found

    def _concatenated(self, layer: layers.Concatenate, given: list[Config], masks: list[Config | None]) -> Config:
        wide = []
        for place, mask in zip(given, masks, strict=True):
            if mask is None:
                wide.append(self._make("OnesLike", place, dtype="bool"))
            else:
                zeros = self._make("ZerosLike", place, dtype="bool")
                wide.append(self._make("LogicalOr", self._make("ExpandDims", mask, axis=-1), zeros))
        joined = self._make("Concatenate", wide, axis=layer.axis)
        return self._make("All" if _joins_by_and(layer, masks) else "Any", joined, axis=-1, keepdims=False)

    def _make(self, class_name: str, *args: Any, **config: Any) -> Config:
        """Add an operation; return its output."""
        number = len(self.operations)
        name = f"mask_{number}"
        while name in self._taken:
            number += 1
            name = f"mask_{number}"
        self._taken.add(name)
        self.operations.append(operation(class_name, name, args, **config))
        return tensor(name, shape=[None, None], dtype="bool")


def keras_order(config: Mapping[str, Any]) -> list[str]:
    """Return the names of a functional model's layers and operations as Keras 3 orders them.

    That is by the longest way to an output, longest first; those of equal distance in the order in
    which a search from the outputs meets them.
    """
    calls = {entry["name"]: calls_of(entry) for entry in config["layers"]}
    parents = {
        (name, i): [ref[:2] for ref in tensors([call["args"], dict(sorted(call["kwargs"].items()))])]
        for name, made in calls.items()
        for i, call in enumerate(made)
    }
    met, nodes = _search(parents, [ref[:2] for ref in tensors_of(config["output_layers"])])
    distance: dict[tuple[str, int], int] = {}
    of_layer: dict[str, int] = {}
    for node in reversed(nodes):
        own = max(distance.get(node, 0), of_layer.get(node[0], 0))
        distance[node] = of_layer[node[0]] = own
        for parent in parents.get(node, ()):
            distance[parent] = max(own + 1, distance.get(parent, 0))
    return sorted(calls, key=lambda name: (-of_layer.get(name, 0), met.get(name, -1)))


def _search(parents: Mapping[Any, list[Any]], outputs: list[Any]) -> tuple[dict[str, int], list[Any]]:
    """Return when each layer was met in a search from the outputs, and the calls in a possible order."""
    met: dict[str, int] = {}
    done: set[Any] = set()
    nodes: list[Any] = []
    for output in outputs:
        todo = [(output, iter(parents.get(output, ())))] if output not in done else []
        done.add(output)
        met.setdefault(output[0], len(met))
        while todo:
            node, waiting = todo[-1]
            parent = next((other for other in waiting if other not in done), None)
            if parent is None:
                nodes.append(node)
                todo.pop()
                continue
            done.add(parent)
            met.setdefault(parent[0], len(met))
            todo.append((parent, iter(parents.get(parent, ()))))
    return met, nodes
