"""Lists, tuples and dicts of tensors, and the flat lists that they stand for."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any


def flatten(value: Any) -> list[Any]:
    """Return the leaves of nested lists, tuples and dicts; dicts in the order of their sorted keys."""
    if isinstance(value, Mapping):
        return [leaf for key in sorted(value) for leaf in flatten(value[key])]
    if isinstance(value, (list, tuple)):
        return [leaf for entry in value for leaf in flatten(entry)]
    return [value]


def pack_as(structure: Any, leaves: Iterable[Any]) -> Any:
    """Return `leaves` in the form of `structure`, of which `flatten` would give as many."""
    return _filled(structure, iter(leaves))


def map_structure(function: Callable[[Any], Any], structure: Any) -> Any:
    """Return `structure` with `function` applied to every leaf."""
    return pack_as(structure, map(function, flatten(structure)))


def _filled(structure: Any, leaves: Iterator[Any]) -> Any:
    if isinstance(structure, Mapping):
        found = {key: _filled(structure[key], leaves) for key in sorted(structure)}
        return {key: found[key] for key in structure}
    if isinstance(structure, (list, tuple)):
        return type(structure)([_filled(entry, leaves) for entry in structure])
    return next(leaves)
