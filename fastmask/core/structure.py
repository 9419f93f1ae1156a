"""Lists, tuples and dicts of things, nested as people like, and the flat lists that they stand for.

The order is that of Keras: entries of a dict come by its sorted keys, those of an `OrderedDict` as they stand.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

_NESTED = (list, tuple, dict, Mapping)


def flatten(value: Any) -> list[Any]:
    """Return the leaves of nested lists, tuples and dicts."""
    if not isinstance(value, _NESTED):
        return [value]
    return [leaf for entry in _entries(value) for leaf in (flatten(entry) if isinstance(entry, _NESTED) else [entry])]


def pack_as(structure: Any, leaves: Iterable[Any]) -> Any:
    """Return `leaves` in the form of `structure`, of which `flatten` would give as many."""
    return _filled(structure, iter(leaves))


def map_structure(function: Callable[[Any], Any], structure: Any) -> Any:
    """Return `structure` with `function` applied to every leaf."""
    return pack_as(structure, map(function, flatten(structure)))


def paths(structure: Any) -> list[tuple[Any, ...]]:
    """Return the keys and numbers that lead to each leaf."""
    if not isinstance(structure, _NESTED):
        return [()]
    keys = _keys(structure) if isinstance(structure, Mapping) else range(len(structure))
    return [(key, *rest) for key in keys for rest in paths(structure[key])]


def aligned(argument: str, values: Any, names: Any, required: bool = False) -> list[Any]:
    """Return the entry of an argument for each name in a structure of names, None where there is none.

    Parameters
    ----------
    argument : str
    values : any
        Entries in the form of `names`, in a list, or in a dict by name; for a single name its entry is enough.
        Lists and tuples are the same.
    names : str, or nested list, tuple or dict of str
    required : bool, default False
        Whether there must be an entry for each name. Then others may be there as well.

    Raises
    ------
    ValueError
        If `values` has another form.
    """
    flat = flatten(names)
    if isinstance(values, Mapping):
        found = _under(names, values, required) if isinstance(names, Mapping) else None
        if found is None and _covers(values, flat, required):
            found = [values.get(name) for name in flat]
    elif len(flat) == 1:
        found = [values]
    else:
        found = _under(names, values, required)
        if found is None and isinstance(values, (list, tuple)) and len(values) == len(flat):
            found = list(values)
    if found is None or (required and any(entry is None for entry in found)):
        form = f"an entry for each of {', '.join(flat)}, in the form {names!r}, in a list or in a dict by name"
        form = form if len(flat) > 1 else f"an entry for {flat[0]}"
        raise ValueError(f"{argument}: expected {form}, got {_described(values)}")
    return found


def _under(names: Any, values: Any, spare: bool) -> list[Any] | None:
    """Return what a structure has where one of names has its leaves; None if it has another form."""
    if not isinstance(names, _NESTED):
        return [values]
    if values is None:
        return [None] * len(flatten(names))
    if isinstance(names, Mapping):
        fits = isinstance(values, Mapping) and _covers(values, names, spare)
        pairs = [(names[key], values.get(key)) for key in _keys(names)] if fits else []
    else:
        fits = isinstance(values, (list, tuple)) and len(values) == len(names)
        pairs = list(zip(names, values, strict=True)) if fits else []
    found = [[entry] if isinstance(own, str) else _under(own, entry, spare) for own, entry in pairs]
    if not fits or any(entries is None for entries in found):
        return None
    return [entry for entries in found for entry in entries or ()]


def _covers(values: Mapping[Any, Any], names: Collection[Any], spare: bool) -> bool:
    """Return whether the keys are all among `names`; all of these and maybe others if `spare`."""
    return {*names} <= values.keys() if spare else values.keys() <= {*names}


def _described(values: Any) -> str:
    if isinstance(values, Mapping):
        return f"the keys {', '.join(map(str, values))}" if values else "none"
    return f"{len(values)} entries" if isinstance(values, (list, tuple)) else type(values).__name__


def _keys(mapping: Mapping[Any, Any]) -> list[Any]:
    return list(mapping) if isinstance(mapping, OrderedDict) else sorted(mapping)


def _entries(structure: Any) -> list[Any]:
    return [structure[key] for key in _keys(structure)] if isinstance(structure, Mapping) else list(structure)


def _filled(structure: Any, leaves: Iterator[Any]) -> Any:
    if not isinstance(structure, _NESTED):
        return next(leaves)
    found = [_filled(entry, leaves) for entry in _entries(structure)]
    if isinstance(structure, Mapping):
        known = dict(zip(_keys(structure), found, strict=True))
        ordered = ((key, known[key]) for key in structure)
        return OrderedDict(ordered) if isinstance(structure, OrderedDict) else dict(ordered)
    kind = type(structure)
    return kind(*found) if hasattr(kind, "_fields") else kind(found)
