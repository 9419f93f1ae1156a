"""Calls in the configs of graphs: old forms made new, and where tensors come from."""

from collections.abc import Iterator
from typing import Any

from fastmask.core.errors import FileFormatError

Config = dict[str, Any]
Ref = tuple[str, int, int]

MODELS = ("Sequential", "Functional", "Model")
RECURRENT = ("SimpleRNN", "LSTM", "GRU", "Bidirectional")
MERGING = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")
_WITH_STATES = (*RECURRENT, "CuDNNLSTM", "CuDNNGRU")
_LIST_INPUT = (*MERGING, "Concatenate", "Dot", "Attention")


def calls_of(entry: Config) -> list[Config]:
    """Return the calls of a layer, each as `modern_node` does."""
    return [modern_node(node, entry) for node in entry.get("inbound_nodes") or []]


def tensor(layer: str, call: int = 0, output: int = 0, shape: Any = None, dtype: str | None = None) -> Config:
    """Return an output of a layer's call as Keras writes it where it is used."""
    return {
        "class_name": "__keras_tensor__",
        "config": {"shape": shape, "dtype": dtype, "keras_history": [layer, call, output]},
    }


def modern_node(node: Any, entry: Config) -> Config:
    """Return a call of a layer as ``{"args": [...], "kwargs": {...}}``."""
    if isinstance(node, dict) and isinstance(node.get("args"), list):
        kwargs = node.get("kwargs") or {}
        if not isinstance(kwargs, dict):
            raise FileFormatError(f"kwargs of a node: expected a dict, got {str(kwargs)[:80]}")
        # Keras 3 writes "training", but every call of the model decides it anew.
        return {"args": node["args"], "kwargs": {k: v for k, v in kwargs.items() if k != "training"}}
    if not isinstance(node, list) or not node or not all(map(_is_old_tensor, node)):
        raise FileFormatError(f"layer {entry.get('name')!r} has a malformed node")
    given = [tensor(*place[:3]) for place in node]
    kwargs = {}
    for place in node:
        kwargs |= {key: _old_argument(value) for key, value in (place[3] if len(place) > 3 else {}).items()}
    if entry.get("class_name") in _WITH_STATES and len(given) > 1:
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
        return tensor(*value[:3])
    return [_old_argument(item) for item in value] if isinstance(value, list) else value


def tensors(value: Any) -> Iterator[Ref]:
    """Yield where the tensors in an argument come from: layer, call, output; those in a dict by its sorted keys."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        yield from tensors_of(value["config"]["keras_history"])
    elif isinstance(value, dict):
        for _, item in sorted(value.items(), key=_key):
            yield from tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)


def tensors_of(value: Any) -> Iterator[Ref]:
    """Yield where tensors come from, for nested lists and dicts of such places."""
    if _is_old_tensor(value):
        yield value[0], value[1], value[2]
    elif isinstance(value, (list, tuple, dict)):
        for item in [item for _, item in sorted(value.items(), key=_key)] if isinstance(value, dict) else value:
            yield from tensors_of(item)


def _key(item: tuple[Any, Any]) -> Any:
    return item[0]
