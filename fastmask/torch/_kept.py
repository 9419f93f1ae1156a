"""Programs that a module keeps from call to call as long as its weights stay."""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch

from fastmask.ops.rnn import RNNProgram
from fastmask.torch._tape import Array, Inputs, Job, as_array, make_program


class _Packed(NamedTuple):
    """A program, and its own copy of the weights: their shapes and bytes."""

    program: RNNProgram
    copies: list[tuple[tuple[int, ...], bytearray]]

    def equals(self, weights: list[Array]) -> bool:
        """Whether weights have the bytes of the copy. The comparison ends at the first difference."""
        # A bytearray is compared by the C library's memcmp: an eighth of the time of torch.equal, half that of NumPy.
        return len(weights) == len(self.copies) and all(
            weight.shape == shape and copy == np.ascontiguousarray(weight).data
            for weight, (shape, copy) in zip(weights, self.copies, strict=True)
        )


class KeptProgram:
    """The program of one layer and direction of a module.

    PyTorch does not tell of every change of a tensor: fused optimizers, ``p.data`` and NumPy views leave its version
    as it is. So the weights are compared with a copy of those that were packed.

    Attributes
    ----------
    frozen : bool
        Whether the weights are taken to be unchanged without a comparison.
    """

    def __init__(self) -> None:
        self.frozen = False
        # Threads that come at once may each pack, and then keep the same bits.
        self._kept: _Packed | None = None

    def get(self, job: Job, inputs: Inputs) -> RNNProgram:
        """The program on these weights: the one that was kept, or a new one."""
        kept = self._kept
        same = kept is not None and kept.program.spec == job.spec
        if kept is not None and same and self.frozen:
            return kept.program
        arrays = [None if weight is None else as_array(weight) for weight in inputs.weights]
        present = [array for array in arrays if array is not None]
        if kept is not None and same and kept.equals(present):
            return kept.program
        copies = [(array.shape, bytearray(array)) for array in present]
        own = iter(np.ndarray(shape, job.spec.dtype, copy) for shape, copy in copies)
        program = make_program(job, [None if array is None else next(own) for array in arrays])
        self._kept = _Packed(program, copies)
        return program


# Not in the modules, so that their copies, pickles and state dicts have none of it.
_kept: WeakKeyDictionary[torch.nn.Module, list[KeptProgram]] = WeakKeyDictionary()


def kept_programs(module: torch.nn.RNNBase) -> list[KeptProgram]:
    """The programs of a module, in the order of its layers and directions."""
    found = _kept.get(module)
    if found is None:
        found = _kept.setdefault(module, [KeptProgram() for _ in module._all_weights])
    return found


def forget_programs(module: torch.nn.RNNBase) -> None:
    """Keep nothing for a module, and take it to be frozen no longer."""
    _kept.pop(module, None)
