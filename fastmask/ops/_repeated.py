"""A recurrent operation once more, with other inputs: past the checks and choices of a `Problem`."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fastmask.kernels.memory import aligned_empty, aligned_zeros
from fastmask.ops._arrays import Array, block_tokens, thread_count
from fastmask.packing import Packing

if TYPE_CHECKING:
    from fastmask.ops._recurrent import Problem

States = tuple[Array, ...]
Steps = Callable[[Any, States], None]


def whole_run(
    module: ModuleType, plan: Packing, values: Array, panels: Array, bias: Array | None, columns: int
) -> Any:
    """A prepared `Recurrence` over all rows of a padded batch, whose places are the rows of ``values``."""
    capacity = max(int(plan.batch_sizes[0]), min(block_tokens(columns, values.dtype), plan.tokens))
    z = aligned_empty((capacity, columns), values.dtype)
    arrays = values, plan.positions, panels, bias, z
    sizes = plan.batch_size, plan.batch_sizes, plan.offsets
    return module.Recurrence(sizes, 0, plan.batch_size, arrays, False, capacity)


class Repetition:
    """What stays the same from call to call of a recurrent operation in inference, on one layer's packed weights.

    It runs batches from the first step to the last, from states of zeros, in one thread, with the bits of the
    operation. Nothing is checked.

    Parameters
    ----------
    problem : Problem
        Of an earlier call.
    bias : array or None
        Of the input side, as the kernels read it.
    states : int
        How many states a row has.
    steps : callable
        ``steps(run, states)`` runs all steps of a `Recurrence`; of the states the first is a buffer of two halves.
    """

    def __init__(self, problem: Problem, bias: Array | None, states: int, steps: Steps) -> None:
        self.module, self.dtype, self.units = problem.kernel, problem.dtype, problem.units
        self._panels, self._bias, self._steps, self._states = problem.kernel_panels(), bias, steps, states
        self._columns = problem.gates * problem.units
        self._operations = problem.token_operations

    def takes(self, tokens: int) -> bool:
        """Whether a batch of so many tokens is not empty, and too small to be shared out among threads."""
        return tokens > 0 and thread_count(tokens * self._operations) == 1

    def __call__(self, values: Array, plan: Packing) -> States:
        """The states (B, H) after the last valid steps, of a padded batch whose places are the rows of ``values``."""
        batch, dtype = plan.batch_size, self.dtype
        run = whole_run(self.module, plan, values, self._panels, self._bias, self._columns)
        h = aligned_zeros((2 * batch, self.units), dtype)
        more = [aligned_zeros((batch, self.units), dtype) for _ in range(1, self._states)]
        self._steps(run, (h, *more))
        return (h.take(plan.last_halves, axis=0), *[state.take(plan.unsorted_indices, axis=0) for state in more])
