"""Runs of a graph on a batch, forwards and backwards."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmask.batch.packing import PackedSequence, Packing, put_rows
from fastmask.graph.order import Graph, Step
from fastmask.layers import Layer
from fastmask.layers.base import checks, flow
from fastmask.layers.base.calls import Call
from fastmask.layers.base.flow import Back, same

Array = NDArray[Any]
Plans = list[Packing]


class Entry:
    """A batch on its way into a graph: packed once for every plan that a layer asks for.

    Parameters
    ----------
    x : ndarray or PackedSequence, or list of B sequences of different lengths
    mask : array_like of bool (B, T), or with more axes of `x`, optional
    plans : list of Packing
        All plans of the run; equal ones become one object, which later layers share.
    live : bool, default False
        Whether the gradient by `x` is wanted.
    """

    def __init__(self, x: Any, mask: Any, plans: Plans, live: bool = False) -> None:
        self.plans, self.mask, self.live = plans, mask, live
        packed = PackedSequence.from_list(x) if isinstance(x, list) else x
        self.x = self._shared(packed) if isinstance(packed, PackedSequence) else packed
        self.packed: dict[Hashable, PackedSequence] = {}

    @property
    def is_masked(self) -> bool:
        """Whether it is a padded array of tokens that have features, with a mask that was passed for it."""
        return self.mask is not None and not isinstance(self.x, PackedSequence) and self.x.ndim > np.ndim(self.mask)

    def value_for(self, layer: Layer, index: int = 0) -> tuple[Any, Back]:
        """Return the batch as a layer gets it on input `index`, and the pullback to `x`."""
        if isinstance(self.x, PackedSequence):
            return self.x, same
        usual = 2 if layer.input_takes_ids(index) else 3
        if self.x.ndim < usual and self.mask is not None:
            raise ValueError(f"mask: expected None for x of shape {self.x.shape}, which has no time axis, got one")
        if self.x.ndim < usual or (self.x.ndim > usual and self.mask is None and not layer.may_mask):
            return self.x, same
        key = layer.pack_key
        if key not in self.packed:
            self.packed[key] = self._shared(layer.pack_input(self.x, self.mask))
        found = self.packed[key]
        shape, plan = self.x.shape, found.packing
        return found, lambda d: put_rows(_values(d), plan.positions, plan.batch_size * plan.total_length).reshape(shape)

    def _shared(self, packed: PackedSequence) -> PackedSequence:
        for plan in self.plans:
            if plan is packed.packing or _equal(plan, packed.packing):
                return replace(packed, packing=plan)
        self.plans.append(packed.packing)
        return packed


class Run:
    """One run of a graph.

    Parameters
    ----------
    graph : Graph
    training : bool
    keep : bool
        Whether `backward` will be called.
    """

    def __init__(self, graph: Graph, training: bool, keep: bool) -> None:
        self.graph, self.training, self.keep = graph, training, keep
        self.values: list[Any] = [None] * len(graph.places)
        self.live = [False] * len(graph.places)
        self.tape: list[tuple[Step, Any, list[Back], bool]] = []
        self.plans: Plans = []

    def forward(self, inputs: Sequence[Any]) -> list[Any]:
        """Return the outputs for one `Entry`, PackedSequence or ndarray per input."""
        graph = self.graph
        for tensor, value in zip(graph.inputs, inputs, strict=True):
            place = graph.places[tensor]
            self.values[place] = value
            self.live[place] = self.keep and (not isinstance(value, Entry) or value.live)
            self.plans = value.plans if isinstance(value, Entry) else self.plans
        for step in graph.steps:
            value, features = self.values[step.inputs[0]], step.node.layer.features
            fits = features is None or type(value) is not np.ndarray or value.shape[-1] == features
            if step.direct and fits and type(value) is not Entry:
                self._pass(step, value, same)
            elif step.plain and type(value) is Entry:
                self._enter(step, value)
            else:
                self._call(step)
        return [self._output(graph.places[tensor]) for tensor in graph.outputs]

    def backward(self, gradients: Sequence[Any]) -> tuple[list[Any], dict[int, Any]]:
        """Return the gradients by the inputs, and those by weights, by the id of the variable.

        Parameters
        ----------
        gradients : sequence of ndarray or None
            By the outputs, or their values if they are packed.
        """
        graph = self.graph
        found: list[Any] = [None] * len(self.values)
        weights: dict[int, Any] = {}
        for tensor, gradient in zip(graph.outputs, gradients, strict=True):
            _add(found, graph.places[tensor], gradient)
        for step, pullback, backs, several in reversed(self.tape):
            dy = [found[place] for place in step.outputs]
            if not [d for d in dy if d is not None]:
                continue
            layer = step.node.layer
            pulled = pullback(tuple(dy) if several else dy[0])
            inputs = pulled.inputs if layer.takes_list else [pulled.inputs]
            for place, d, back in zip(step.inputs, inputs, backs, strict=True):
                if d is not None and self.live[place]:
                    _add(found, place, back(d))
            for place, d in zip(step.states, pulled.initial_state or (), strict=True):
                _add(found, place, d)
            for variable, d in zip(layer.weights, pulled.weights, strict=True):
                if d is not None:
                    known = weights.get(id(variable))
                    weights[id(variable)] = d if known is None else flow.add(known, d)
        return [found[graph.places[tensor]] for tensor in graph.inputs], weights

    def _pass(self, step: Step, value: Any, back: Back) -> None:
        """Give a value that has been checked to the one layer of a step."""
        node = step.node
        live = self.keep and (self.live[step.inputs[0]] or bool(node.layer.trainable_weights))
        training = self.training if node.training is None else node.training
        result = node.layer.forward(value, Call(None, None, training, live, node.options))
        self._keep(step, result, live, [back])

    def _enter(self, step: Step, entry: Entry) -> None:
        """Give a batch to the layer of a step; what the layer has packed itself it has checked."""
        layer = step.node.layer
        value, back = entry.value_for(layer)
        checked = back is not same and value.values.shape[1:][-1:] in ((layer.features,), ())
        if checked and not (value.packing.masked and not layer.supports_masking):
            self._pass(step, value, back)
        else:
            self._call(step)

    def _call(self, step: Step) -> None:
        node = step.node
        given = self._inputs(step)
        states = tuple([self._output(place) for place in step.states]) or None
        live = self.keep and (
            any(self.live[place] for place in (*step.inputs, *step.states)) or bool(node.layer.trainable_weights)
        )
        training = self.training if node.training is None else node.training
        x = [value for value, _ in given] if node.layer.takes_list else given[0][0]
        result = node.layer.apply(x, None, states, training, live, node.options)
        self._keep(step, result, live, [back for _, back in given])

    def _keep(self, step: Step, result: tuple[Any, Any], live: bool, backs: list[Back]) -> None:
        """Put the outputs of a step in their places, and its pullback on the tape."""
        y, pullback = result
        several = isinstance(y, tuple)
        for place, value in zip(step.outputs, y if several else (y,), strict=True):
            self.values[place], self.live[place] = value, live
        if live:
            self.tape.append((step, pullback, backs, several))
        for place in step.released:
            self.values[place] = None

    def _inputs(self, step: Step) -> list[tuple[Any, Back]]:
        """Return the values of a call as its layer takes them, and the ways back."""
        layer, places = step.node.layer, enumerate(zip(step.inputs, step.masks, strict=True))
        if layer.is_graph or not layer.takes_list:
            return [self._input(place, mask, layer, i) for i, (place, mask) in places]
        sources = [self._source(place, mask, layer, i) for i, (place, mask) in places]
        call = Call(keep=self.keep, options=step.node.options)
        entered = flow.enter_several(layer, [x for x, _, _ in sources], [mask for _, mask, _ in sources], call)
        packed = [x if way is same else Entry(x, None, self.plans).x for x, way in entered]
        ways = [_through(way, back) for (_, way), (_, _, back) in zip(entered, sources, strict=True)]
        return list(zip(packed, ways, strict=True))

    def _source(self, place: int, mask: int | None, layer: Layer, index: int) -> tuple[Any, Any, Back]:
        """Return one of several values, and beside it a mask that was passed to the call or to the model."""
        value = self.values[place]
        if mask is not None:
            x, found, back = self._under(place, self._output(mask))
        elif isinstance(value, Entry) and value.is_masked:
            x, found, back = value.x, checks.mask_for(value.mask, value.x.shape), same
        else:
            x, back = self._input(place, None, layer, index)
            return x, None, back
        return (x if isinstance(x, PackedSequence) else layer.check_input(x)), found, back

    def _input(self, place: int, mask: int | None, layer: Layer, index: int) -> tuple[Any, Back]:
        """Return a value as a layer takes it: packed if it has a time axis and the layer could mask it."""
        value = self.values[place]
        if mask is not None:
            return self._masked(place, self._output(mask), layer, index)
        if layer.is_graph:
            packed = isinstance(value, (Entry, PackedSequence))
            return value if packed else Entry(value, None, self.plans, live=self.live[place]), same
        if layer.takes_grid:
            return self._output(place), same
        if not isinstance(value, Entry) and not isinstance(value, PackedSequence) and layer.may_mask:
            value = Entry(value, None, self.plans)
        return value.value_for(layer, index) if isinstance(value, Entry) else (value, same)

    def _masked(self, place: int, mask: Any, layer: Layer, index: int) -> tuple[Any, Back]:
        """Return a value under the mask that was passed to the call, in place of its own."""
        x, found, back = self._under(place, mask)
        if found is None:
            return x, back
        entry = Entry(x, found, self.plans, live=self.live[place])
        if layer.is_graph:
            return entry, back
        value, pack_back = entry.value_for(layer, index)
        return value, lambda d: back(pack_back(d))

    def _under(self, place: int, mask: Any) -> tuple[Any, Any, Back]:
        """Return a padded value, the mask that was passed for it and the way back; None if it is the value's own."""
        x = self._output(place)
        found = np.not_equal(mask.pad() if isinstance(mask, PackedSequence) else mask, 0)
        if not isinstance(x, PackedSequence):
            return x, found, same
        if x.packing.masked and np.array_equal(x.packing.mask, found):
            return x, None, same
        grid, back = flow.unpack_shown(x, self.keep)
        return grid, found, back

    def _output(self, place: int) -> Any:
        value = self.values[place]
        return value.x if isinstance(value, Entry) else value


def _equal(first: Packing, second: Packing) -> bool:
    return (
        first.masked == second.masked
        and first.leading == second.leading
        and first.total_length == second.total_length
        and np.array_equal(first.positions, second.positions)
    )


def _values(d: Any) -> Any:
    return d.values if isinstance(d, flow.Shown) else d


def _add(found: list[Any], place: int, gradient: Any) -> None:
    if gradient is not None:
        found[place] = gradient if found[place] is None else found[place] + gradient


def _through(way: Back, back: Back) -> Back:
    """Return the way back out of a packing and then on, which takes no gradient of what masked places show."""
    return back if way is same else lambda d: back(way(_values(d)))
