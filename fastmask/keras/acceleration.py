"""Layers of existing Keras models, and models, made to run on the kernels, and the way back."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import keras

from fastmask.keras import support
from fastmask.keras.layers import _OnKernels
from fastmask.keras.loop import inner_loop

_FUNCTIONS = ("train_function", "test_function", "predict_function")
_OWN_LOOPS = {cls: cls.inner_loop for cls in (keras.layers.LSTM, keras.layers.GRU, keras.layers.RNN)}
_OWN_CALLS = {cls.call for cls in (keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN, keras.layers.RNN)}
# `supports_jit` of layers and `jit_compile` of models as they were before they were accelerated.
_supported_jit: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
_compiled_jit: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class Entry:
    """What became of one recurrent layer.

    Attributes
    ----------
    name : str
        Of the layer, behind those of the layers and models around it.
    kind : str
        Its class.
    accelerated : bool
    reason : str
        Why it was left to Keras, or which of its calls are; empty if none.
    """

    name: str
    kind: str
    accelerated: bool
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """What `accelerate` did; printing it shows a line for each recurrent layer.

    Attributes
    ----------
    entries : tuple of Entry
    """

    entries: tuple[Entry, ...]

    @property
    def accelerated(self) -> tuple[str, ...]:
        """Names of the layers that run on the kernels."""
        return tuple(entry.name for entry in self.entries if entry.accelerated)

    @property
    def left(self) -> tuple[str, ...]:
        """Names of the recurrent layers that stay with Keras."""
        return tuple(entry.name for entry in self.entries if not entry.accelerated)

    def __str__(self) -> str:
        if not self.entries:
            return "fastmask: the model has no recurrent layers"
        lines = [f"fastmask: {len(self.accelerated)} of {len(self.entries)} recurrent layers run on its kernels"]
        for entry in self.entries:
            text = f"  {entry.name} ({entry.kind}): {'accelerated' if entry.accelerated else 'left to Keras'}"
            note = f", but not with {entry.reason}" if entry.accelerated else f", because {entry.reason}"
            lines.append(text + (note if entry.reason else ""))
        return "\n".join(lines)

    __repr__ = __str__


def accelerate(model: Any) -> Report:
    """Let the recurrent layers of a Keras model run on the kernels of fastmask.

    Names, weights, config and files of the model stay as they are; so do its results, to rounding. It works before
    and after `compile` and `fit`, on models within models, and on layers inside `Bidirectional` and
    `TimeDistributed`. A model made from this one by ``clone_model`` or from its file is not accelerated.

    Parameters
    ----------
    model : keras.Model or keras.Layer

    Returns
    -------
    Report
        What was accelerated, and what was left to Keras and why.

    Raises
    ------
    TypeError
        If `model` is no Keras layer or model.
    """
    _require_layer(model)
    entries = []
    for name, layer in _recurrent_layers(model):
        reason = _refusal(layer)
        if reason is None and not isinstance(layer, _OnKernels):
            _bind(layer)
        note = (support.training_refusal(layer) if reason is None else reason) or ""
        entries.append(Entry(name, type(layer).__name__, reason is None, note))
    for inner in _models(model):
        _rebuild(inner)
    return Report(tuple(entries))


def restore(model: Any) -> None:
    """Undo `accelerate`: the layers run on Keras's own path again.

    Layers of the classes in `fastmask.keras` stay what they are.

    Parameters
    ----------
    model : keras.Model or keras.Layer

    Raises
    ------
    TypeError
        If `model` is no Keras layer or model.
    """
    _require_layer(model)
    for _, layer in _recurrent_layers(model):
        if layer in _supported_jit:
            del layer.inner_loop
            layer.supports_jit = _supported_jit.pop(layer)
    for inner in _models(model):
        if inner in _compiled_jit:
            inner.jit_compile = _compiled_jit.pop(inner)
        forget(inner)


def is_accelerated(layer: Any) -> bool:
    """Return whether a recurrent layer runs on the kernels."""
    return layer in _supported_jit or isinstance(layer, _OnKernels)


def _keras_loop(layer: Any) -> Any:
    """Return the bound `inner_loop` that Keras gave a layer."""
    found = next(_OWN_LOOPS[cls] for cls in type(layer).__mro__ if cls in _OWN_LOOPS)
    return MethodType(found, layer)


def _bind(layer: Any) -> None:
    if layer in _supported_jit:
        return
    _supported_jit[layer] = layer.supports_jit
    layer.inner_loop = MethodType(_accelerated_loop, layer)
    if keras.config.backend() == "tensorflow":
        layer.supports_jit = False


def _accelerated_loop(self: Any, sequences: Any, initial_state: Any, mask: Any, training: Any = False) -> Any:
    return inner_loop(self, _keras_loop(self), sequences, initial_state, mask, training)


def _refusal(layer: Any) -> str | None:
    """Return why a layer is left to Keras, None if it is not."""
    own = type(layer).inner_loop
    known = type(layer).call in _OWN_CALLS and (own in _OWN_LOOPS.values() or hasattr(own, "fastmask"))
    if not known and not isinstance(layer, _OnKernels):
        return f"{type(layer).__name__} has a loop of its own"
    return support.layer_refusal(layer)


def has_layers_for_kernels(model: Any) -> bool:
    """Return whether a model has a recurrent layer that the kernels can run."""
    return any(_refusal(layer) is None for _, layer in _recurrent_layers(model))


def _recurrent_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the recurrent layers in a model, each once, with the names of the layers around it."""
    seen: set[int] = set()

    def walk(layer: Any, path: str) -> Iterator[tuple[str, Any]]:
        for inner in layer._flatten_layers(include_self=False, recursive=False):
            if id(inner) in seen:
                continue
            seen.add(id(inner))
            name = f"{path}{inner.name}"
            if isinstance(inner, keras.layers.RNN):
                yield name, inner
            else:
                yield from walk(inner, f"{name}/")

    if isinstance(model, keras.layers.RNN):
        yield model.name, model
    else:
        yield from walk(model, "")


def _models(model: Any) -> list[Any]:
    return [layer for layer in model._flatten_layers() if isinstance(layer, keras.Model)]


def _rebuild(model: Any) -> None:
    """Have a model with layers on the kernels trace its functions anew, without XLA where that cannot call them."""
    if not has_layers_for_kernels(model):
        return
    forget(model)
    if keras.config.backend() == "tensorflow" and model.compiled and model.jit_compile:
        _compiled_jit.setdefault(model, True)
        model.jit_compile = False


def forget(model: Any) -> None:
    """Have a model with recurrent layers trace its functions anew."""
    for name in _FUNCTIONS if any(_recurrent_layers(model)) else ():
        if getattr(model, name, None) is not None:
            setattr(model, name, None)


def _require_layer(model: Any) -> None:
    if not isinstance(model, keras.Layer):
        raise TypeError(f"model: expected a Keras model or layer, got {type(model).__name__}")
