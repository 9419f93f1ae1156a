"""Layers that let masks go: where a file has one on a masked sequence, a `DropMask` comes before it."""

from collections.abc import Collection, Sequence

from fastmask.core.errors import REMEDY, FileFormatError
from fastmask.core.objects import written
from fastmask.saving import versions
from fastmask.saving.explicit import Masks, UnknownMaskError
from fastmask.saving.nodes import Config, Ref, tensor, tensors


def in_graph(entries: Sequence[Config], version: str) -> list[Config]:
    """Return the configs of a graph's layers with those that drop masks where the Keras that wrote it did.

    Raises
    ------
    FileFormatError
        If it let the mask of a query go behind an `Attention`.
    """
    unmasking = versions.unmasking(version)
    refused = ("Attention",) if versions.mask_mode(version) == "drop" else ()
    if not unmasking and not refused:
        return list(entries)
    named = {entry["name"]: entry for entry in entries}
    masks, found = Masks(named, set()), list[Config]()
    for entry in entries:
        first = [next(tensors(call["args"]), None) for call in entry["inbound_nodes"]]
        # Masks are derived by recursion, which stays shallow if each layer is asked in turn.
        known = [ref is not None and _may_be_masked(masks, ref) for ref in first]
        masked = any(known)
        if masked and entry["class_name"] in refused:
            raise FileFormatError(
                f"the query of layer {entry['name']!r}: expected no mask, got one, which Keras 3.0 to 3.3 used and "
                f"then let go, as fastmask's Attention does not; {REMEDY}"
            )
        if masked and entry["class_name"] in unmasking:
            found.append(_drop_mask(entry, named))
            name, calls = found[-1]["name"], enumerate(entry["inbound_nodes"])
            entry = entry | {"inbound_nodes": [call | {"args": [tensor(name, i)]} for i, call in calls]}
        found.append(entry)
    return found


def in_stack(entries: Sequence[Config], version: str) -> list[Config]:
    """Return the configs of a Sequential's layers, with masks dropped as `in_graph` does."""
    chain, before = [], list[Config]()
    for number, entry in enumerate(entries):
        chain.append(entry | {"name": str(number), "inbound_nodes": before})
        before = [{"args": [tensor(str(number))], "kwargs": {}}]
    place = ("name", "inbound_nodes")
    return [{key: value for key, value in entry.items() if key not in place} for entry in in_graph(chain, version)]


def _may_be_masked(masks: Masks, ref: Ref) -> bool:
    """Return whether a tensor carries a mask, or one of a model within the model, of which that is not known."""
    try:
        return masks.derived(ref) is not None
    except UnknownMaskError:
        return True


def _drop_mask(entry: Config, taken: Collection[str]) -> Config:
    """Return the config of a `DropMask` with the calls of a layer that it comes before."""
    inner = entry["config"]
    name = f"{inner.get('name', entry['name'])}_drop_mask"
    while name in taken:
        name += "_"
    config = {"name": name} | {key: value for key, value in inner.items() if key == "dtype"}
    return written("keras.layers", "DropMask", config, name=name, inbound_nodes=entry["inbound_nodes"])
