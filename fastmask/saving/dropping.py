"""Layers that let masks go: where a file has one on a masked sequence, a `DropMask` comes before it."""

from collections.abc import Collection, Sequence

from fastmask.core.errors import REMEDY, FileFormatError
from fastmask.saving import versions
from fastmask.saving.explicit import Masks, UnknownMaskError
from fastmask.saving.nodes import Config, Ref, tensors


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
        # Asked for each layer in turn, so that none is far from those whose masks are known.
        known = [ref is not None and _may_be_masked(masks, ref) for ref in first]
        masked = any(known)
        if masked and entry["class_name"] in refused:
            raise FileFormatError(
                f"the query of layer {entry['name']!r}: expected no mask, got one, which Keras 3.0 to 3.3 used and "
                f"then let go, as fastmask's Attention does not; {REMEDY}"
            )
        if masked and entry["class_name"] in unmasking:
            found.append(_drop_mask(entry, named))
            calls = enumerate(entry["inbound_nodes"])
            nodes = [call | {"args": [_tensor(found[-1]["name"], i)]} for i, call in calls]
            entry = entry | {"inbound_nodes": nodes}
        found.append(entry)
    return found


def in_stack(entries: Sequence[Config], version: str) -> list[Config]:
    """Return the same for the configs of a Sequential's layers."""
    chain, before = [], list[Config]()
    for number, entry in enumerate(entries):
        chain.append(entry | {"name": str(number), "inbound_nodes": before})
        before = [{"args": [_tensor(str(number), 0)], "kwargs": {}}]
    return [_without_place(entry) for entry in in_graph(chain, version)]


def _without_place(entry: Config) -> Config:
    return {key: value for key, value in entry.items() if key not in ("name", "inbound_nodes")}


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
    found = {"module": "keras.layers", "class_name": "DropMask", "config": config, "registered_name": None}
    return found | {"name": name, "inbound_nodes": entry["inbound_nodes"]}


def _tensor(name: str, call: int) -> Config:
    config = {"shape": None, "dtype": None, "keras_history": [name, call, 0]}
    return {"class_name": "__keras_tensor__", "config": config}
