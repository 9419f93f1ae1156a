"""The forward of a module, traced by torch.fx, as a graph of layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from fastmask import layers
from fastmask.convert.torch import modules
from fastmask.convert.torch.operations import Operations, WrongLayoutError, is_whole
from fastmask.convert.torch.values import (
    Argument,
    Need,
    NoCounterpartError,
    Output,
    Pair,
    Recurrence,
    RecurrentStack,
    Stack,
    Unknown,
    Value,
    Zeros,
)
from fastmask.layers.base.symbolic import KerasTensor


class Forward(Operations):
    """Goes through a traced forward and makes layers of it.

    Parameters
    ----------
    module : torch.nn.Module
    graph : torch.fx.Graph
        Of its forward.
    shapes : mapping of str to tuple
        Of inputs by the names of the arguments, without the batch axis; others are found out.
    time_major : bool
        Whether the inputs have the time first.
    needs : mapping of str to set of Need
        What is needed of each recurrent module, by its name; everything of the others.
    masked : bool
        Whether the padding that an Embedding names is masked.
    dtype : str
        Of all layers.

    Attributes
    ----------
    inputs : dict of Node to Value
    outputs : KerasTensor, or list or dict of them
    made : dict of str to Layer or RecurrentStack
        By the names of the modules.
    packs, pads : bool
        Whether it packs sequences, whether an Embedding names a padding.
    """

    def __init__(
        self, module: Any, graph: Graph, shapes: Mapping[str, Any], *, time_major: bool, needs: Mapping[str, set[Need]],
        masked: bool, dtype: str,
    ) -> None:
        super().__init__(dtype)
        self.module, self.graph, self.shapes, self.time_major = module, graph, shapes, time_major
        self.needs, self.masked = needs, masked
        self.pads = False
        self.inputs: dict[Node, Value] = {}
        self.made: dict[str, Any] = {}
        self.outputs: Any = None
        self._results: dict[Node, Any] = {}
        needed = _needed(graph)
        for node in graph.nodes:
            # That of an activation is there if it has become part of the layer before it.
            if node in needed and node not in self._results:
                self._results[node] = self._step(node)

    def _step(self, node: Node) -> Any:
        args, kwargs = map_arg((tuple(node.args), dict(node.kwargs)), self._results.__getitem__)
        if node.op == "placeholder":
            return Argument(node)
        if node.op == "get_attr":
            return self._constant(str(node.target))
        if node.op == "output":
            self.outputs = self._final(args[0])
            return None
        if node.op != "call_module":
            return self.operation(node, args, kwargs)
        module = self.module.get_submodule(str(node.target))
        if modules.is_recurrent(module):
            return self._recur(node, module, args, kwargs)
        if len(args) != 1 or kwargs:
            raise NoCounterpartError(f"{_called(node)}: expected one argument, got {len(args) + len(kwargs)}")
        x = args[0][0] if isinstance(args[0], Pair) else args[0]
        if isinstance(module, torch.nn.Flatten):
            ends = {"start_dim": module.start_dim, "end_dim": module.end_dim}
            return self.handled("flatten", _called(node), x, ends)
        return self._apply(node, module, x)

    def _constant(self, name: str) -> Any:
        value: Any = self.module
        for part in name.split("."):
            value = getattr(value, part)
        return Zeros() if isinstance(value, torch.Tensor) and not value.any() else Unknown(f"the tensor {name!r}")

    def _final(self, value: Any) -> Any:
        """Return the tensors of what the forward returns; of a recurrent module, its outputs."""
        if isinstance(value, dict):
            return {key: self._final(entry) for key, entry in value.items()}
        if isinstance(value, list) or type(value) is tuple:
            return [self._final(entry) for entry in value]
        return self.use(value, "the module").tensor

    def _apply(self, node: Node, module: Any, x: Any) -> Any:
        """Apply a module that takes one tensor."""
        axes = self.axes(x, _called(node))
        layer = self.made.get(str(node.target))
        if layer is None:
            layer = self.made[str(node.target)] = self._make_layer(node, module, axes)
        follower = self._follower(node, module, axes)
        padding = getattr(module, "padding_idx", None)
        if self.masked and padding:
            ids = self.use(x, _called(node))
            y: Any = Value(layer(ids.tensor, mask=ids.tensor != padding), ids.layout)
        else:
            y = self.through(layer, x, _called(node))
        if follower is not None:
            self._results[follower] = y
        return y

    def _make_layer(self, node: Node, module: Any, axes: int) -> Any:
        name = modules.activation_of(module, axes)
        own, options = _layer_name(node, module), dict[str, Any](dtype=self.dtype)
        if name is not None:
            return layers.Activation(name, name=own, **options)
        follower = self._follower(node, module, axes)
        fused = None if follower is None else self.activation(follower, axes)
        padded = getattr(module, "padding_idx", None)
        self.pads |= padded is not None
        if padded == 0 and self.masked:
            options["mask_zero"] = True
        layer = modules.make_layer(module, own, fused, axes, **options)
        if layer is None:
            raise NoCounterpartError(f"{_called(node)}: expected a module that fastmask has a layer for, got {module}")
        return layer

    def _follower(self, node: Node, module: Any, axes: int) -> Node | None:
        """Return the activation that alone takes the result of the only call of a Linear."""
        calls = [other for other in self.graph.nodes if other.op == "call_module" and other.target == node.target]
        if not isinstance(module, torch.nn.Linear) or len(calls) != 1 or len(node.users) != 1:
            return None
        (user,) = node.users
        return user if self.activation(user, axes) is not None else None

    def activation(self, node: Node, axes: int) -> str | None:
        if node.op == "call_module":
            return modules.activation_of(self.module.get_submodule(str(node.target)), axes)
        return super().activation(node, axes)

    def _recur(self, node: Node, module: Any, args: Any, kwargs: Any) -> Pair:
        what = _called(node)
        if getattr(module, "proj_size", 0) or kwargs.keys() - {"hx", "lengths"} or len(args) > 2:
            raise NoCounterpartError(f"{what}: expected no projections and no arguments but hx and lengths, got others")
        x = self.use(args[0], what)
        self.packs |= kwargs.get("lengths") is not None
        if x.layout not in ("packed", "batch" if module.batch_first else "time"):
            raise WrongLayoutError(f"{what}: expected batch_first={x.layout == 'batch'}, got {module.batch_first}")
        name = str(node.target)
        if name not in self.made:
            own = _layer_name(node, module)
            self.made[name] = RecurrentStack(module, own, self.needs.get(name), dtype=self.dtype)
        stack = self.made[name]
        start = args[1] if len(args) > 1 else kwargs.get("hx")
        found = Recurrence(stack, x, self._starts(stack, start, what))
        states = tuple(Stack(found, kind) for kind in stack.kinds)
        return Pair((Output(found), states if len(states) > 1 else states[0]))

    def _starts(self, stack: RecurrentStack, start: Any, what: str) -> list[Any]:
        """Return the initial states of each layer: those of another recurrent module of as many, or None for zeros."""
        given = tuple(start) if isinstance(start, (tuple, list)) and not isinstance(start, (Stack, Zeros)) else (start,)
        if all(state is None or isinstance(state, Zeros) for state in given):
            return [None] * len(stack.layers)
        numbers = range(len(stack.layers))
        fits = len(given) == len(stack.kinds) and all(
            isinstance(state, Stack) and len(state.of.stack.layers) == len(numbers)
            and state.of.stack.directions == stack.directions for state in given
        )  # fmt: skip
        if not fits:
            hint = "zeros or the states of a module of as many layers"
            raise NoCounterpartError(f"{what}: expected {hint} for hx, got others")
        sources = dict(zip(stack.kinds, given, strict=True))
        return [
            tuple(sources[kind].of.take(sources[kind].kind, place) for kind, place in stack.states_of(number))
            for number in numbers
        ]

    def argument(self, node: Node) -> Value:
        """Return the input that an argument of the forward becomes."""
        if node not in self.inputs:
            tensor = self._make_input(node)
            timed = tensor.ndim > 2 - is_whole(Value(tensor))
            self.inputs[node] = Value(tensor, "time" if self.time_major and timed else "batch")
        return self.inputs[node]

    def _make_input(self, node: Node) -> KerasTensor:
        below = list(self._modules_below(node))
        known = [module for module in below if modules.width(module) or isinstance(module, torch.nn.Embedding)]
        first = known[0] if known else None
        ids = isinstance(first, torch.nn.Embedding)
        shape = self.shapes.get(str(node.target), self.shapes.get(""))
        if shape is None:
            width = None if first is None else modules.width(first)
            if width is None and not ids:
                raise ValueError(f"input_shape: expected the shape of {node.target!r}, which no module tells, got None")
            steps = (None,) if ids or any(map(modules.is_recurrent, below)) else ()
            shape = steps if ids else (*steps, width)
        return layers.Input(shape, dtype="int32" if ids else self.dtype, name=self.name_for(node))

    def name_for(self, node: Node) -> str:
        taken = {_layer_name(other, None) for other in self.graph.nodes if other.op == "call_module"}
        return f"{node.name}_{node.op}" if node.name in taken else str(node.name)

    def _modules_below(self, start: Node) -> Any:
        """Yield the modules whose results depend on that of a node."""
        below = {start}
        for node in self.graph.nodes:
            if below.intersection(node.all_input_nodes):
                below.add(node)
                if node.op == "call_module":
                    yield self.module.get_submodule(str(node.target))


def _needed(graph: Graph) -> set[Node]:
    """Return the nodes that the output depends on."""
    found: set[Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or found.intersection(node.users):
            found.add(node)
    return found


def _layer_name(node: Node, module: Any) -> str:
    """Return the name of a layer: that of its module, with dashes for the dots, which Keras refuses on PyTorch."""
    return str(node.target).replace(".", "-") or type(module).__name__.lower()


def _called(node: Node) -> str:
    return f"module {str(node.target)!r}"
