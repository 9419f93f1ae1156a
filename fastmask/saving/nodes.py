"""Graphs of functional models: old forms of nodes made new, and explicit masks taken out.

Keras 3 writes the computation of every mask into the graph, as operations with one output that
feeds the ``mask`` arguments of layers. fastmask computes masks again, so these operations go; but
only if they are what an `Embedding` or `Masking` before the layer would compute.
"""

from collections.abc import Callable, Iterator
from typing import Any

from fastmask.saving.errors import REMEDY, FileFormatError

Config = dict[str, Any]
Ref = tuple[str, int, int]

_COMBINE = ("LogicalOr", "Concatenate", "ExpandDims", "ZerosLike", "OnesLike", "Any", "BroadcastTo", "ConvertToTensor")
_MASK_OPERATIONS = ("NotEqual", *_COMBINE)
_RECURRENT = ("SimpleRNN", "LSTM", "GRU", "Bidirectional", "CuDNNLSTM", "CuDNNGRU")
_LIST_INPUT = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot", "Attention")


def functional(config: Config, each: Callable[[Any], Config], old: bool) -> Config:
    """Return the config of a functional model in Keras 3's form, without operations on masks.

    Parameters
    ----------
    config : dict
        With "layers", "input_layers" and "output_layers".
    each : callable
        Turns the config of one layer.
    old : bool
        Whether Keras 1 or 2 wrote it, for which one output and a list of one are the same.
    """
    entries = config.get("layers")
    if not isinstance(entries, list):
        raise FileFormatError("a functional model must have a list of layers")
    named = {str(entry.get("name")): entry for entry in entries if isinstance(entry, dict)}
    if len(named) != len(entries):
        raise FileFormatError("the layers of a functional model must have different names")
    operations = {name for name, entry in named.items() if _is_mask_operation(entry)}
    masks = _Masks(named, operations)
    found = []
    for name, entry in named.items():
        if name in operations:
            continue
        new = each(entry)
        new["name"] = name
        calls = [modern_node(node, entry) for node in entry.get("inbound_nodes") or []]
        new["inbound_nodes"] = [_without_masks(call, name, masks) for call in calls]
        found.append(new)
    outputs = [ref for ref in tensors_of(config.get("output_layers")) if ref[0] in operations]
    if outputs:
        raise _unsupported(named[outputs[0][0]])
    ends = {key: _ends(config.get(key), old) for key in ("input_layers", "output_layers")}
    return {"name": config.get("name"), "trainable": config.get("trainable", True), "layers": found, **ends}


class _Masks:
    """Where the masks of a graph come from."""

    def __init__(self, named: dict[str, Config], operations: set[str]) -> None:
        self.named, self.operations = named, operations
        self._before: dict[str, set[str]] = {}

    def check(self, refs: list[Ref], layer: str) -> None:
        """Raise FileFormatError unless the masks are those that fastmask computes for a layer."""
        if not refs:
            return
        upstream = self._upstream(layer)
        for source, value, reduced in self._atoms(refs):
            if not any(self._makes(name, source, value, reduced) for name in upstream):
                raise FileFormatError(
                    f"layer {layer!r} has a mask of its own, not one that Embedding(mask_zero=True) or "
                    f"Masking before it makes; {REMEDY}"
                )

    def _atoms(self, refs: list[Ref]) -> list[tuple[Ref, Any, bool]]:
        """Return the comparisons that masks are made of: tensor, value, whether features were reduced."""
        found, seen = [], set()
        todo = [(ref, False) for ref in refs]
        while todo:
            ref, reduced = todo.pop()
            if (ref, reduced) in seen:
                continue
            seen.add((ref, reduced))
            entry = self.named.get(ref[0])
            if ref[0] not in self.operations or entry is None:
                continue
            node = modern_node(entry["inbound_nodes"][0], entry)
            sources = list(tensors([node["args"], node["kwargs"]]))
            if entry["class_name"] == "NotEqual":
                numbers = [arg for arg in node["args"] if isinstance(arg, (int, float))]
                found.append((sources[0], numbers[0] if numbers else None, reduced))
            else:
                reduced = reduced or entry["class_name"] == "Any"
                todo += [(source, reduced) for source in sources]
        return found

    def _makes(self, name: str, source: Ref, value: Any, reduced: bool) -> bool:
        entry = self.named[name]
        inner = entry["config"]
        fits = (entry["class_name"] == "Embedding" and inner.get("mask_zero") and value == 0) or (
            entry["class_name"] == "Masking" and reduced and inner.get("mask_value") == value
        )
        calls = [modern_node(node, entry) for node in entry["inbound_nodes"]] if fits else []
        return any(source in tensors(call["args"]) for call in calls)

    def _upstream(self, layer: str) -> set[str]:
        """Return the names of the layers whose outputs a layer depends on, masks left aside."""
        found, todo = set(), [layer]
        while todo:
            entry = self.named.get(todo.pop())
            for node in (entry or {}).get("inbound_nodes") or []:
                call = modern_node(node, entry or {})
                kwargs = {key: value for key, value in call["kwargs"].items() if key != "mask"}
                for name, _, _ in tensors([call["args"], kwargs]):
                    if name not in found and name not in self.operations:
                        found.add(name)
                        todo.append(name)
        return found


def _is_mask_operation(entry: Config) -> bool:
    module = str(entry.get("module") or "")
    plain = not module and "trainable" not in (entry.get("config") or {})
    operation = ".ops." in f"{module}." or (plain and entry.get("class_name") not in ("InputLayer", *_RECURRENT))
    return operation and entry.get("class_name") in _MASK_OPERATIONS


def _unsupported(entry: Config) -> FileFormatError:
    return FileFormatError(
        f"fastmask has no operation {entry.get('class_name')!r} in a graph, other than on masks; {REMEDY}"
    )


def _without_masks(call: Config, layer: str, masks: _Masks) -> Config:
    """Return a call without its mask argument."""
    kwargs = dict(call["kwargs"])
    masks.check(list(tensors(kwargs.pop("mask", None))), layer)
    for name, _, _ in tensors([call["args"], kwargs]):
        if name in masks.operations:
            raise _unsupported(masks.named[name])
        if name not in masks.named:
            raise FileFormatError(f"layer {layer!r} gets the output of a layer {name!r} that is not there")
    return {"args": call["args"], "kwargs": {key: value for key, value in kwargs.items() if value is not None}}


def modern_node(node: Any, entry: Config) -> Config:
    """Return a call of a layer as ``{"args": [...], "kwargs": {...}}``."""
    if isinstance(node, dict) and isinstance(node.get("args"), list):
        kwargs = node.get("kwargs") or {}
        if not isinstance(kwargs, dict):
            raise FileFormatError("kwargs of a node must be a dict")
        # Keras 3 writes "training", but every call of the model decides it anew.
        return {"args": node["args"], "kwargs": {k: v for k, v in kwargs.items() if k != "training"}}
    if not isinstance(node, list) or not node or not all(_is_old_tensor(tensor) for tensor in node):
        raise FileFormatError(f"layer {entry.get('name')!r} has a malformed node")
    given = [_tensor(tensor) for tensor in node]
    kwargs = {}
    for tensor in node:
        kwargs |= {key: _old_argument(value) for key, value in (tensor[3] if len(tensor) > 3 else {}).items()}
    if entry.get("class_name") in _RECURRENT and len(given) > 1:
        kwargs["initial_state"] = given[1:]
        given = given[:1]
    many = len(given) > 1 or entry.get("class_name") in _LIST_INPUT
    return {"args": [given] if many else given, "kwargs": kwargs}


def _is_old_tensor(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and all(isinstance(number, int) for number in value[1:3])
        and (len(value) == 3 or isinstance(value[3], dict))
    )


def _old_argument(value: Any) -> Any:
    if _is_old_tensor(value):
        return _tensor(value)
    return [_old_argument(item) for item in value] if isinstance(value, list) else value


def _tensor(value: list[Any]) -> Config:
    return {"class_name": "__keras_tensor__", "config": {"shape": None, "dtype": None, "keras_history": value[:3]}}


def tensors(value: Any) -> Iterator[Ref]:
    """Yield where the tensors in an argument come from: layer, call, output."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        yield from tensors_of(value["config"]["keras_history"])
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)


def tensors_of(value: Any) -> Iterator[Ref]:
    """Yield the same for nested lists and dicts of places."""
    if _is_old_tensor(value):
        yield value[0], value[1], value[2]
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_of(item)


def _ends(ends: Any, old: bool) -> Any:
    """Return where the inputs or outputs of a model are."""
    if not list(tensors_of(ends)):
        raise FileFormatError("a functional model must have inputs and outputs")
    return ends[0] if old and isinstance(ends, list) and len(ends) == 1 else ends
