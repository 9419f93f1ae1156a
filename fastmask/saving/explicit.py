"""Masks in the graphs of files: which ones layers compute by themselves, and which ones were passed to calls.

Keras 3 writes the computation of every mask into the graph, as operations that feed the ``mask``
arguments of layers. fastmask computes masks again, so these operations go where they say what layers
before them would; the others stay, as layers.
"""

from contextlib import suppress
from functools import reduce
from typing import Any

from fastmask import layers
from fastmask.core import budget
from fastmask.core.errors import REMEDY, FileFormatError
from fastmask.saving.nodes import MERGING, RECURRENT, Config, Ref, calls_of, modern_node, tensors
from fastmask.saving.operations import as_layer

_OPERATIONS = (
    "NotEqual", "LogicalOr", "LogicalAnd", "LogicalNot", "Concatenate", "ExpandDims", "ZerosLike", "OnesLike", "Any",
    "All", "BroadcastTo", "ConvertToTensor",
)  # fmt: skip
_WITHIN = "within steps"
_UNKNOWN = object()
_SAME = ("ConvertToTensor", "BroadcastTo", "ExpandDims")
_ENDING = ("Dot", "DropMask", "GlobalAveragePooling1D", "GlobalMaxPooling1D")
_PASSING = (
    "Dense", "Activation", "Dropout", "SpatialDropout1D", "LayerNormalization", "BatchNormalization", "TimeDistributed",
    "Identity", "Attention", *RECURRENT,
)  # fmt: skip


_PAIR_BYTES = 256  # what it takes to remember that two masks were compared


class UnknownMaskError(Exception):
    """What a layer does to masks cannot be told from its config."""


class _Form:
    """What stands for an operation on its parts, which are other forms, tensors, numbers and names."""

    __slots__ = ("parts",)

    def __init__(self, parts: tuple[Any, ...]) -> None:
        self.parts = parts


class Masks:
    """Where the masks of a graph come from.

    Parameters
    ----------
    named : dict of str to dict
        Configs of layers and operations.
    operations : set of str
        Names of the operations on masks.

    Attributes
    ----------
    needed : dict of str to dict
        The operations that explicit masks are made of, as configs of layers.
    """

    def __init__(self, named: dict[str, Config], operations: set[str]) -> None:
        self.named, self.operations = named, operations
        self.needed: dict[str, Config] = {}
        self._known: dict[Ref, Any] = {}
        self._read: dict[Ref, Any] = {}
        self._forms: dict[tuple[Any, ...], _Form] = {}
        self._compared: dict[tuple[Any, _Form], bool] = {}

    def _form(self, *parts: Any) -> _Form:
        """Return what stands for an operation on its parts, one for all that are equal.

        Written out in full, a graph in which masks are used twice would grow without bounds.
        """
        return self._forms.setdefault(parts, _Form(parts))

    def explicit(self, given: Any, args: Any, layer: str) -> Any:
        """Return a mask argument as it is, or None if fastmask computes all its masks by itself."""
        entries = list(given) if isinstance(given, (list, tuple)) else [given]
        sources = list(tensors(args))
        masks = [next(tensors(entry), None) for entry in entries]
        if len(sources) != len(entries):
            sources = sources[:1] * len(entries)
        pairs = zip(masks, sources, strict=True)
        if all(mask is None or self._computed(mask, source, layer) for mask, source in pairs):
            return None
        for mask in masks:
            if mask is not None:
                self._need(mask[0], layer)
        return given

    def _computed(self, mask: Ref, source: Ref, layer: str) -> bool:
        """Return whether a mask is what fastmask has at `source`."""
        try:
            return self._same(self._stated(mask), self.derived(source))
        except UnknownMaskError:
            return self._made_upstream(mask, layer)

    def _need(self, name: str, layer: str) -> None:
        """Keep an operation, and those before it, as layers."""
        todo = [name]
        while todo:
            name = todo.pop()
            if name not in self.operations or name in self.needed:
                continue
            entry = self.named[name]
            calls = [call["args"] for call in calls_of(entry)]
            found = as_layer(entry, calls)
            if found is None:
                raise FileFormatError(
                    f"layer {layer!r} has a mask of its own, and fastmask has not the operation "
                    f"{entry['class_name']!r} with the arguments that make it; {REMEDY}"
                )
            self.needed[name] = found
            todo += [source for source, _, _ in tensors(calls)][::-1]

    def read(self, name: str) -> None:
        """Learn what the calls of a layer or an operation do to masks.

        That is found by recursion, which stays shallow if each is asked after those that it takes.
        """
        ask = self._stated if name in self.operations else self.derived
        for number in range(len(self.named[name].get("inbound_nodes") or ())):
            with suppress(UnknownMaskError):
                ask((name, number, 0))

    def _stated(self, ref: Ref) -> Any:
        """Return what a mask of the file is made of."""
        if ref not in self._read:
            self._read[ref] = self._form_of(ref) if ref[0] in self.operations else ref
        return self._read[ref]

    def _form_of(self, ref: Ref) -> Any:
        entry = self.named[ref[0]]
        name, (sources, number) = entry["class_name"], _operands(entry)
        if name == "NotEqual" and number is not None:
            return self._form(name, sources[0], number)
        if name == "OnesLike":
            return None
        parts = [self._stated(source) for source in sources if not self._is(source, "ZerosLike")]
        if name == "Concatenate":
            return self._form(name, entry["config"].get("axis"), *parts)
        merged = name == "Any" and self._is(sources[0], "Concatenate")
        if merged or name in _SAME or (name == "LogicalOr" and len(parts) == 1):
            return parts[0]
        return self._form(name, *parts)

    def _is(self, ref: Ref, operation: str) -> bool:
        return ref[0] in self.operations and self.named[ref[0]]["class_name"] == operation

    def derived(self, ref: Ref) -> Any:
        """Return what the mask is made of that fastmask has at the output of a layer; None if it has none."""
        if ref not in self._known:
            try:
                self._known[ref] = self._mask_of(ref)
            except UnknownMaskError:
                self._known[ref] = _UNKNOWN
        if self._known[ref] is _UNKNOWN:
            raise UnknownMaskError
        return self._known[ref]

    def _mask_of(self, ref: Ref) -> Any:
        entry = self.named[ref[0]]
        (name, config), nodes = _maker(entry), entry.get("inbound_nodes") or []
        if name == "InputLayer" or name in _ENDING:
            return None
        if ref[1] >= len(nodes):
            raise UnknownMaskError
        call = modern_node(nodes[ref[1]], entry)
        sources = list(tensors(call["args"]))
        if name == "Embedding" and config.get("mask_zero"):
            return self._form("NotEqual", sources[0], 0)
        if name == "Masking":
            return self._form("Any", self._form("NotEqual", sources[0], config.get("mask_value")))
        if name in ("Embedding", *_PASSING, *MERGING, "Concatenate"):
            return self._passed(name, config, sources, self._given(call["kwargs"].get("mask"), sources))
        if name in layers.__all__ and not getattr(layers, name).supports_masking:
            return None
        raise UnknownMaskError

    def _given(self, mask: Any, sources: list[Ref]) -> list[Any]:
        """Return the masks that a call gets: those that were passed, else those of its inputs."""
        entries = list(mask) if isinstance(mask, (list, tuple)) else [mask] * len(sources)
        refs = [next(tensors(entry), None) for entry in entries]
        pairs = zip(refs, sources, strict=True)
        return [self._counting(own, source) for own, source in pairs]

    def _counting(self, mask: Ref | None, source: Ref) -> Any:
        """Return the mask that counts at an input: the one passed, unless fastmask has the same at `source`."""
        derived = self.derived(source)
        stated = derived if mask is None else self._stated(mask)
        return derived if self._same(stated, derived) else stated

    def _same(self, stated: Any, derived: Any) -> bool:
        """Return whether a mask of the file is the one that fastmask has.

        Behind a `TimeDistributed` that is the mask before it, as far as the output has its axes, or as Keras has it,
        which passes on all of them.
        """
        if stated is derived or not isinstance(derived, _Form):
            return bool(stated == derived)
        pair = stated, derived
        if pair not in self._compared:
            budget.take(_PAIR_BYTES, "the masks")
            self._compared[pair] = self._fits(*pair)
        return self._compared[pair]

    def _fits(self, stated: Any, derived: _Form) -> bool:
        """Return whether a mask of the file is the one that fastmask has, judging by what both are made of."""
        parts = stated.parts if isinstance(stated, _Form) else ()
        if derived.parts[0] == _WITHIN:
            return self._same(stated, derived.parts[1]) or (parts[:1] == ("Any",) and self._same(parts[1], derived))
        return len(parts) == len(derived.parts) and all(map(self._same, parts, derived.parts))

    def _passed(self, name: str, config: Config, sources: list[Ref], masks: list[Any]) -> Any:
        """Return the mask of a layer's output, given those of its inputs."""
        if name == "TimeDistributed":
            known = masks[0] is None or (isinstance(masks[0], _Form) and masks[0].parts[0] == _WITHIN)
            return masks[0] if known else self._form(_WITHIN, masks[0])
        if name in _PASSING or name == "Embedding":
            inner = config.get("layer") or {}
            sequences = inner.get("config", {}).get("return_sequences") if inner else config.get("return_sequences")
            return masks[0] if name not in RECURRENT or sequences else None
        present, mode = [mask for mask in masks if mask is not None], config.get("mask_mode", "or")
        if not present or mode == "drop" or (name != "Concatenate" and mode == "or" and len(present) < len(masks)):
            return None
        in_time = name == "Concatenate" and config.get("axis") == 1
        every = mode == "and" and not in_time and any(mask != masks[0] for mask in masks)
        if name == "Concatenate":
            joined = self._form(name, config.get("axis"), *masks)
            return self._form("All", joined) if every else joined
        return reduce(lambda found, mask: self._form("LogicalAnd" if every else "LogicalOr", found, mask), present)

    def _made_upstream(self, mask: Ref, layer: str) -> bool:
        """Return whether a mask joins only comparisons that an `Embedding` or `Masking` before a layer makes."""
        upstream = self._upstream(layer)
        atoms = self._atoms(mask)
        return bool(atoms) and all(any(self._makes(name, *atom) for name in upstream) for atom in atoms)

    def _atoms(self, mask: Ref) -> list[tuple[Ref, Any, bool]]:
        """Return the comparisons that a mask is made of: tensor, value, whether features were reduced."""
        found, seen = [], set()
        todo = [(mask, False)]
        while todo:
            ref, reduced = todo.pop()
            if (ref, reduced) in seen or ref[0] not in self.operations:
                continue
            seen.add((ref, reduced))
            entry = self.named[ref[0]]
            sources, number = _operands(entry)
            if entry["class_name"] == "NotEqual":
                found.append((sources[0], number, reduced))
            else:
                todo += [(source, reduced or entry["class_name"] == "Any") for source in sources]
        return found

    def _makes(self, name: str, source: Ref, value: Any, reduced: bool) -> bool:
        entry = self.named[name]
        maker, inner = _maker(entry)
        fits = (maker == "Embedding" and inner.get("mask_zero") and value == 0) or (
            maker == "Masking" and reduced and inner.get("mask_value") == value
        )
        return bool(fits) and any(source in tensors(call["args"]) for call in calls_of(entry))

    def _upstream(self, layer: str) -> set[str]:
        """Return the names of the layers whose outputs a layer depends on, masks left aside."""
        found, todo = set(), [layer]
        while todo:
            for call in calls_of(self.named.get(todo.pop(), {})):
                kwargs = {key: value for key, value in call["kwargs"].items() if key != "mask"}
                for name, _, _ in tensors([call["args"], kwargs]):
                    if name not in found and name not in self.operations:
                        found.add(name)
                        todo.append(name)
        return found


def _operands(entry: Config) -> tuple[list[Ref], Any]:
    """Return the tensors that the one call of an operation takes, and the first number, None if there is none."""
    call = modern_node(entry["inbound_nodes"][0], entry)
    numbers = (arg for arg in call["args"] if isinstance(arg, (int, float)))
    return list(tensors([call["args"], call["kwargs"]])), next(numbers, None)


def _maker(entry: Config) -> tuple[str, Config]:
    """Return the class and the config of a layer, or of that within a `TimeDistributed` that makes a mask."""
    name, config = entry["class_name"], entry["config"]
    inner, within = name, config
    while inner == "TimeDistributed":
        inner, within = within["layer"]["class_name"], within["layer"]["config"]
    makes = inner == "Masking" or (inner == "Embedding" and within.get("mask_zero"))
    return (inner, within) if makes else (name, config)


def is_mask_operation(entry: Config) -> bool:
    """Return whether a config is that of an operation that masks are made of, not that of a layer."""
    module = str(entry.get("module") or "")
    plain = not module and "trainable" not in (entry.get("config") or {})
    operation = ".ops." in f"{module}." or (plain and entry.get("class_name") not in ("InputLayer", *RECURRENT))
    return operation and entry.get("class_name") in _OPERATIONS
