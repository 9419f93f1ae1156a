"""Graphs of layers: what is called in which order, worked out once from symbolic tensors."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fastmask.graph.losing import warn_of_lost_masks
from fastmask.layers import Layer
from fastmask.layers.base.checks import Shape
from fastmask.layers.base.symbolic import KerasTensor, Node, connect
from fastmask.layers.input import Input, InputLayer


@dataclass(frozen=True, slots=True)
class Step:
    """A call of a layer whose inputs, initial states, outputs and masks are numbered places.

    Attributes
    ----------
    masks : tuple of int or None
        An entry for each input; None where no mask was passed to the call.
    released : tuple of int
        Places that no later step reads.
    direct : bool
        Whether a value that another step made can go to the layer's `forward` as it is, if it has as many features
        as the layer was built for: what is flattened has others in batches of other lengths.
    plain : bool
        Whether the call has one input and nothing else, and goes to the layer's own `forward`.
    """

    node: Node
    inputs: tuple[int, ...]
    states: tuple[int, ...]
    outputs: tuple[int, ...]
    masks: tuple[int | None, ...]
    released: tuple[int, ...] = ()
    direct: bool = False
    plain: bool = False


@dataclass(slots=True)
class Graph:
    """Calls in an order in which they can run.

    Attributes
    ----------
    inputs, outputs : list of KerasTensor
    steps : list of Step
    layers : list of Layer
        By the number of calls between a layer and the outputs, most first.
    nodes : list of Node
        Those of the inputs too.
    places : dict of KerasTensor to int
    """

    inputs: list[KerasTensor]
    outputs: list[KerasTensor]
    steps: list[Step] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    places: dict[KerasTensor, int] = field(default_factory=dict)

    def takes_ids(self, index: int) -> bool:
        """Return whether input number `index` holds ids, or a mask: one number for each step."""
        place = self.places[self.inputs[index]]
        return any(
            step.node.layer.input_takes_ids(i)
            for step in self.steps
            for i, source in enumerate(step.inputs)
            if source == place
        ) or any(place in step.masks for step in self.steps)

    def output_shapes(self, input_shapes: Sequence[Shape]) -> list[Shape]:
        """Return the shapes of the outputs for inputs of other lengths."""
        known = dict(zip(self.inputs, map(tuple, input_shapes), strict=True))
        for step in self.steps:
            node = step.node
            found: Any = [known[tensor] for tensor in node.inputs]
            shapes = node.layer.compute_output_shape(found if node.layer.takes_list else found[0], **node.options)
            known |= dict(zip(node.outputs, shapes if len(node.outputs) > 1 else [shapes], strict=True))
        return [known[tensor] for tensor in self.outputs]

    def mask_flow(self, masked: Sequence[int]) -> list[int]:
        """Return the number of axes of the mask of each output, 0 for none, given those of the masks of the inputs."""
        known = dict(zip(self.inputs, masked, strict=True))
        for step in self.steps:
            node = step.node
            pairs = zip(node.inputs, node.masks, strict=True)
            given = [known[tensor] if explicit is None else explicit.ndim for tensor, explicit in pairs]
            if any(given):
                node.layer.require_masking(axes=max(given))
            flows = [tensor.mask_axes for tensor in node.outputs]
            if given != node.mask_axes and not node.layer.makes_mask:
                flows = node.layer.mask_flow(given, len(node.outputs))
            known |= dict(zip(node.outputs, flows, strict=True))
        return [known[tensor] for tensor in self.outputs]


def make_graph(inputs: list[KerasTensor], outputs: list[KerasTensor]) -> Graph:
    """Return the graph between symbolic tensors.

    Raises
    ------
    ValueError
        If an output does not depend on the inputs alone, or two layers have one name.
    """
    nodes, seen = _ordered({*inputs}, outputs)
    graph = Graph(inputs, outputs, nodes=nodes)
    for tensor in [*inputs, *(tensor for node in nodes for tensor in node.outputs)]:
        graph.places.setdefault(tensor, len(graph.places))
    missing = next((t for t in outputs if t not in graph.places), None)
    if missing is not None:
        raise ValueError(f"outputs: expected what depends on the inputs, got {missing!r}, which does not")
    graph.steps = _released([_step(node, graph.places) for node in nodes if node.inputs], graph)
    graph.layers = _by_depth(nodes, seen, inputs)
    names = Counter(layer.name for layer in graph.layers)
    for name, count in names.items():
        if count > 1:
            raise ValueError(f"layers: expected different names, got {name!r} twice")
    warn_of_lost_masks(nodes, outputs)
    return graph


def from_intermediate(
    inputs: list[KerasTensor], outputs: list[KerasTensor]
) -> tuple[list[KerasTensor], list[KerasTensor]]:
    """Return inputs that are all results of `Input`, and outputs that depend on these.

    Where `inputs` has results of other layers, the calls between are repeated on new tensors.
    """
    if all(isinstance(tensor.history.layer, InputLayer) for tensor in inputs):
        return inputs, outputs
    known = {
        t: t if isinstance(t.history.layer, InputLayer) else Input(batch_shape=t.shape, dtype=t.dtype) for t in inputs
    }
    starts = list(known.values())
    for node in upstream(outputs, {*inputs}):
        if node.inputs:
            sources, states = [known[t] for t in node.inputs], [known[t] for t in node.states]
            masks = [None if t is None else known[t] for t in node.masks]
            found = connect(Node(node.layer, sources, states, node.training, node.options, masks=masks))
            known |= dict(zip(node.outputs, found, strict=True))
    return starts, [known[tensor] for tensor in outputs]


def upstream(outputs: Sequence[KerasTensor], given: Collection[KerasTensor] = ()) -> list[Node]:
    """Return all calls that tensors depend on, those before the tensors `given` left aside, each after its sources."""
    return _ordered(given, outputs)[0]


def _ordered(
    given: Collection[KerasTensor], outputs: Sequence[KerasTensor]
) -> tuple[list[Node], dict[Layer, int]]:
    """Return all calls, each after those it depends on, and the order in which layers are met from the outputs."""
    done = set[Node]()
    nodes: list[Node] = []
    seen: dict[Layer, int] = {}
    # The calls on the way from an output to where the search is, each with the sources that it has still to see.
    way: list[tuple[Node, Iterator[KerasTensor]]] = []

    def meet(tensor: KerasTensor) -> None:
        node = tensor.node
        if node in done or (tensor in given and node.inputs):
            return
        if not node.inputs and given and tensor not in given:
            above = f"layer {way[-1][0].layer.name!r}" if way else "an output"
            raise ValueError(
                f"inputs: expected all inputs of the outputs, got none that is {tensor!r}, on which {above} depends"
            )
        done.add(node)
        seen.setdefault(node.layer, len(seen))
        way.append((node, iter(node.parents)))

    for output in outputs:
        meet(output)
        while way:
            source = next(way[-1][1], None)
            if source is None:
                nodes.append(way.pop()[0])
            else:
                meet(source)
    return nodes, seen


def _step(node: Node, places: dict[KerasTensor, int]) -> Step:
    def of(tensors: Sequence[KerasTensor]) -> tuple[int, ...]:
        return tuple(places[tensor] for tensor in tensors)

    masks = tuple(None if mask is None else places[mask] for mask in node.masks)
    layer = node.layer
    special = layer.takes_list or layer.is_graph or layer.takes_grid or type(layer).forward is Layer.forward
    plain = not special and not node.states and node.masks == [None]
    direct = plain and not layer.may_mask and node.inputs[0].dtype == layer.dtype.name
    return Step(node, of(node.inputs), of(node.states), of(node.outputs), masks, direct=direct, plain=plain)


def _released(steps: list[Step], graph: Graph) -> list[Step]:
    """Note at each step which places are read there for the last time."""
    kept = {graph.places[tensor] for tensor in graph.outputs}
    result: list[Step] = []
    for step in reversed(steps):
        masks = {place for place in step.masks if place is not None}
        read = {*step.inputs, *step.states, *step.outputs, *masks} - kept
        kept |= read
        result.append(replace(step, released=tuple(read)))
    return result[::-1]


def _by_depth(nodes: list[Node], seen: dict[Layer, int], inputs: list[KerasTensor]) -> list[Layer]:
    depth: dict[Node, int] = {}
    of_layer: dict[Layer, int] = {}
    known = set(nodes)
    for node in reversed(nodes):
        own = max(depth.setdefault(node, 0), of_layer.get(node.layer, 0))
        depth[node] = of_layer[node.layer] = own
        for source in node.parents:
            if source.node in known:
                depth[source.node] = max(own + 1, depth.get(source.node, 0))
    for tensor in inputs:
        if tensor.history.layer not in of_layer:
            of_layer[tensor.history.layer], seen[tensor.history.layer] = 0, -1
    order: Callable[[Layer], tuple[int, int]] = lambda layer: (-of_layer[layer], seen[layer])  # noqa: E731
    return sorted(of_layer, key=order)
