"""Modules of PyTorch as models."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from inspect import Parameter, signature
from typing import Any

import torch
from torch.fx import Graph, Node, Tracer
from torch.overrides import TorchFunctionMode

from fastmask.convert.torch import modules
from fastmask.convert.torch.forward import Forward
from fastmask.convert.torch.operations import WrongLayoutError, is_in_place
from fastmask.convert.torch.values import NoCounterpartError, RecurrentStack
from fastmask.core import budget
from fastmask.models import Model

_FACTORIES = (torch.zeros, torch.zeros_like)


def from_torch(module: Any, input_shape: Any = None, *, mask_padding: bool | None = None) -> Model:
    """Return a model that predicts what a module of PyTorch predicts, with copies of its weights.

    Parameters
    ----------
    module : torch.nn.Module
        An ``Embedding``, ``LSTM``, ``GRU``, ``RNN``, ``Linear``, ``LayerNorm``, ``BatchNorm1d``, ``Dropout``,
        ``Flatten`` or activation, one of `fastmask.torch`, or a module of such modules: a ``Sequential``, or one of
        yours whose ``forward`` torch.fx can trace.
    input_shape : tuple, or mapping of str to tuple, optional
        Shape of the input, or of the inputs by the names of the arguments, without the batch axis; None for an axis of
        any length. Needed where no module tells it.
    mask_padding : bool, optional
        Whether the ids that an ``Embedding`` names as its ``padding_idx`` are masked. By default only where the module
        itself packs what comes behind it (``pack_padded_sequence``).

    Returns
    -------
    Model
        Its layers have the names of the modules, with dashes for dots; those of a recurrent module end in ``_l0``,
        ``_l1``, ..., so that ``module.load_state_dict`` takes what ``model.torch_weights()`` returns, as tensors.

    Raises
    ------
    ValueError
        If the forward cannot be traced or does something that there are no layers for; the message names it.
    TypeError
        If `module` is no module.
    ImportError
        If PyTorch is missing (``pip install "fastmask[torch]"``).

    Notes
    -----
    The model takes and gives the batch first, whatever `batch_first` says. Arguments of the forward that have defaults
    keep them. The result of a recurrent module that nothing is picked from stands for its outputs, without the states.

    In PyTorch ``padding_idx`` keeps the gradient from a row of the table, and the module goes over the padding as over
    any other step; so does the model, unless it masks. Then each row gives what the module gives for it alone, without
    its padding, and the lengths that the module packs by are no input: rows may be lists, too, or the mask passed to
    the call.
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    shapes = input_shape if isinstance(input_shape, Mapping) else {} if input_shape is None else {"": input_shape}
    wide = any(parameter.dtype is torch.float64 for parameter in module.parameters())
    options: dict[str, Any] = {"shapes": shapes, "dtype": "float64" if wide else "float32"}
    graph = _traced(module)
    _check_in_place(module, graph)
    # The weights that layers start from are about to be overwritten.
    with budget.placeholders(sys.maxsize):
        first = _laid_out(module, graph, options)
        if mask_padding and not first.pads:
            raise ValueError("mask_padding: expected an Embedding with a padding_idx in the module, got none")
        masked = first.packs if mask_padding is None else bool(mask_padding)
        needs = {name: made.taken for name, made in first.made.items() if isinstance(made, RecurrentStack)}
        found = Forward(module, graph, time_major=first.time_major, needs=needs, masked=masked, **options)
        inputs = [found.inputs[node].tensor for node in graph.nodes if node in found.inputs]
        model = Model(inputs if len(inputs) > 1 else inputs[0], found.outputs)
    _take_weights(found, module)
    return model


def _take_weights(found: Forward, module: Any) -> None:
    for name, made in found.made.items():
        weights = module.get_submodule(name).state_dict()
        if not isinstance(made, RecurrentStack):
            if made.weights:
                made.set_torch_weights(weights)
            continue
        for number, layer in enumerate(made.layers):
            layer.set_torch_weights(weights, number=number)


def _check_in_place(module: Any, graph: Graph) -> None:
    """Raise NoCounterpartError if something is changed in place and used again."""
    for node in graph.nodes:
        called = module.get_submodule(node.target) if node.op == "call_module" else None
        source = node.args[0] if node.args and isinstance(node.args[0], Node) else None
        if source is None or not (getattr(called, "inplace", False) or is_in_place(node)):
            continue
        if any(node < user for user in source.users):
            raise NoCounterpartError(f"{node.name}: expected nothing changed in place that is used again, got {source}")


def _laid_out(module: Any, graph: Graph, options: dict[str, Any]) -> Forward:
    """Return all layers that the forward may need, for inputs with the batch first or, where that fits, the time."""
    errors = []
    for time_major in (False, True):
        try:
            return Forward(module, graph, time_major=time_major, needs={}, masked=False, **options)
        except WrongLayoutError as error:
            errors.append(error)
    raise errors[0]


def _traced(module: Any) -> Graph:
    """Return what the forward of a module does to predict; the arguments with defaults have these."""
    hooked = [name for name, part in module.named_modules() if part._forward_hooks or part._forward_pre_hooks]
    if hooked:
        raise ValueError(f"module: expected no hooks around a forward, got some of {hooked[0] or 'the module'!r}")
    if modules.is_leaf(module):
        graph = Graph()
        graph.output(graph.call_module("", (graph.placeholder("x"),)))
        return graph
    tracer = _Tracer(autowrap_modules=(torch.nn.utils.rnn,))
    arguments = signature(module.forward).parameters.values()
    defaults = {argument.name: argument.default for argument in arguments if argument.default is not Parameter.empty}
    before, training = set(vars(module)), [part for part in module.modules() if part.training]
    try:
        with _Factories(tracer):
            return tracer.trace(module.eval(), defaults)
    except Exception as error:  # whatever the forward does with what stands for its tensors
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"module: expected one whose forward torch.fx can trace, got {what}") from error
    finally:
        for name in set(vars(module)) - before:  # constants that the tracer has left
            delattr(module, name)
        for part in training:
            part.training = True


class _Tracer(Tracer):
    def is_leaf_module(self, module: Any, qualified_name: str) -> bool:
        return modules.is_leaf(module)


class _Factories(TorchFunctionMode):
    """The time in which zeros of a size that depends on the inputs are made as a part of the graph."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _FACTORIES:
            return self._tracer.create_proxy("call_function", function, args, kwargs or {})
        return function(*args, **(kwargs or {}))
