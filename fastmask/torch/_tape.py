"""One run of a recurrent layer between tensors: what eager and compiled calls share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastmask.batch.packing import PackedSequence, Packing
from fastmask.ops._arrays import check_float
from fastmask.ops.rnn import RNNProgram, RNNSpec, Tape, Tokens
from fastmask.torch._weights import keras_weights, layout_gradients

Array = NDArray[Any]
Outputs = tuple[Tensor | None, tuple[Tensor, ...]]
Gradients = tuple[Tensor | None, ...]


class Options(NamedTuple):
    """What a layer computes, whatever its tensors: plain values, which compilers trace and custom operators take.

    Attributes
    ----------
    cell : {"lstm", "gru", "simple_rnn"}
    layout : {"keras", "torch"}
        Form of the weights: (kernel, recurrent_kernel, bias, None) or (weight_ih, weight_hh, bias_ih, bias_hh).
    activation, recurrent_activation : str
    reset_after, go_backwards : bool
    every_step : bool
        Whether the outputs of all steps are wanted.
    """

    cell: str
    layout: str
    activation: str
    recurrent_activation: str
    reset_after: bool
    go_backwards: bool
    return_sequences: bool

    @classmethod
    def of(cls, spec: RNNSpec, return_sequences: bool) -> Options:
        """Those of a spec, for weights in Keras's layout."""
        activation, recurrent = spec.activation or "linear", spec.recurrent_activation or "linear"
        return cls(spec.cell, "keras", activation, recurrent, spec.reset_after, spec.go_backwards, return_sequences)


@dataclass(slots=True)
class Job:
    """A layer on the plan of a batch.

    Attributes
    ----------
    spec : RNNSpec
    layout : {"keras", "torch"}
        Of the weights, see :class:`Options`.
    every_step : bool
    packing : Packing
    index : int64 array (N,) or None
        Token n is ``values[index[n]]``, or row n.
    """

    spec: RNNSpec
    layout: str
    return_sequences: bool
    packing: Packing
    index: NDArray[np.int64] | None


class Inputs(NamedTuple):
    """Tensors that a run reads: values (U, F), four weights, and states (B, H), all checked; weights may be missing."""

    values: Tensor
    weights: tuple[Tensor | None, ...]
    states: tuple[Tensor, ...]

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All of them."""
        return (self.values, *self.weights, *self.states)


def make_job(options: Options, inputs: Inputs, packing: Packing, index: NDArray[np.int64] | None) -> Job:
    """The job of a layer with these options on tensors of these shapes."""
    recurrent_kernel, bias = inputs.weights[1:3]
    assert recurrent_kernel is not None
    units = recurrent_kernel.shape[0 if options.layout == "keras" else -1]
    spec = _spec(options, inputs.values.shape[-1], units, inputs.values.dtype, bias is not None)
    return Job(spec, options.layout, options.return_sequences, packing, index)


@lru_cache(maxsize=256)
def _spec(options: Options, features: int, units: int, dtype: torch.dtype, use_bias: bool) -> RNNSpec:
    return RNNSpec(
        options.cell, features, units, str(dtype).removeprefix("torch."), options.activation,
        options.recurrent_activation, options.reset_after, use_bias, options.go_backwards,
    )


def as_array(tensor: Tensor) -> Array:
    """The memory of a tensor as an array."""
    try:
        array: Array = tensor.numpy(force=tensor.requires_grad)
    except RuntimeError:
        # A lazy negative of its memory, which PyTorch makes a copy of.
        array = tensor.numpy(force=True)
    return array


def arrays_of(weights: Sequence[Tensor | None]) -> list[Array]:
    """The memory of those weights that there are."""
    return [as_array(weight) for weight in weights if weight is not None]


def make_program(job: Job, inputs: Inputs) -> RNNProgram:
    """A program on these weights as they are now."""
    return RNNProgram(job.spec, *keras_weights(job.spec.cell, job.layout, arrays_of(inputs.weights)))


def given(job: Job, inputs: Inputs) -> tuple[Tokens, Sequence[Array] | None]:
    """Tokens and states as a program takes them."""
    values, index = check_float("values", as_array(inputs.values), 2), job.index
    if index is not None or values.shape[0] != job.packing.tokens:
        index = PackedSequence(values, job.packing, index).index
    states = [as_array(state) for state in inputs.states]
    return Tokens(values, job.packing, index, shared=index is not None), states or None


def as_tensors(values: Array | None, states: Sequence[Array]) -> Outputs:
    """Results of a program on the same memory."""
    return None if values is None else torch.from_numpy(values), tuple(map(torch.from_numpy, states))


class TensorTape:
    """What the gradient of one run needs.

    Parameters
    ----------
    job : Job
    tape : Tape or None
        Of the program, which answers once. None: the run is to be repeated.
    read : sequence of tensors or None
        The tensors that the tape goes on reading.
    """

    def __init__(self, job: Job, tape: Tape | None, read: Sequence[Tensor | None]) -> None:
        self.job = job
        self._tape = tape
        self._addresses = _addresses(read)

    def gradients(
        self, inputs: Inputs, sequence: Tensor | None, d_sequence: Tensor | None, d_states: Sequence[Tensor | None]
    ) -> Gradients:
        """Gradients of the values, the four weights and the states.

        ``inputs`` and ``sequence`` are those of the run as PyTorch saved them. The run is repeated on them where
        the tape was used before, or where they stand elsewhere (hooks of saved tensors copy them), since the
        memory that the tape reads may then hold something else.
        """
        job, tape = self.job, self._tape
        self._tape = None
        if tape is None or self._addresses != _addresses(_read(inputs, sequence)):
            tape = make_program(job, inputs).vjp(*given(job, inputs))[1]
        d_values = None if d_sequence is None else as_array(d_sequence)
        gradients = tape.pullback(d_values, tuple(None if d is None else as_array(d) for d in d_states))
        weights = layout_gradients(job.spec.cell, job.layout, gradients)
        arrays = (gradients.inputs, *weights, *(gradients.initial_state or ()))
        return tuple(None if array is None else torch.from_numpy(array) for array in arrays)


def _read(inputs: Inputs, sequence: Tensor | None) -> tuple[Tensor | None, ...]:
    return (*inputs.tensors, sequence)


def _addresses(tensors: Sequence[Tensor | None]) -> list[int]:
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


def taped_forward(job: Job, inputs: Inputs) -> tuple[Outputs, TensorTape]:
    """What :func:`fastmask.torch._kept.forward` returns, and the tape for its gradient."""
    (values, states), tape = make_program(job, inputs).vjp(*given(job, inputs))
    outputs = as_tensors(values if job.return_sequences else None, states)
    return outputs, TensorTape(job, tape, _read(inputs, outputs[0]))
