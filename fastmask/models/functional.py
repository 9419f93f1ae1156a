"""Models: graphs of layers with any number of inputs and outputs, themselves layers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmask.batch.data import Batch, InputSpec, Layout, as_batch
from fastmask.batch.packing import PackedSequence
from fastmask.core.stored import stored_property
from fastmask.core.structure import aligned, flatten, map_structure, pack_as
from fastmask.graph.copies import flat, restored
from fastmask.graph.order import Graph, from_intermediate, make_graph
from fastmask.graph.prepared import Prepared
from fastmask.graph.run import Entry, Plans, Run
from fastmask.layers import Gradients, Layer
from fastmask.layers.base.arguments import auto_name
from fastmask.layers.base.calls import Pullback
from fastmask.layers.base.flow import leave_all
from fastmask.layers.base.serialization import layer_configs
from fastmask.layers.base.symbolic import KerasTensor, Node, connect, is_symbolic, symbolic_list, symbolic_masks
from fastmask.layers.logic import MaskOperation
from fastmask.models import configs
from fastmask.models.summary import table
from fastmask.saving.masks import in_keras_order
from fastmask.training.loop import GradientOf
from fastmask.training.options import require_own_steps
from fastmask.training.scores import Scores
from fastmask.training.trainer import Trainer

Array = NDArray[Any]
Shape = tuple[int | None, ...]

_OF_GRAPH = ("graph", "layout", "_prepared", "inputs", "outputs", "input_structure", "output_structure")


class Model(Layer, Trainer):
    """A graph of layers.

    Parameters
    ----------
    inputs : KerasTensor, or list or dict of them
        From `Input`, or results of layers: then the model is the part of the graph above them.
    outputs : KerasTensor, or list or dict of them
    name : str, optional
        Made from the class name when left out.
    trainable : bool, default True

    Attributes
    ----------
    layers : list of Layer
        Ordered as in Keras; those of the inputs are among them, operations on masks are not.
    inputs, outputs : list of KerasTensor
    input_names, output_names : list of str
        The keys of data given as dicts.
    optimizer, loss, history, stop_training
        See `compile` and `fit`.

    Raises
    ------
    TypeError
        If `inputs` or `outputs` hold something else.
    NotImplementedError
        If a subclass defines `call`.
    ValueError
        If an output does not depend on the inputs alone, or two layers have one name.
    """

    is_graph = True
    keras_class: ClassVar[tuple[str, str, str | None] | None] = (
        "keras.src.models.functional", "Functional", "Functional",
    )  # fmt: skip
    supports_masking = True
    counts_making = True
    graph_arguments: ClassVar[tuple[str, ...]] = ("inputs", "outputs")
    layers: list[Layer]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Leave methods of subclasses as they are."""

    def __init__(
        self, inputs: Any = None, outputs: Any = None, name: str | None = None, trainable: bool = True
    ) -> None:
        self._begin(name)
        starts, ends = from_intermediate(_tensors("inputs", inputs), _tensors("outputs", outputs))
        self._set_graph(pack_as(inputs, starts), pack_as(outputs, ends))
        self.layers = [layer for layer in self.graph.layers if not isinstance(layer, MaskOperation)]
        if not trainable:
            self.trainable = False

    def _begin(self, name: str | None) -> None:
        if type(self).call is not Layer.call:
            raise NotImplementedError(
                f"{type(self).__name__} must not define call: a model is made of inputs and outputs; what a call does "
                "belongs into a Layer with call and vjp, or the model under real Keras"
            )
        require_own_steps(self)
        plain = "functional" if type(self) is Model else type(self).__name__
        super().__init__(name=auto_name(plain) if name is None else name)
        self.layers = []
        self.scores = Scores()

    def _set_graph(self, inputs: Any, outputs: Any) -> None:
        """Take symbolic tensors as the ends of the model; what depends on them is worked out at first need."""
        self._forget_graph()
        self.input_structure, self.output_structure = inputs, outputs
        self.inputs, self.outputs = _tensors("inputs", inputs), _tensors("outputs", outputs)
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

    @stored_property
    def _prepared(self) -> Prepared:
        # What a class of a user's does in `run` has to count.
        own = type(self).run.__module__.startswith("fastmask.")
        return Prepared(self.graph if self.built and own else None)

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
    def layout(self) -> Layout:  # type: ignore[override]
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
            raise ValueError(f"{argument}: expected shape {wanted} for input {tensor.history.layer.name!r}, got {shape}")

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """Return a layer by its name or its place.

        Raises
        ------
        ValueError
            If there is none, or not exactly one argument is given.
        """
        if (name is None) == (index is None):
            raise ValueError(f"name, index: expected exactly one of them, got {name!r} and {index!r}")
        names = [layer.name for layer in self.layers]
        if name is None and index is not None and -len(names) <= index < len(names):
            return self.layers[index]
        if name not in names:
            raise ValueError(
                f"{'index' if name is None else 'name'}: expected that of one of the layers "
                f"{', '.join(names)}, got {index if name is None else name!r}"
            )
        return self.layers[names.index(name)]

    def summary(self, print_fn: Callable[[str], Any] = print, expand_nested: bool = False) -> None:
        """Print the layers with their output shapes, numbers of weights, and the mask's way.

        Parameters
        ----------
        print_fn : callable, default print
            Gets the text.
        expand_nested : bool, default False
            Whether to list the layers of models within the model.
        """
        print_fn(table(self, expand_nested))

    def build(self, input_shape: Any = None) -> None:
        """Check that the model takes inputs of a shape, or of a list of them; it is built already."""
        if input_shape is not None:
            self.compute_output_shape(input_shape)

    def compute_output_shape(self, input_shape: Any, **options: Any) -> Any:
        """Return the shape of the output, or the shapes of several, for inputs of other lengths."""
        shapes = self._flat("input_shape", input_shape) if self.takes_list else [input_shape]
        return _only(self.graph.output_shapes(shapes))

    def mask_flow(self, masked: Sequence[int], outputs: int) -> list[int]:
        return self.graph.mask_flow(masked)

    def __call__(
        self, x: Any, mask: Any = None, initial_state: Any = None, training: bool | None = None, **options: Any
    ) -> Any:
        """Return the outputs for one batch.

        Parameters
        ----------
        x : array_like (B, ...), sequence of B sequences, PackedSequence or KerasTensor
            Or a list or dict of these for several inputs.
        mask : array_like of bool (B, T), optional
            For a padded `x` whose first layer makes no mask of its own.
        initial_state
            Only None.
        training : bool, default False
            Whether dropout acts.

        Returns
        -------
        ndarray, list of ndarray, PackedSequence or KerasTensor
            As `predict` returns it, but packed for a packed `x` and symbolic for a symbolic one.
        """
        self._check_options(options)
        if type(x) is not np.ndarray:
            if is_symbolic(x):
                return self._connected(self._flat("x", x), mask, training)
            if isinstance(x, PackedSequence) or (isinstance(x, (list, tuple, Mapping)) and _holds_packed(x)):
                return self.pack_outputs(self.run(self._flat("x", x), training=bool(training))[0])
        return self.predict_step(as_batch(x, None, None, self.layout), mask, bool(training))

    def _connected(self, inputs: Sequence[KerasTensor], mask: Any, training: bool | None) -> Any:
        """Return the symbolic outputs for symbolic inputs."""
        for own, given in zip(self.inputs, symbolic_list("x", inputs), strict=True):
            self._require_shape(own, given.shape)
        node = Node(self, [*inputs], [], training, masks=symbolic_masks(mask, inputs, self))
        return pack_as(self.output_structure, connect(node))

    def predict_outputs(self, batch: Batch, mask: Any = None, training: bool = False) -> list[Any]:
        """Return the outputs of one batch, prepared if it is small."""
        found = None if training else self._prepared.run(batch.x[0], mask)
        if found is None:
            return super().predict_outputs(batch, mask, training)
        self.tokens_seen += found[1]
        return [found[0]]

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

    def run(
        self, x: Sequence[Any], mask: ArrayLike | None = None, *, training: bool = False, keep: bool = False
    ) -> tuple[list[Any], Callable[[Sequence[Any]], list[GradientOf]]]:
        """Return the outputs, packed where they have a time axis, and their pullback.

        Parameters
        ----------
        x : sequence of array_like, list of sequences, or PackedSequence
            One for each input.
        mask, training
            As for a call.
        keep : bool, default False
            Whether the pullback will be used.

        Returns
        -------
        outputs : list of ndarray or PackedSequence
        pullback : callable
            Takes the gradients by the outputs' values, None for zeros, and returns those by
            `trainable_weights`, each beside its variable, None where no gradient arrives.
        """
        plans: Plans = []
        run = Run(self.graph, training, keep)
        outputs = run.forward([Entry(value, mask, plans) for value in x])
        self.tokens_seen += sum([plan.tokens for plan in plans]) if plans else len(x[0])

        def pullback(gradients: Sequence[Any]) -> list[GradientOf]:
            weights = run.backward(gradients)[1]
            return [(weights.get(id(variable)), variable) for variable in self.trainable_weights]

        return outputs, pullback

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

    def reset_states(self) -> None:
        """Forget the states that stateful layers keep."""
        for layer in self.layers:
            if isinstance(layer, Model) or getattr(layer, "stateful", False):
                layer.reset_states()  # type: ignore[attr-defined]

    def graph_config(self) -> dict[str, Any]:
        """Return the graph as Keras writes it, whatever class the model has."""
        return configs.functional_config(self, map_structure)

    def get_config(self) -> dict[str, Any]:
        """Return the graph as Keras writes it, without weights, and the arguments of a subclass's constructor.

        Without the graph if that constructor makes it, and takes no inputs and outputs.
        """
        known = {"name": self.name, "trainable": self.trainable}
        if configs.takes_graph(type(self)):
            known = self.graph_config()
        return known | self.kept_arguments((*known, *self.graph_arguments))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Self:
        """Return a new model, with new weights, made from what `get_config` returned.

        A subclass is made with all entries of `config` as arguments of its constructor, but for a graph, which becomes
        its inputs and outputs.

        Parameters
        ----------
        config : dict
        custom_objects : dict of str to class, optional
            Layer classes of your own by name.

        Raises
        ------
        TypeError
            If the constructor of a subclass takes other arguments.
        """
        if not (configs.takes_graph(cls) and layer_configs(config)):
            return cast(Self, configs.made(cls, config))
        inputs, outputs = configs.rebuilt(config, custom_objects)
        given = configs.beside_graph(cls is Model, config) | {"inputs": inputs, "outputs": outputs}
        return cast(Self, configs.made(cls, given))


def _tensors(name: str, structure: Any) -> list[KerasTensor]:
    tensors = flatten(structure)
    for tensor in tensors:
        if not isinstance(tensor, KerasTensor):
            raise TypeError(f"{name}: expected results of Input and of layers called on them, got {tensor!r}")
    if not tensors:
        raise ValueError(f"{name}: expected at least one tensor, got {structure!r}")
    return cast(list[KerasTensor], tensors)


def _holds_packed(x: Any) -> bool:
    return any(isinstance(value, PackedSequence) for value in flatten(x))


def _only(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def _entry(x: Any, mask: Any, plans: Plans) -> Entry:
    array = np.asarray(x)
    return Entry(array, mask, plans, live=array.dtype.kind == "f")
