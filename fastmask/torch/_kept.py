"""Programs that a module keeps from call to call as long as its weights stay."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from types import ModuleType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from fastmask import kernels
from fastmask.ops import tuning
from fastmask.ops.rnn import RNNProgram, RNNSpec
from fastmask.ops.rnn.lying import run_lying
from fastmask.torch._tape import Array, Inputs, Job, Outputs, arrays_of, as_tensors, given, make_program
from fastmask.torch._weights import keras_weights, lying_cell


class _Packed(NamedTuple):
    """A program, and shapes and bytes of the weights that it was made from; no bytes in a frozen module."""

    program: RNNProgram
    copies: list[tuple[tuple[int, ...], bytearray]]

    def equals(self, weights: list[Array]) -> bool:
        """Whether weights have the same bytes. The comparison ends at the first difference."""
        # A bytearray is compared by the C library's memcmp, twice as fast as NumPy and far faster than torch.equal.
        return len(weights) == len(self.copies) and all(
            weight.shape == shape and copy == np.ascontiguousarray(weight).data
            for weight, (shape, copy) in zip(weights, self.copies, strict=True)
        )


class _Lying(NamedTuple):
    """The kernels' cell on weights as they lie, and where it reads them."""

    module: ModuleType
    spec: RNNSpec
    places: list[Hashable]
    cell: Any


def _places(weights: Sequence[Tensor | None]) -> list[Hashable]:
    """Where and how the numbers of tensors stand in memory, whatever they are."""
    return [
        None if weight is None else (weight.data_ptr(), weight.shape, weight.stride(), weight.is_neg())
        for weight in weights
    ]


class KeptProgram:
    """The program of one layer and direction of a module.

    PyTorch does not tell of every change of a tensor: fused optimizers, ``p.data`` and NumPy views leave its version
    as it is. So the bytes of the weights are compared with those that were packed. Single steps, which take less time
    than that, read the weights where they lie.

    Parameters
    ----------
    frozen : bool
        Whether the weights are taken to be unchanged without a comparison.
    """

    def __init__(self, frozen: bool) -> None:
        self.frozen = frozen
        # Threads that come at once may each pack, and then keep the same bits.
        self._kept: _Packed | None = None
        self._lying: _Lying | None = None

    def cell(self, spec: RNNSpec, weights: Sequence[Tensor | None]) -> Any:
        """The kernels' cell on these weights as they lie, or None; for weights in PyTorch's layout."""
        module, places, lying = kernels.module(spec.dtype), _places(weights), self._lying
        if lying is None or lying.module is not module or lying.spec is not spec or lying.places != places:
            # An array of a tensor that is a lazy negative of its memory would be a copy.
            negative = any(weight is not None and weight.is_neg() for weight in weights)
            cell = None if negative else lying_cell(module, spec, arrays_of(weights))
            self._lying = lying = _Lying(module, spec, places, cell)
        return lying.cell

    def get(self, job: Job, inputs: Inputs) -> RNNProgram:
        """The program on these weights: the one that was kept, or a new one."""
        kept = self._kept
        if kept is not None and kept.program.spec is not job.spec and kept.program.spec != job.spec:
            kept = None
        if kept is not None and self.frozen:
            return kept.program
        weights = arrays_of(inputs.weights)
        if kept is not None and kept.equals(weights):
            return kept.program
        copies = [] if self.frozen else [(weight.shape, bytearray(weight)) for weight in weights]
        kernel, recurrent_kernel, bias = keras_weights(job.spec.cell, job.layout, weights)
        # In Keras's layout, so that single steps are run on them as they lie.
        program = RNNProgram(job.spec, _rows(kernel), _rows(recurrent_kernel), bias)
        self._kept = _Packed(program, copies)
        return program


def forward(job: Job, inputs: Inputs, kept: KeptProgram | None = None) -> Outputs:
    """The outputs of all steps (N, H) in the order in which they ran, or None, and the final states (B, H).

    ``kept``: what is kept of a layer with these weights, if anything is.
    """
    tokens, states = given(job, inputs)
    if job.layout == "torch" and _is_short(job) and not (kept is not None and kept.frozen):
        cell = (KeptProgram(frozen=False) if kept is None else kept).cell(job.spec, inputs.weights)
        if cell is not None:
            return as_tensors(*run_lying(cell, job.spec, tokens, states, job.return_sequences))
    program = make_program(job, inputs) if kept is None else kept.get(job, inputs)
    return as_tensors(*program.run(tokens, states, every_step=job.return_sequences))


def _is_short(job: Job) -> bool:
    plan, spec = job.packing, job.spec
    operations = 2 * plan.tokens * (spec.features + spec.units) * spec.columns
    return plan.batch_sizes.size <= tuning.LYING_STEPS and operations <= tuning.LYING_OPERATIONS


def _rows(matrix: Array) -> Array:
    """A copy, row by row. PyTorch's of a transposed matrix is several times as fast as NumPy's."""
    return torch.from_numpy(matrix).clone(memory_format=torch.contiguous_format).numpy()  # type: ignore[no-any-return]


# Not in the modules, so that their copies, pickles and state dicts have none of it.
_kept: WeakKeyDictionary[torch.nn.Module, list[KeptProgram]] = WeakKeyDictionary()


def kept_programs(module: torch.nn.RNNBase) -> list[KeptProgram]:
    """The programs of a module, in the order of its layers and directions."""
    found = _kept.get(module)
    return keep_programs(module, frozen=False) if found is None else found


def keep_programs(module: torch.nn.RNNBase, *, frozen: bool) -> list[KeptProgram]:
    """Begin anew, with nothing packed; with ``frozen`` weights stay unseen once they are packed."""
    _kept[module] = [KeptProgram(frozen) for _ in module._all_weights]
    return _kept[module]


def forget_programs(module: torch.nn.RNNBase) -> None:
    """Keep nothing for a module."""
    _kept.pop(module, None)
