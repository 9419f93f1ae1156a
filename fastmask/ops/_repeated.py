"""A recurrent operation once more, with other inputs: past the checks and choices of a `Problem`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from fastmask import threads
from fastmask.kernels.memory import aligned_zeros
from fastmask.ops._arrays import Array
from fastmask.ops._sharing import join_team, recurrences, unit_parts, with_products
from fastmask.packing import Packing

if TYPE_CHECKING:
    from fastmask.ops._recurrent import Problem

States = tuple[Array, ...]


class Repetition:
    """What stays the same from call to call of a recurrent operation in inference, on one layer's packed weights.

    It runs batches with a token from the first step to the last, from states of zeros, with the bits of the
    operation. Nothing is checked.

    Parameters
    ----------
    problem : Problem
        Of an earlier call.
    program : kernels' Program
    states : int
        How many states a row has.
    """

    def __init__(self, problem: Problem, program: Any, states: int) -> None:
        self.module, self.dtype, self.units = problem.kernel, problem.dtype, problem.units
        self._program, self._states = program, states
        self._columns = problem.gates * problem.units
        self._recurrent_bytes = problem.recurrent_kernel.nbytes
        self._operations = problem.token_operations

    def __call__(self, values: Array, plan: Packing) -> States:
        """The states (B, H) after the last valid steps, of a padded batch whose places are the rows of ``values``."""
        batch, dtype = plan.batch_size, self.dtype
        runs = self._runs(values, plan)
        h = aligned_zeros((2 * batch, self.units), dtype)
        more = [aligned_zeros((batch, self.units), dtype) for _ in range(1, self._states)]
        steps = [partial(run.forward, (h, *more), None, False, True, None) for run in runs]
        threads.run(with_products(steps, runs))
        return (h.take(plan.last_halves, axis=0), *[state.take(plan.unsorted_indices, axis=0) for state in more])

    def _runs(self, values: Array, plan: Packing) -> list[Any]:
        module, operations = self.module, plan.tokens * self._operations
        parts = unit_parts(module, plan, self.units, self._recurrent_bytes, operations)
        runs = recurrences(
            module, self._program, plan, (values, plan.positions, None), self._columns, self.dtype,
            operations=operations, parts=parts,
        )
        if parts > 1:
            join_team(module, self._recurrent_bytes, runs)
        return runs
