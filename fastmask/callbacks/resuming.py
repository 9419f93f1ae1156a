"""All that a training needs to go on in another process with the same bits."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from fastmask import random
from fastmask.layers.base.holder import WeightHolder
from fastmask.layers.base.variable import Variable, fill
from fastmask.layers.rnn.base import Recurrent
from fastmask.saving.compiled import slots

Numbers = dict[str, Any]

_FORM: dict[str, type] = {
    "kind": dict, "weights": list, "iterations": int, "learning_rate": np.ndarray, "slots": list, "epoch": int,
    "step": int, "stop": bool, "position": dict, "held_out": dict, "random": dict, "layers": list, "metrics": list,
    "callbacks": list,
}  # fmt: skip
_POSITION: dict[str, type] = {"random": dict, "taken": int}
_LARGEST = 2**62
_NUMBERS = (int, float, np.generic, np.ndarray)


def get_state(model: Any) -> Numbers:
    """Return the state of a model within `fit`, in numbers, strings and arrays; these are not copies.

    It has the weights; the optimizer's state; epoch, step, and the place in the data; the random
    generators of package, layers, NumPy and Python; the states of stateful layers; the means of
    losses and metrics so far; and what callbacks return from `state_dict`.
    """
    place = model.place
    return _beside_arrays(model) | {
        "kind": _kind(model),
        "weights": [variable.value for variable in model.weights],
        "slots": [slot.value for slot in slots(model.optimizer, model.trainable_weights)],
        "position": place.source.position(),
        "held_out": {} if place.held_out is None else place.held_out.position(),
    }


def _beside_arrays(model: Any) -> Numbers:
    place = model.place
    return {
        "iterations": model.optimizer.iterations,
        "learning_rate": model.optimizer._fixed_rate.value,
        "epoch": place.epoch,
        "step": place.step,
        "stop": model.stop_training,
        "random": random.get_state(),
        "layers": [_layer_state(layer) for layer in _layers(model)],
        "metrics": [_numbers(metric) for metric in model.metrics],
        "callbacks": [[type(callback).__name__, callback.state_dict()] for callback in place.callbacks],
    }


def check(model: Any, state: Mapping[str, Any]) -> None:
    """Raise ValueError if a state is malformed, or that of another kind of model, optimizer or list of metrics."""
    _require_form(state, _FORM)
    for position in (state["position"], state["held_out"]):
        if position:
            _require_form(position, _POSITION)
            random.check_state(position["random"])
    for name in ("iterations", "epoch", "step"):
        if not 0 <= state[name] < _LARGEST:
            raise ValueError(f"the backup is malformed; {name}: expected a count, got {state[name]}")
    for name, value in _kind(model).items():
        if state["kind"].get(name) != value:
            raise ValueError(f"{name}: expected {state['kind'].get(name)}, as in the backup, got {value}")
    for name, own in (("metrics", model.metrics), ("layers", _layers(model))):
        if len(state[name]) != len(own):
            raise ValueError(f"{name}: expected {len(state[name])}, as in the backup, got {len(own)}")
    shapes = [np.shape(value) for value in (*state["weights"], *state["slots"])]
    if shapes != [variable.shape for variable in _variables(model)]:
        raise ValueError("weights: expected shapes as in the backup, of the optimizer's state as well, got others")
    for own, numbers in zip(model.metrics, state["metrics"], strict=True):
        if not all(isinstance(numbers[name], _NUMBERS) for name in _numbers(own)):
            raise ValueError(f"the backup is malformed: it lacks the numbers of metric {own.name!r}")
    model.place.source.check(state["position"])
    if model.place.held_out is not None:
        model.place.held_out.check(state["held_out"])


def _require_form(state: Any, form: Mapping[str, type]) -> None:
    for name, kind in form.items():
        if not isinstance(state, dict) or not isinstance(state.get(name), kind):
            raise ValueError(f"the backup is malformed: it lacks an entry {name!r} of type {kind.__name__}")


def wind_forward(model: Any, state: Mapping[str, Any]) -> None:
    """Go to the place in the data at which a state was taken; ValueError if the data are others."""
    model.place.source.resume(state["position"])
    if model.place.held_out is not None:
        model.place.held_out.resume(state["held_out"])


def set_state(model: Any, state: Mapping[str, Any]) -> None:
    """Give a model within `fit` the state that `get_state` returned and `check` accepts.

    Whatever is raised, by callbacks too, the model, its callbacks and the generators are then as before.
    """
    values = [*state["weights"], *state["slots"]]
    pairs = [(variable, variable.checked(value)) for variable, value in zip(_variables(model), values, strict=True)]
    before = deepcopy(_beside_arrays(model))
    try:
        _set_beside_arrays(model, state)
    except BaseException:
        _set_beside_arrays(model, before)
        raise
    fill(pairs)


def _set_beside_arrays(model: Any, state: Mapping[str, Any]) -> None:
    """Give a model all of a state but the weights and the optimizer's slots."""
    place, optimizer = model.place, model.optimizer
    optimizer.iterations = state["iterations"]
    optimizer._fixed_rate.assign(state["learning_rate"])
    place.epoch, place.step, place.ended = state["epoch"], state["step"], state["stop"]
    model.stop_training = state["stop"]
    for metric, numbers in zip(model.metrics, state["metrics"], strict=True):
        for name in _numbers(metric):
            setattr(metric, name, numbers[name])
    for layer, own in zip(_layers(model), state["layers"], strict=True):
        _set_layer_state(layer, own)
    _set_callbacks(place.callbacks, state["callbacks"])
    random.set_state(state["random"])


def _variables(model: Any) -> list[Variable]:
    return [*model.weights, *slots(model.optimizer, model.trainable_weights)]


def _kind(model: Any) -> Numbers:
    """Return what must not change between a backup and its use."""
    return {
        "weights": [[str(variable.dtype), *variable.shape] for variable in model.weights],
        "optimizer": type(model.optimizer).__name__,
        "metrics": [type(metric).__name__ for metric in model.metrics],
    }


def _layers(model: Any) -> list[WeightHolder]:
    """Return a model and all layers in it, each once, in an order that its making alone decides."""
    found: dict[int, WeightHolder] = {}

    def visit(layer: WeightHolder) -> None:
        if id(layer) not in found:
            found[id(layer)] = layer
            for inner in layer.sublayers.values():
                visit(inner)

    visit(model)
    return list(found.values())


def _generators(layer: WeightHolder) -> Iterator[np.random.Generator]:
    for value in vars(layer).values():
        if isinstance(value, random.SeedGenerator):
            yield value.generator
        elif isinstance(value, np.random.Generator):
            yield value


def _layer_state(layer: WeightHolder) -> Numbers:
    return {
        "random": [generator.bit_generator.state for generator in _generators(layer)],
        "states": getattr(layer, "states", None),
    }


def _set_layer_state(layer: WeightHolder, state: Mapping[str, Any]) -> None:
    for generator, value in zip(_generators(layer), state["random"], strict=True):
        generator.bit_generator.state = value
    states = state["states"]
    if isinstance(layer, Recurrent) and states is not None:
        layer.states = layer.initial_states(states, len(states[0]))
    elif hasattr(layer, "states"):
        layer.states = None if states is None else tuple(states)


def _numbers(metric: Any) -> Numbers:
    """Return the attributes of a metric that are numbers or arrays of them."""
    return {name: value for name, value in vars(metric).items() if isinstance(value, _NUMBERS)}


def _set_callbacks(callbacks: Sequence[Any], states: Sequence[Any]) -> None:
    """Give each callback the state of the first one of its class that is left, if there is one."""
    left: dict[str, list[Any]] = {}
    for name, state in states:
        left.setdefault(name, []).append(state)
    for callback in callbacks:
        found = left.get(type(callback).__name__)
        if found:
            callback.load_state_dict(found.pop(0))
