"""Losses, metrics, optimizers and schedules to configs and back, in the form that Keras writes; what is not there."""

from collections.abc import Iterable, Mapping
from typing import Any

from fastmask.core.errors import REMEDY


def missing(module: str, name: str) -> AttributeError:
    """Return the error of a name that a module has not; for the name of a class, with a way out."""
    hint = f"; {REMEDY}" if name[:1].isupper() else ""
    return AttributeError(f"module {module!r} has no attribute {name!r}{hint}", name=name)


def serialize(thing: Any, module: str) -> dict[str, Any]:
    """Return the class name and config of an object; `module` is where Keras has its class."""
    return {
        "module": module,
        "class_name": type(thing).__name__,
        "config": thing.get_config(),
        "registered_name": None,
    }


def make(identifier: str | Mapping[str, Any], names: Mapping[str, Any], legal: Iterable[str], kind: str) -> Any:
    """Return a new object of the class that a name, or a config as `serialize` returns it, names.

    `names` holds the classes under all their names, `legal` the names that the ValueError for another one lists, and
    `kind` says there what the object is.
    """
    name = identifier if isinstance(identifier, str) else identifier["class_name"]
    if name not in names:
        raise ValueError(f"{kind} must be one of {sorted(legal)}, got {name!r}")
    if isinstance(identifier, str):
        return names[name]()
    return names[name].from_config(identifier.get("config") or {})


def deserialize(
    config: Mapping[str, Any],
    classes: Mapping[str, Any],
    custom_objects: Mapping[str, Any] | None,
    kind: str,
) -> Any:
    """Return an object from what `serialize` returned.

    Parameters
    ----------
    config : dict
        With an entry "class_name" and, unless it names a function, "config".
    classes : mapping of str to class
        Those of fastmask.
    custom_objects : mapping of str to class or function, optional
        Those of the user; they come first.
    kind : str
        What the object is, for errors.

    Raises
    ------
    ValueError
        If there is no class of that name; the message lists the known ones.
    """
    name = config.get("class_name")
    own = custom_objects or {}
    if name == "function" and config.get("config") in own:
        return own[config["config"]]
    found = own.get(str(config.get("registered_name")), own.get(str(name), classes.get(str(name))))
    if found is None:
        raise ValueError(f"{kind} must be one of {', '.join(sorted(classes))}, got {name!r}")
    arguments = dict(config.get("config") or {})
    return found.from_config(arguments) if hasattr(found, "from_config") else found(**arguments)
