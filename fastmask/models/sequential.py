"""Sequential: a model whose layers follow one another."""

from collections.abc import Iterable, Mapping
from typing import Any, Self, cast

import numpy as np

from fastmask.batch.data import InputSpec, Layout
from fastmask.batch.packing import PackedSequence
from fastmask.core.stored import stored_property
from fastmask.layers import Embedding, Layer
from fastmask.layers.base import checks, flow
from fastmask.layers.base.exchange import TorchForm
from fastmask.layers.base.layer import describe
from fastmask.layers.base.serialization import layer_configs
from fastmask.layers.base.symbolic import KerasTensor
from fastmask.layers.input import Input, InputLayer
from fastmask.models import configs
from fastmask.models.functional import Model

Shape = tuple[int | None, ...]


class Sequential(Model):
    """A stack of layers.

    Parameters
    ----------
    layers : iterable of Layer, optional
        May start with an `Input`.
    name : str, optional
        Made from the class name when left out.
    trainable : bool, default True

    Attributes
    ----------
    layers : list of Layer
        Without that of the input.
    mask_sources : list of Layer or None
        For every layer the one that made the mask which its output carries, None if none.
    optimizer, loss, history, stop_training
        See `compile` and `fit`.

    Notes
    -----
    Where the first layer fixes the shape of the input (an `Input` before it, an `Embedding`, or
    `input_shape=`), layers are built when they are added; otherwise, and after a `Flatten` of sequences of
    any length, by `build` or the first batch.
    """

    keras_class = ("keras", "Sequential", None)
    counts_making = False
    graph_arguments = ("layers",)

    def __init__(
        self, layers: Iterable[Layer | KerasTensor] | None = None, name: str | None = None, trainable: bool = True
    ) -> None:
        self._shapes: dict[str, Any] = {}
        self._begin(name)
        self._tensors: list[KerasTensor] = []
        self._names: set[str] = set()
        self.mask_sources: list[Layer | None] = []
        for layer in layers or ():
            self.add(layer)
        if not trainable:
            self.trainable = False

    def add(self, layer: Any) -> None:
        """Put a layer on top.

        Parameters
        ----------
        layer : Layer, or result of Input

        Raises
        ------
        TypeError
            If it is no layer, or one that cannot take the mask that reaches it.
        ValueError
            If the model has a layer of this name, or the shapes do not fit.
        """
        if isinstance(layer, KerasTensor) and isinstance(layer.history.layer, InputLayer):
            layer = layer.history.layer
        if isinstance(layer, InputLayer):
            if self.layers or self._tensors:
                raise ValueError("layer: expected an Input only as the first entry of a Sequential, got one later")
            self._tensors = [layer.nodes[0].outputs[0]]
            return
        if not isinstance(layer, Layer):
            raise TypeError(f"layer: expected a Layer or an Input, got {layer!r}")
        if layer.name in self._names:
            raise ValueError(f"layers: expected different names, got {layer.name!r} twice")
        source = self.mask_sources[-1] if self.layers else None
        if source is not None:
            layer.require_masking(source)
        if not layer.built:
            layer.parent_path = self.name
        if not self.layers and not self._tensors:
            shape = _first_shape(layer)
            self._tensors = [] if shape is None else [Input(batch_shape=shape)]
        if len(self._tensors) == len(self.layers) + 1:
            self._chain([layer])
        self.layers.append(layer)
        self._names.add(layer.name)
        self.dtype = layer.dtype
        self._renew()

    def pop(self) -> Layer:
        """Take the last layer off and return it; IndexError if there is none."""
        if not self.layers:
            raise IndexError("the model has no layers to pop")
        layer = self.layers.pop()
        self._names.discard(layer.name)
        del self.mask_sources[-1], self._tensors[len(self.layers) + 1 :]
        self._renew()
        return layer

    def build(self, input_shape: Any = None) -> None:
        """Create the weights of all layers for inputs of a shape (with the batch axis).

        A model that is built already only checks that it takes such inputs.

        Raises
        ------
        ValueError
            If a layer cannot take what it would get.
        TypeError
            If it cannot take the mask that reaches it.
        """
        if input_shape is None:
            return
        self._layers_or_fail()
        if self.built:
            self._require_shape(self.inputs[0], checks.plain_shape(input_shape), "input_shape")
            return
        for tensor in self._tensors[:0:-1]:  # calls on a shape that has turned out to say too little
            nodes = tensor.history.layer.nodes
            del nodes[len(nodes) - (nodes[-1] is tensor.node) :]
        self._tensors, self.mask_sources = [Input(batch_shape=input_shape)], []
        self._chain(self.layers)
        self._renew()

    def _chain(self, layers: Iterable[Layer]) -> None:
        """Call layers one after the other on the last tensor, up to one whose weights need a size not yet known."""
        for layer in layers:
            last = self._tensors[-1]
            if last.shape[-1] is None and not layer.built and not layer.input_takes_ids(0):
                return
            y = layer(last)
            if not isinstance(y, KerasTensor):
                shapes = layer.output_shape
                raise ValueError(f"{describe(layer)}: expected one output in a Sequential, got {shapes}")
            self._tensors.append(y)

    def _renew(self) -> None:
        """Bring what is known of the model up to date with the layers."""
        for i, layer in enumerate(self.layers[len(self.mask_sources) :], len(self.mask_sources)):
            incoming = self.mask_sources[-1] if i else None
            passed = layer if layer.makes_mask else incoming if layer.passes_mask else None
            chained = i + 1 < len(self._tensors)
            self.mask_sources.append(self._tensors[i + 1].mask_source if chained else passed)
        if self.layers and len(self._tensors) == len(self.layers) + 1:
            self._set_graph(self._tensors[0], self._tensors[-1])
        else:
            self._forget_graph()
            self.built, self.input_shape, self.output_shape = False, None, None
            self.output_form = self.layers[-1].name if self.layers else "y"
            self.output_names = [self.output_form]

    @property
    def start(self) -> list[KerasTensor]:
        """The symbolic input in a list, which is empty while its shape is unknown."""
        return self._tensors[:1]

    @property
    def operations(self) -> list[Layer]:
        """The layers."""
        return self.layers

    def torch_forms(self, number: int) -> list[TorchForm]:
        weighted = [layer for layer in self.layers if layer.weights]
        if not all(layer.has_number for layer in weighted):
            return super().torch_forms(number)
        return [form for place, layer in enumerate(weighted) for form in layer.torch_forms(place)]

    @property
    def input_shape(self) -> Any:
        """Shape of the input with the batch axis; AttributeError while it is unknown."""
        return self._known("input_shape")

    @input_shape.setter
    def input_shape(self, value: Any) -> None:
        self._shapes["input_shape"] = value

    @property
    def output_shape(self) -> Any:
        """Shape of the output with the batch axis; AttributeError while it is unknown."""
        return self._known("output_shape")

    @output_shape.setter
    def output_shape(self, value: Any) -> None:
        self._shapes["output_shape"] = value

    def _known(self, name: str) -> Any:
        if self._shapes.get(name) is None:
            raise AttributeError(f"model {self.name!r} has no {name.replace('_', ' ')} until it is built")
        return self._shapes[name]

    def input_takes_ids(self, index: int) -> bool:
        """Return whether the input holds integer ids."""
        return self._layers_or_fail()[0].input_takes_ids(index)

    def _data_shape(self, tensor: KerasTensor) -> Shape:
        """Return the shape that data must have; as in Keras, their length is free."""
        return (tensor.shape[0], None, *tensor.shape[2:]) if tensor.ndim > 2 or self.takes_ids else tensor.shape

    @stored_property
    def layout(self) -> Layout:
        """What data for this model must look like."""
        if self.built:
            return super().layout
        rank = self._layers_or_fail()[0].input_rank
        spec = InputSpec("x", self.takes_ids, None if rank is None else (None,) * rank)
        return Layout((spec,), tuple(self.output_names), "x", self.output_form)

    def _kept_tensors(self) -> Any:
        return self._tensors

    def _take_tensors(self, tensors: Any) -> None:
        self._tensors = tensors
        self._renew()

    def run(self, x: Any, mask: Any = None, *, training: bool = False, keep: bool = False) -> Any:
        """Build the model if need be, and run it as any model."""
        if not self.built:
            self._build_for(x[0])
        return super().run(x, mask, training=training, keep=keep)

    def apply(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Build the model if need be, and call it as any model."""
        if not self.built:
            self._build_for(x if isinstance(x, (PackedSequence, np.ndarray)) else np.asarray(x))
        return super().apply(x, *args, **kwargs)

    def compute_output_shape(self, input_shape: Any, **options: Any) -> Any:
        """Return the shape of the output for inputs of `input_shape`, both with the batch axis."""
        self.build(None if self.built else input_shape)
        return super().compute_output_shape(input_shape)

    def _build_for(self, x: Any) -> None:
        first = self._layers_or_fail()[0]
        if self.built:
            return
        if isinstance(x, list):
            x = PackedSequence.from_list(x)
        shape = flow.open_shape(x)
        if not isinstance(x, PackedSequence) and len(shape) == (2 if first.takes_ids else 3):
            self.build((None, None, *shape[2:]))
        if not self.built:
            self.build(shape)

    def _layers_or_fail(self) -> list[Layer]:
        if not self.layers:
            raise ValueError(f"model {self.name!r} has no layers: add some first")
        return self.layers

    def graph_config(self) -> dict[str, Any]:
        """Return the layers as Keras writes them, whatever class the model has."""
        return configs.sequential_config(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Self:
        """Return a new model, with new weights, made from what `get_config` returned; see `Model.from_config`."""
        if not configs.takes_graph(cls) or (config.get("layers") and not layer_configs(config)):
            return cast(Self, configs.made(cls, config))
        layers, shape = configs.layers_of(config, custom_objects)
        model = cast(Self, configs.made(cls, configs.beside_graph(cls is Sequential, config) | {"layers": layers}))
        if shape is not None and not model.built and model.layers:
            model.build(shape)
        return model


def _first_shape(layer: Layer) -> Shape | None:
    """Return the shape that a first layer asks for, None if it does not."""
    if layer.is_graph:
        return layer.input_shape if layer.built else None
    if layer.declared_shape is None and isinstance(layer, Embedding):
        return (None, layer.input_length)
    return layer.declared_shape
