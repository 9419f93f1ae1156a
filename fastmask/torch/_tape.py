"""One run of a recurrent layer between tensors: what eager and compiled calls share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastmask import ops
from fastmask.ops import RecurrentGradients
from fastmask.packing import PackedSequence, Packing
from fastmask.torch._weights import keras_weights, layout_gradients

Outputs = tuple[Tensor | None, tuple[Tensor, ...]]
Gradients = tuple[Tensor | None, ...]

STATES = {"lstm": 2, "gru": 1, "simple_rnn": 1}


class Spec(NamedTuple):
    """What a layer computes.

    Attributes
    ----------
    cell : {"lstm", "gru", "simple_rnn"}
    layout : {"keras", "torch"}
        Form of the weights: (kernel, recurrent_kernel, bias, None) or (weight_ih, weight_hh, bias_ih, bias_hh).
    activation, recurrent_activation : str
    reset_after, go_backwards, return_sequences : bool
    """

    cell: str
    layout: str
    activation: str
    recurrent_activation: str
    reset_after: bool
    go_backwards: bool
    return_sequences: bool


@dataclass(frozen=True, slots=True)
class Job:
    """A layer on the plan of a batch. With an index (N,) token n is ``values[index[n]]``."""

    spec: Spec
    packing: Packing
    index: NDArray[np.int64] | None


class Inputs(NamedTuple):
    """Tensors that a run reads: values (U, F), four weights, and states (B, H); weights may be missing."""

    values: Tensor
    weights: tuple[Tensor | None, ...]
    states: tuple[Tensor, ...]

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All of them."""
        return (self.values, *self.weights, *self.states)


def as_array(tensor: Tensor) -> NDArray[Any]:
    """The memory of a tensor as an array."""
    array: NDArray[Any] = tensor.detach().numpy()
    return array


def _call(function: Callable[..., Any], job: Job, inputs: Inputs) -> Any:
    spec = job.spec
    weights = keras_weights(spec.cell, spec.layout, [None if w is None else as_array(w) for w in inputs.weights])
    states = tuple(as_array(state) for state in inputs.states) or None
    options: dict[str, Any] = {"activation": spec.activation, "go_backwards": spec.go_backwards}
    if spec.cell != "simple_rnn":
        options["recurrent_activation"] = spec.recurrent_activation
    if spec.cell == "gru":
        options["reset_after"] = spec.reset_after
    x = PackedSequence(as_array(inputs.values), job.packing, job.index)
    return function(x, *weights, states, return_sequences=spec.return_sequences, **options)


def _tensors(sequence: PackedSequence | None, states: Sequence[NDArray[Any]]) -> Outputs:
    values = None if sequence is None else torch.from_numpy(sequence.values)
    return values, tuple(torch.from_numpy(state) for state in states)


def forward(job: Job, inputs: Inputs) -> Outputs:
    """The outputs of all steps (N, H) in the order in which they ran, or None, and the final states (B, H)."""
    return _tensors(*_call(getattr(ops, job.spec.cell), job, inputs))


class Tape:
    """What the gradient of one run needs.

    Parameters
    ----------
    job : Job
    pullback : callable or None
        Of the operation; it can be called once. None: the run is to be repeated.
    read : sequence of tensors or None
        The tensors that the pullback goes on reading.
    """

    def __init__(
        self, job: Job, pullback: Callable[..., RecurrentGradients] | None, read: Sequence[Tensor | None]
    ) -> None:
        self.job = job
        self._pullback = pullback
        self._addresses = _addresses(read)

    def gradients(
        self, inputs: Inputs, sequence: Tensor | None, d_sequence: Tensor | None, d_states: Sequence[Tensor | None]
    ) -> Gradients:
        """Gradients of the values, the four weights and the states.

        ``inputs`` and ``sequence`` are those of the run as PyTorch saved them. The run is repeated on them where
        the pullback was used before, or where they stand elsewhere (hooks of saved tensors copy them), since the
        memory that the pullback reads may then hold something else.
        """
        pullback, self._pullback = self._pullback, None
        if pullback is None or self._addresses != _addresses(_read(inputs, sequence)):
            pullback = _call(_vjp(self.job), self.job, inputs)[1]
        d_values = None if d_sequence is None else as_array(d_sequence)
        spec = self.job.spec
        gradients = pullback(d_values, tuple(None if d is None else as_array(d) for d in d_states))
        weights = layout_gradients(spec.cell, spec.layout, gradients)
        arrays = (gradients.inputs, *weights, *(gradients.initial_state or ()))
        return tuple(None if array is None else torch.from_numpy(array) for array in arrays)


def _vjp(job: Job) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(ops, f"{job.spec.cell}_vjp")
    return function


def _read(inputs: Inputs, sequence: Tensor | None) -> tuple[Tensor | None, ...]:
    return (*inputs.tensors, sequence)


def _addresses(tensors: Sequence[Tensor | None]) -> list[int]:
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


def taped_forward(job: Job, inputs: Inputs) -> tuple[Outputs, Tape]:
    """:func:`forward`, and the tape for its gradient."""
    result, pullback = _call(_vjp(job), job, inputs)
    outputs = _tensors(*result)
    return outputs, Tape(job, pullback, _read(inputs, outputs[0]))
