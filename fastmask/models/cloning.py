"""Models made anew: the same layers and calls, with weights of their own."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, cast

from fastmask.core.structure import flatten, map_structure, pack_as, paths
from fastmask.layers import Layer
from fastmask.layers.base.symbolic import KerasTensor
from fastmask.layers.input import Input, InputLayer
from fastmask.layers.logic import MaskOperation
from fastmask.models import configs
from fastmask.models.functional import Model
from fastmask.models.sequential import Sequential


def clone_model(
    model: Any,
    input_tensors: Any = None,
    clone_function: Callable[[Any], Any] | None = None,
    call_function: Callable[..., Any] | None = None,
    recursive: bool = False,
) -> Any:
    """Return a model like another, with new layers and new weights.

    It is compiled as the other is.

    Parameters
    ----------
    model : Sequential or Model
    input_tensors : KerasTensor, or list or dict of them, optional
        What the model is built upon, in the form of its inputs; new ones by default.
    clone_function : callable, optional
        Takes a layer and returns the one in its place; by default a new one with its config. Not for inputs.
    call_function : callable, optional
        Takes a new layer and the arguments of its call, and returns the outputs. Not for a Sequential.
    recursive : bool, default False
        Whether models within the model are cloned in the same way, instead of by `clone_function`.

    Raises
    ------
    TypeError
        If `model` is no model of fastmask, or `clone_function` returns something else than layers.
    ValueError
        If `input_tensors` have another form, or there is a `call_function` for a Sequential.
    """
    if not isinstance(model, Model):
        raise TypeError(f"model: expected a Sequential or Model, got {model!r}")
    if isinstance(model, Sequential) and call_function is not None:
        raise ValueError(f"call_function: expected None for a Sequential, got {call_function!r}")
    return _Cloner(clone_function or _by_config, call_function or _plain_call, recursive).model(model, input_tensors)


class _Cloner:
    """Makes new layers and calls them; each layer is made once, however often it is called."""

    def __init__(self, clone: Callable[[Any], Any], call: Callable[..., Any], recursive: bool) -> None:
        self.clone, self.call, self.recursive = clone, call, recursive
        self.known: dict[int, Layer] = {}

    def model(self, model: Model, tensors: Any = None) -> Model:
        made = self._stack(model, tensors) if isinstance(model, Sequential) else self._graph(model, tensors)
        if model.optimizer is not None:
            optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
            made.compile(optimizer, **deepcopy({**model.compile_arguments}))
        return made

    def _layer(self, layer: Any) -> Layer:
        if id(layer) not in self.known:
            if self.recursive and isinstance(layer, Model):
                found: Any = self.model(layer)
            else:
                found = (_by_config if isinstance(layer, MaskOperation) else self.clone)(layer)
            if not isinstance(found, Layer):
                raise TypeError(f"clone_function: expected one that returns layers, got one that returned {found!r}")
            self.known[id(layer)] = found
        return self.known[id(layer)]

    def _stack(self, model: Sequential, tensors: Any) -> Sequential:
        given = model.start if tensors is None else flatten(tensors)
        if len(given) > 1 or not all(isinstance(tensor, KerasTensor) for tensor in given):
            raise ValueError(f"input_tensors: expected one symbolic tensor for a Sequential, got {tensors!r}")
        own = tensors is not None and isinstance(given[0].history.layer, InputLayer)
        start = given if own else [_new_input(tensor) for tensor in given]
        layers = [self._layer(layer) for layer in model.layers]
        return Sequential([*start, *layers], name=model.name, trainable=model.trainable)

    def _graph(self, model: Model, tensors: Any) -> Model:
        inputs = map_structure(_new_input, model.input_structure) if tensors is None else tensors
        starts = flatten(inputs)
        fits = all(isinstance(tensor, KerasTensor) for tensor in starts) and len(starts) == len(model.inputs)
        if not fits or paths(inputs) != paths(model.input_structure):
            raise ValueError(
                f"input_tensors: expected symbolic tensors in the form {model.input_structure!r}, got {inputs!r}"
            )
        known = dict(zip(model.inputs, starts, strict=True))
        for node in model.graph.nodes:
            if node.inputs:
                x, options = node.arguments(known.__getitem__)
                found = self.call(self._layer(node.layer), x, **options)
                known |= dict(zip(node.outputs, flatten(found), strict=True))
        outputs = pack_as(model.output_structure, [known[tensor] for tensor in model.outputs])
        cls = type(model) if configs.takes_graph(type(model)) else Model
        return cast(Model, configs.made(cls, {"inputs": inputs, "outputs": outputs, "name": model.name}))


def _by_config(layer: Any) -> Any:
    return type(layer).from_config(layer.get_config())


def _plain_call(layer: Any, *args: Any, **options: Any) -> Any:
    return layer(*args, **options)


def _new_input(tensor: KerasTensor) -> KerasTensor:
    return Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
