"""Operations on masks: layers here, nodes of their own kind in Keras's graphs."""

from collections.abc import Iterable
from typing import Any

from fastmask.core.objects import written

Config = dict[str, Any]

_MODULE = "keras.src.ops.numpy"
_LAST_AXIS = {"axis": -1, "keepdims": False}


def operation(class_name: str, name: str, args: Iterable[Any], **config: Any) -> Config:
    """Return the config of an operation and its one call, as Keras writes it."""
    nodes = [{"args": list(args), "kwargs": {}}]
    return written(_MODULE, class_name, {"name": name, **config}, class_name, name=name, inbound_nodes=nodes)


def as_operation(entry: Config) -> Config:
    """Return the config of a layer that is an operation on masks in the form of Keras."""
    class_name, name, inner = entry["class_name"], entry["config"]["name"], entry["config"]
    calls = [node["args"] for node in entry["inbound_nodes"]]
    if class_name == "NotEqual":
        calls = [[*args, inner["value"]] for args in calls]
    config = _LAST_AXIS if class_name == "AnyFeature" else {}
    calls = [args[0] if isinstance(args[0], list) else args for args in calls]
    found = operation("Any" if class_name == "AnyFeature" else class_name, name, (), **config)
    return found | {"inbound_nodes": [{"args": args, "kwargs": {}} for args in calls]}


def as_layer(entry: Config, calls: list[list[Any]]) -> Config | None:
    """Return the config of an operation and its calls as that of a layer; None if there is no such layer."""
    class_name, inner = entry["class_name"], entry.get("config") or {}
    config: Config = {"name": entry["name"]}
    if class_name == "NotEqual" and all(len(args) == 2 and isinstance(args[1], (int, float)) for args in calls):
        config |= {"value": calls[0][1]}
        if any(args[1] != calls[0][1] for args in calls):
            return None
        calls = [args[:1] for args in calls]
    elif class_name == "Any" and all(inner.get(key, value) == value for key, value in _LAST_AXIS.items()):
        class_name = "AnyFeature"
    elif class_name in ("LogicalAnd", "LogicalOr"):
        calls = [[args] for args in calls]
    elif class_name != "LogicalNot":
        return None
    nodes = [{"args": args, "kwargs": {}} for args in calls]
    return {"class_name": class_name, "config": config, "name": entry["name"], "inbound_nodes": nodes}
