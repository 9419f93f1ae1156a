"""Graphs of functional models in the form that fastmask builds: masks that layers compute by themselves taken out."""

from collections.abc import Callable
from typing import Any

from fastmask.core.errors import REMEDY, FileFormatError
from fastmask.saving import dropping
from fastmask.saving.explicit import Masks, is_mask_operation
from fastmask.saving.nodes import MODELS, Config, calls_of, tensors, tensors_of


def functional(config: Config, each: Callable[[Any], Config], version: str) -> Config:
    """Return the config of a functional model in Keras 3's form, with no more operations on masks than it needs.

    Parameters
    ----------
    config : dict
        With "layers", "input_layers" and "output_layers".
    each : callable
        Turns the config of one layer.
    version : str
        Of the Keras that wrote it. For Keras 1 and 2 one output and a list of one are the same.
    """
    old = not version.startswith("3")
    entries = config.get("layers")
    if not isinstance(entries, list):
        raise FileFormatError(f"a functional model: expected a list of layers, got {str(entries)[:80]}")
    named = {str(entry.get("name")): entry for entry in entries if isinstance(entry, dict)}
    if len(named) != len(entries):
        raise FileFormatError("a functional model: expected layers of different names, got a name twice")
    operations = {name for name, entry in named.items() if is_mask_operation(entry)}
    masks = Masks(named, operations)
    counted = _counted_from_making(named, config.get("output_layers")) if old else set()
    found = []
    for name, entry in named.items():
        if name not in operations:
            new = each(entry)
            new["name"] = name
            new["inbound_nodes"] = [_call(_recounted(call, counted), name, masks) for call in calls_of(entry)]
            found.append(new)
        masks.read(name)
    outputs = [ref for ref in tensors_of(config.get("output_layers")) if ref[0] in operations]
    if outputs:
        raise _unsupported(named[outputs[0][0]])
    ends = {key: _ends(config.get(key), old) for key in ("input_layers", "output_layers")}
    stacks = {name for name in counted if named[name]["class_name"] == "Sequential"}
    ends["output_layers"] = _recounted(ends["output_layers"], stacks)
    found = [*dropping.in_graph(found, version), *masks.needed.values()]
    return {"name": config.get("name"), "trainable": config.get("trainable", True), "layers": found, **ends}


def _counted_from_making(named: dict[str, Config], outputs: Any) -> set[str]:
    """Return the models in a graph of Keras 2 whose first call has number 1: their making had number 0."""
    models = {name for name, entry in named.items() if entry.get("class_name") in MODELS}
    refs = list(tensors_of(outputs))
    for entry in named.values() if models else ():
        refs += tensors([[call["args"], call["kwargs"]] for call in calls_of(entry)])
    return {name for name, call, _ in refs if name in models and call >= len(named[name].get("inbound_nodes") or [])}


def _recounted(value: Any, counted: set[str]) -> Any:
    """Return calls or places of tensors with calls of the models `counted` numbered from 0."""
    if isinstance(value, dict):
        return {key: _recounted(entry, counted) for key, entry in value.items()}
    if not isinstance(value, list):
        return value
    if len(value) == 3 and isinstance(value[0], str) and value[0] in counted:
        return [value[0], value[1] - 1, value[2]]
    return [_recounted(entry, counted) for entry in value]


def _call(call: Config, layer: str, masks: Masks) -> Config:
    """Return a call without a mask argument that says what fastmask knows by itself."""
    kwargs = {key: value for key, value in call["kwargs"].items() if value is not None}
    given = kwargs.pop("mask", None)
    for name, _, _ in tensors([call["args"], kwargs, given]):
        if name not in masks.named:
            raise FileFormatError(f"layer {layer!r} gets the output of a layer {name!r} that is not there")
    for name, _, _ in tensors([call["args"], kwargs]):
        if name in masks.operations:
            raise _unsupported(masks.named[name])
    explicit = masks.explicit(given, call["args"], layer)
    return {"args": call["args"], "kwargs": kwargs if explicit is None else kwargs | {"mask": explicit}}


def _unsupported(entry: Config) -> FileFormatError:
    return FileFormatError(
        f"fastmask has no operation {entry.get('class_name')!r} in a graph, other than on masks; {REMEDY}"
    )


def _ends(ends: Any, old: bool) -> Any:
    """Return where the inputs or outputs of a model are."""
    if not list(tensors_of(ends)):
        raise FileFormatError(f"a functional model: expected inputs and outputs, got {str(ends)[:80]}")
    return ends[0] if old and isinstance(ends, list) and len(ends) == 1 else ends
