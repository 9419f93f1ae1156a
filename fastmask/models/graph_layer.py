"""What a model is as a layer: a graph of layers between symbolic inputs and outputs."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from fastmask.batch.data import InputSpec, Layout
from fastmask.batch.packing import PackedSequence
from fastmask.core.stored import stored_property
from fastmask.core.structure import aligned, flatten, map_structure, pack_as
from fastmask.graph.copies import flat, restored
from fastmask.graph.order import Graph, make_graph
from fastmask.graph.run import Entry, Plans, Run
from fastmask.layers import Gradients, Layer
from fastmask.layers.base.calls import Pullback
from fastmask.layers.base.flow import leave_all
from fastmask.layers.base.symbolic import KerasTensor, Node, connect, symbolic_list, symbolic_masks
from fastmask.saving.masks import in_keras_order

Shape = tuple[int | None, ...]

_OF_GRAPH = ("graph", "layout", "_prepared", "inputs", "outputs", "input_structure", "output_structure")


class GraphLayer(Layer):
    """A layer that is made of other layers and of their calls, between symbolic inputs and outputs."""

    is_graph = True
    supports_masking = True
    layers: list[Layer]
    output_names: Sequence[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Leave methods of subclasses as they are."""

    def _set_graph(self, inputs: Any, outputs: Any) -> None:
        """Take symbolic tensors as the ends of the model; what depends on them is worked out at first need."""
        self._forget_graph()
        self.input_structure, self.output_structure = inputs, outputs
        self.inputs, self.outputs = symbolic_tensors("inputs", inputs), symbolic_tensors("outputs", outputs)
        self.takes_list = not isinstance(inputs, KerasTensor)
        self.built = True
        self.dtype = self.outputs[0].history.layer.dtype
        self.input_names = [tensor.history.layer.name for tensor in self.inputs]
        self.output_names = [tensor.history.layer.name for tensor in self.outputs]
        self.output_form = pack_as(outputs, self.output_names)
        self.input_shape = _only([tensor.shape for tensor in self.inputs])
        self.output_shape = _only([tensor.shape for tensor in self.outputs])

    def _forget_graph(self) -> None:
        for name in _OF_GRAPH:
            vars(self).pop(name, None)

    @stored_property
    def graph(self) -> Graph:
        """The calls between the inputs and the outputs."""
        graph = make_graph(self.inputs, self.outputs)
        graph.layers = in_keras_order(graph)
        return graph

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has: the calls of the graph as a flat list, and nothing that comes of them."""
        tensors = self._kept_tensors()
        state = {name: value for name, value in super().__getstate__().items() if name not in (*_OF_GRAPH, "_tensors")}
        return state | {"calls": flat(flatten(tensors)), "ends": map_structure(lambda tensor: None, tensors)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        calls, ends = state.pop("calls"), state.pop("ends")
        vars(self).update(state)
        self._take_tensors(pack_as(ends, restored(*calls)))

    def _kept_tensors(self) -> Any:
        """Return the tensors that the graph is made of."""
        return self.input_structure, self.output_structure

    def _take_tensors(self, tensors: Any) -> None:
        self._set_graph(*tensors)

    @property
    def sublayers(self) -> Mapping[str, Layer]:
        return {layer.name: layer for layer in self.layers}

    @property
    def operations(self) -> list[Layer]:
        """The layers, with the operations on masks among them."""
        return self.graph.layers

    @property
    def input(self) -> Any:
        """The symbolic inputs, as they were given."""
        return self.input_structure

    @property
    def output(self) -> Any:
        """The symbolic outputs, as they were given."""
        return self.output_structure

    @property
    def takes_ids(self) -> bool:  # type: ignore[override]
        """Whether the first input holds ids."""
        return self.input_takes_ids(0)

    def input_takes_ids(self, index: int) -> bool:
        """Return whether input number `index` holds integer ids."""
        return self.graph.takes_ids(index)

    @stored_property
    def layout(self) -> Layout:
        """What data for this model must look like."""
        inputs = [
            InputSpec(name, self.input_takes_ids(i), self._data_shape(tensor))
            for i, (name, tensor) in enumerate(zip(self.input_names, self.inputs, strict=True))
        ]
        form = pack_as(self.input_structure, self.input_names)
        return Layout(tuple(inputs), tuple(self.output_names), form, self.output_form)

    def _data_shape(self, tensor: KerasTensor) -> Shape:
        """Return the shape that data for an input must have."""
        return tensor.shape

    def _require_shape(self, tensor: KerasTensor, shape: Shape, argument: str = "x") -> None:
        wanted = self._data_shape(tensor)
        pairs = zip(wanted[1:], shape[1:], strict=False)
        if len(shape) != len(wanted) or any(None not in pair and pair[0] != pair[1] for pair in pairs):
            name = tensor.history.layer.name
            raise ValueError(f"{argument}: expected shape {wanted} for input {name!r}, got {shape}")

    def compute_output_shape(self, input_shape: Any, **options: Any) -> Any:
        """Return the shape of the output, or the shapes of several, for inputs of other lengths."""
        shapes = self._flat("input_shape", input_shape) if self.takes_list else [input_shape]
        return _only(self.graph.output_shapes(shapes))

    def mask_flow(self, masked: Sequence[int], outputs: int) -> list[int]:
        return self.graph.mask_flow(masked)

    def _connected(self, inputs: Sequence[KerasTensor], mask: Any, training: bool | None) -> Any:
        """Return the symbolic outputs for symbolic inputs."""
        for own, given in zip(self.inputs, symbolic_list("x", inputs), strict=True):
            self._require_shape(own, given.shape)
        node = Node(self, [*inputs], [], training, masks=symbolic_masks(mask, inputs, self))
        return pack_as(self.output_structure, connect(node))

    def apply(
        self,
        x: Any,
        mask: Any = None,
        initial_state: Any = None,
        training: bool | None = False,
        keep: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Any, Pullback | None]:
        """Return the output, a tuple of several, and the pullback; padded arrays in give padded arrays."""
        if initial_state is not None:
            raise TypeError(f"initial_state: expected None for model {self.name!r}, got one")
        values = self._flat("x", x)
        padded = not any(isinstance(value, (Entry, PackedSequence)) for value in values)
        plans: Plans = []
        entries = [v if isinstance(v, (Entry, PackedSequence)) else _entry(v, mask, plans) for v in values]
        run = Run(self.graph, bool(training), keep)
        outputs = run.forward(entries)
        y, leave_back = leave_all(outputs[0] if len(outputs) == 1 else tuple(outputs), padded, keep)

        def pullback(dy: Any) -> Gradients:
            d = leave_back(dy)
            inputs, weights = run.backward(d if isinstance(y, tuple) else [d])
            grads = [weights.get(id(variable)) for variable in self.weights]
            return Gradients(inputs if self.takes_list else inputs[0], grads)

        return y, pullback

    def pack_outputs(self, outputs: Sequence[Any]) -> Any:
        """Return one entry per output in the form of the model's outputs."""
        if isinstance(self.output_structure, KerasTensor):
            return outputs[0]
        found = pack_as(self.output_structure, outputs)
        # As in Keras, what a list holds alone is returned without it.
        return found[0] if isinstance(found, (list, tuple)) and len(found) == 1 else found

    def _flat(self, argument: str, x: Any) -> list[Any]:
        """Return an entry for each input, however they are given."""
        alone = len(self.inputs) == 1 and isinstance(x, (list, tuple)) and len(x) == 1
        if alone and (self.takes_list or isinstance(x[0], (KerasTensor, PackedSequence))):
            return list(x)
        return aligned(argument, x, self.layout.input_form, required=True)


def symbolic_tensors(name: str, structure: Any) -> list[KerasTensor]:
    """Return the tensors in a structure; TypeError if something else is in it, ValueError if nothing is."""
    tensors = flatten(structure)
    for tensor in tensors:
        if not isinstance(tensor, KerasTensor):
            raise TypeError(f"{name}: expected results of Input and of layers called on them, got {tensor!r}")
    if not tensors:
        raise ValueError(f"{name}: expected at least one tensor, got {structure!r}")
    return cast(list[KerasTensor], tensors)


def _only(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def _entry(x: Any, mask: Any, plans: Plans) -> Entry:
    array = np.asarray(x)
    return Entry(array, mask, plans, live=array.dtype.kind == "f")
