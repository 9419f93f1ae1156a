"""What a forward does with tensors besides calling modules, as layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch.fx import Node

from fastmask import layers
from fastmask.convert.torch import modules
from fastmask.convert.torch.values import (
    Argument,
    Final,
    Mapped,
    NoCounterpartError,
    Output,
    Pair,
    Stack,
    Unknown,
    Value,
    Zeros,
)

Options = Mapping[str, Any]

_PASSED_ON = {"contiguous", "clone", "detach", "cpu"}
_CASTS = {"to", "long", "int"}
_ZEROS = {"zeros", "zeros_like", "new_zeros"}
_MERGES = {"add": layers.Add, "iadd": layers.Add, "mul": layers.Multiply, "imul": layers.Multiply}
_IN_PLACE = {"iadd", "imul", "isub", "itruediv"}
_TENSORS = (Value, Argument, Output, Mapped, Final)
_WHOLE = slice(None)
_REDUCTION, _DIMS = ("dim", "keepdim"), ("dims", "dim1", "dim2")


class Operations:
    """Base of what turns a forward into layers.

    Parameters
    ----------
    dtype : str
        Of all layers.

    Attributes
    ----------
    packs : bool
        Whether the forward packs sequences.
    """

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.packs = False
        self._used: dict[Any, Value] = {}

    def argument(self, node: Node) -> Value:
        """Return the input that an argument of the forward becomes."""
        raise NotImplementedError

    def name_for(self, node: Node) -> str:
        """Return a name for a layer that is no module's."""
        raise NotImplementedError

    def use(self, value: Any, what: str) -> Value:
        """Return the tensor of a value for what takes it; NoCounterpartError if there is none."""
        if isinstance(value, Pair):
            value = value[0]
        if isinstance(value, Argument):
            return self.argument(value.node)
        if not isinstance(value, (Value, Output, Mapped, Final)):
            found = value.what if isinstance(value, Unknown) else type(value).__name__
            raise NoCounterpartError(f"{what}: expected a tensor that layers of fastmask give, got {found}")
        if isinstance(value, Value):
            return value
        if value not in self._used:
            self._used[value] = self._made(value, what)
        return self._used[value]

    def _made(self, value: Output | Mapped | Final, what: str) -> Value:
        if isinstance(value, Output):
            return Value(value.of.take("sequence"), value.of.layout)
        if isinstance(value, Final):
            return Value(value.of.take(value.kind, value.place))
        inner = self.use(value.of, what)
        return Value(value.layer(inner.tensor), inner.layout)

    def axes(self, value: Any, what: str) -> int:
        """Return the number of axes of a value."""
        if isinstance(value, Mapped):
            return self.axes(value.of, what)
        return 3 if isinstance(value, Output) else 2 if isinstance(value, Final) else self.use(value, what).tensor.ndim

    def activation(self, node: Node, axes: int) -> str | None:
        """Return the name of the activation that a node applies to a value of so many axes, None if it is another."""
        if node.op not in ("call_function", "call_method"):
            return None
        given = {"dim": node.args[1]} if len(node.args) > 1 else {}
        positional = len(node.args) == 1 or name_of(node) == "softmax"
        return modules.activation(name_of(node), given | dict(node.kwargs), axes) if positional else None

    def operation(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the result of a function or method; Unknown if it has no counterpart."""
        name, what = name_of(node), f"{name_of(node)} ({node.name})"
        if name in _ZEROS:
            return Zeros()
        if name in _PASSED_ON or (name in _CASTS and isinstance(args[0], (Argument, Zeros))):
            return args[0]
        names = _HANDLERS[name][1] if name in _HANDLERS else ()
        options = dict(zip(names, args[1:], strict=False)) | {"dim" if k == "axis" else k: v for k, v in kwargs.items()}
        if name in _HANDLERS and len(args) <= 1 + len(names) and options.keys() <= set(names):
            return self.handled(name, what, args[0], options)
        found = None
        if modules.is_activation(name) and isinstance(args[0], _TENSORS):
            activation = self.activation(node, self.axes(args[0], what))
            if activation is not None:
                layer = layers.Activation(activation, name=self.name_for(node), dtype=self.dtype)
                found = self.through(layer, args[0], what)
        return Unknown(f"the result of {what}") if found is None else found

    def handled(self, name: str, what: str, first: Any, options: Options) -> Any:
        """Return the result of an operation of the table below; Unknown if it has no counterpart."""
        found = None if isinstance(first, (Unknown, Zeros)) else _HANDLERS[name][0](self, what, first, options)
        return Unknown(f"the result of {what}") if found is None else found

    def through(self, layer: Any, x: Any, what: str) -> Any:
        """Return what a layer that takes every step by itself makes of a value."""
        if isinstance(x, (Output, Mapped)):
            return Mapped(x, layer)
        value = self.use(x, what)
        return Value(layer(value.tensor), value.layout)


def is_whole(value: Value) -> bool:
    """Return whether a tensor holds ids."""
    return np.issubdtype(np.dtype(value.tensor.dtype), np.integer)


def is_in_place(node: Node) -> bool:
    """Return whether a function or method changes its first argument."""
    name = name_of(node)
    named = name in _IN_PLACE or (node.op == "call_method" and name.endswith("_") and not name.endswith("__"))
    return node.op in ("call_function", "call_method") and (named or bool(node.kwargs.get("inplace")))


def name_of(node: Node) -> str:
    """Return the name of a function or method."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _getitem(forward: Operations, what: str, container: Any, options: Options) -> Any:
    index = options["index"]
    if type(container) in (tuple, list, Pair):
        return container[index] if isinstance(index, (int, slice)) else None
    steps = list(index) if isinstance(index, tuple) else [index]
    while len(steps) > 1 and steps[-1] == _WHOLE:
        steps.pop()
    if isinstance(container, Stack) and len(steps) == 1 and isinstance(steps[0], int):
        places = len(container.of.stack.layers) * container.of.stack.directions
        return Final(container.of, container.kind, range(places)[steps[0]])
    return _last_step(container, steps)


def _getattr(forward: Operations, what: str, owner: Any, options: Options) -> Any:
    """Return the values of a maximum, which has indices as well."""
    return owner[0] if type(owner) is tuple and options["name"] == "values" else None


def _last_step(value: Any, steps: list[Any]) -> Any:
    """Return the last outputs of a recurrent module of one direction, or what layers behind it make of them."""
    if isinstance(value, Mapped):
        last = _last_step(value.of, steps)
        return None if last is None else Mapped(last, value.layer)
    if not isinstance(value, Output) or value.of.stack.directions > 1:
        return None
    wanted = {"time": [-1], "batch": [_WHOLE, -1]}.get(value.of.layout)
    return Final(value.of, "h", len(value.of.stack.layers) - 1) if steps == wanted else None


def _cat(forward: Operations, what: str, items: Any, options: Options) -> Any:
    if isinstance(items, (tuple, list)) and len(items) == 2 and all(isinstance(item, Final) for item in items):
        first, second = items
        pair = first.of is second.of and first.kind == second.kind == "h" and first.of.stack.directions == 2
        if pair and first.place % 2 == 0 and second.place == first.place + 1 and options.get("dim") in (1, -1):
            return Value(first.of.take("both", first.place // 2))
    values = [forward.use(item, what) for item in items]
    ranks, layouts = {value.tensor.ndim for value in values}, {value.layout for value in values}
    if len(ranks) > 1 or len(layouts) > 1 or values[0].axis(options.get("dim", 0)) != values[0].tensor.ndim - 1:
        return None
    return Value(layers.Concatenate(dtype=forward.dtype)([value.tensor for value in values]), values[0].layout)


def _pool(kind: Callable[..., Any]) -> Callable[..., Any]:
    def pool(forward: Operations, what: str, x: Any, options: Options) -> Any:
        dim = options.get("dim")
        value = forward.use(x, what)
        if value.axis(dim) != 1 or value.tensor.ndim != 3 or options.get("keepdim"):
            return None
        return Value(kind(dtype=forward.dtype)(value.tensor))

    return pool


def _max(forward: Operations, what: str, x: Any, options: Options) -> Any:
    found = _pool(layers.GlobalMaxPooling1D)(forward, what, x, options)
    return None if found is None else (found, Unknown(f"the indices of {what}"))


def _merge(kind: Callable[..., Any]) -> Callable[..., Any]:
    def merge(forward: Operations, what: str, x: Any, options: Options) -> Any:
        other = options.get("other")
        if not all(isinstance(value, _TENSORS) for value in (x, other)):
            return None
        first, second = forward.use(x, what), forward.use(other, what)
        if first.layout != second.layout or first.tensor.ndim != second.tensor.ndim:
            return None
        return Value(kind(dtype=forward.dtype)([first.tensor, second.tensor]), first.layout)

    return merge


def _transpose(forward: Operations, what: str, x: Any, options: Options) -> Any:
    """Exchange the batch and the time."""
    if isinstance(x, Stack):
        return None
    value = forward.use(x, what)
    turned = {"batch": "time", "time": "batch"}.get(value.layout)
    whole = value.tensor.ndim == 3 or is_whole(value)
    both = {value.axis(options.get(name)) for name in ("dim0", "dim1")} == {0, 1}
    return Value(value.tensor, turned) if turned and whole and both else None


def _permute(forward: Operations, what: str, x: Any, options: Options) -> Any:
    first, *rest = (options.get(name) for name in _DIMS)
    dims = list(first) if isinstance(first, (tuple, list)) else [first, *rest]
    return _transpose(forward, what, x, {"dim0": 0, "dim1": 1}) if dims in ([1, 0, 2], [1, 0, -1]) else None


def _flatten(forward: Operations, what: str, x: Any, options: Options) -> Any:
    value = forward.use(x, what)
    if (options.get("start_dim", 0), options.get("end_dim", -1)) != (1, -1) or value.layout != "batch":
        return None
    return Value(layers.Flatten(dtype=forward.dtype)(value.tensor))


def _squeeze(forward: Operations, what: str, x: Any, options: Options) -> Any:
    if isinstance(x, Stack):
        single = len(x.of.stack.layers) * x.of.stack.directions == 1 and options.get("dim") == 0
        return Final(x.of, x.kind, 0) if single else None
    value = forward.use(x, what)
    rank = value.tensor.ndim
    if value.tensor.shape[-1] != 1 or value.axis(options.get("dim")) != rank - 1 or rank < 2:
        return None
    return Value(layers.Reshape((-1,) * (rank - 2), dtype=forward.dtype)(value.tensor), value.layout)


def _dropout(forward: Operations, what: str, x: Any, options: Options) -> Any:
    if options.get("training", True):  # then it drops in predictions, too
        return None
    return forward.through(layers.Dropout(options.get("p", 0.5), dtype=forward.dtype), x, what)


def _pack(forward: Operations, what: str, x: Any, options: Options) -> Any:
    value = forward.use(x, what)
    if value.layout != ("batch" if options.get("batch_first", False) else "time"):
        raise WrongLayoutError(f"{what}: expected batch_first={value.layout == 'batch'}, got {value.layout != 'batch'}")
    forward.packs = True
    return Value(value.tensor, "packed")


def _pad(forward: Operations, what: str, x: Any, options: Options) -> Any:
    value = forward.use(x, what)
    layout = "batch" if options.get("batch_first", False) else "time"
    return Value(value.tensor, layout), Unknown(f"the lengths of {what}")


class WrongLayoutError(NoCounterpartError):
    """What takes a tensor has the batch and the time in the other order."""


_HANDLERS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "getitem": (_getitem, ("index",)),
    "getattr": (_getattr, ("name",)),
    **dict.fromkeys(("cat", "concat", "concatenate"), (_cat, ("dim",))),
    "mean": (_pool(layers.GlobalAveragePooling1D), _REDUCTION),
    "amax": (_pool(layers.GlobalMaxPooling1D), _REDUCTION),
    "max": (_max, _REDUCTION),
    **{name: (_merge(kind), ("other",)) for name, kind in _MERGES.items()},
    "transpose": (_transpose, ("dim0", "dim1")),
    "permute": (_permute, _DIMS),
    "flatten": (_flatten, ("start_dim", "end_dim")),
    "squeeze": (_squeeze, ("dim",)),
    "dropout": (_dropout, ("p", "training", "inplace")),
    "pack_padded_sequence": (_pack, ("lengths", "batch_first", "enforce_sorted")),
    "pad_packed_sequence": (_pad, ("batch_first", "padding_value", "total_length")),
}
