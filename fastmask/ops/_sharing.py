"""How the steps of a recurrent operation are shared out among threads: by rows, or by units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmask.kernels import packing
from fastmask.ops._arrays import Array, Indices, block_tokens, thread_count
from fastmask.packing import Packing

if TYPE_CHECKING:
    from fastmask.ops._recurrent import Problem

Task = Callable[[], None]

# Threads share the units of every step where the recurrent weights have so many bytes and a step has so many rows at
# most, on average. Weights that do not fit into a second-level cache come from beyond it in every step: an LSTM of 512
# units takes 14 ms for a row of 100 steps, and 6 ms if each of two threads keeps half of the units; at 14 rows a step
# both ways are even. Smaller weights are read as fast by each thread for rows of its own, but one to three rows are
# best kept together: 1.16 and 0.78 ms for a row and an LSTM of 256 units. Below, a step ends before threads have met.
_FEW_ROWS = (2 * 2**20, 12), (2**19, 5), (2**18, 3)
# A thread that has not come back after the time in which it could have read its weights, and this, has lost its CPU.
_PATIENCE = 1e-3
_SLOWEST_BYTES_PER_SECOND = 5e9
# Where one thread runs all steps (a row alone; too little work to be shared out by rows), another makes their input
# products, for so many rows at a time: GRUs of 128 and 256 units on 8 and one rows take 0.20 and 0.27 ms, and alone
# 0.32 and 0.34 ms. With 24 rows at a time the latter takes 0.33 ms. Below 0.2 ms it costs as much as it saves.
_BLOCK_ROWS = 6


def unit_parts(kernel: ModuleType, plan: Packing, units: int, recurrent_bytes: int, operations: float) -> int:
    """How many threads share the units of every step; 1: threads share the rows."""
    panels: int = -(-units // (4 * kernel.lanes))
    parts = min(thread_count(operations), panels)
    few = next((rows for least, rows in _FEW_ROWS if recurrent_bytes >= least), 0)
    if parts == 1 or plan.tokens > few * plan.batch_sizes.size or kernel.is_crowded():
        return 1
    return parts


def row_ranges(plan: Packing, operations: float) -> list[tuple[int, int]]:
    """Ranges of sorted rows whose steps take about as long."""
    parts = thread_count(operations)
    if parts > 1:
        rows = int(plan.batch_sizes[0])
        # Twice as many shards as threads, if they have rows enough: a thread that is held up does less.
        # One row takes as long as two, whose weights are read once.
        parts = 2 * parts if rows >= 64 * parts else max(1, min(parts, rows // 2))
    if parts == 1:
        return [(0, plan.batch_size)]
    return list(pairwise(packing.split_rows(plan.lengths, plan.sorted_indices, parts)))


def recurrences(
    kernel: ModuleType, program: Any, plan: Packing, inputs: tuple[Array | None, Indices | None, Array | None],
    columns: int, dtype: np.dtype[Any], *, operations: float = 0.0, parts: int = 1,
) -> list[Any]:
    """A prepared `Run` for each range of rows, or, if there are several, for each part of the units.

    inputs: values or None, the row of each token in them or in z, and z, where the products of every token are, or
    are to be kept; None: a run has room for blocks of them. operations: of all steps; by default too few to be shared
    out.
    """
    most = min(block_tokens(columns, dtype), plan.tokens)
    active = int(plan.batch_sizes[0]) if plan.tokens else 0
    sizes = plan.batch_size, plan.batch_sizes, plan.offsets
    ranges = row_ranges(plan, operations) if parts == 1 else [(0, plan.batch_size)]
    alone = parts == len(ranges) == 1 and inputs[0] is not None
    steps = _steps_of_block(plan, operations) if alone else 0
    runs = []
    for begin, end in ranges:
        capacity = max(min(active, end) - begin, 2 * steps * active, most, 1)
        first = kernel.Run(program, sizes, begin, end, inputs, capacity)
        others = [kernel.Run(program, sizes, begin, end, (*inputs[:2], first), capacity) for _ in range(parts - 1)]
        runs += [first, *others]
    if steps:
        runs[0].divide(steps, steps * active)
    return runs


def _steps_of_block(plan: Packing, operations: float) -> int:
    """Steps whose input products another thread may make ahead of those that run; 0: it is not worth while."""
    if thread_count(2 * operations) == 1:
        return 0
    steps: int = -(-_BLOCK_ROWS // int(plan.batch_sizes[0]))
    return steps if steps < plan.batch_sizes.size else 0


def with_products(steps: Sequence[Task], runs: Sequence[Any]) -> list[Task]:
    """Tasks that run the steps of runs, and what another thread can do ahead of a run that is the only one."""
    return [*steps, *(run.make_products for run in runs if run.divided)]


def form_team(problem: Problem, runs: Sequence[Any]) -> None:
    """Let the threads of runs that share the units begin together, before each pass over the steps."""
    if problem.parts > 1:
        join_team(problem.kernel, problem.recurrent_kernel.nbytes, runs)


def join_team(kernel: ModuleType, recurrent_bytes: int, runs: Sequence[Any]) -> None:
    """Make a team of the runs, one for each part of the units."""
    team = kernel.Team(len(runs), _PATIENCE + recurrent_bytes / _SLOWEST_BYTES_PER_SECOND)
    for part, run in enumerate(runs):
        run.join(team, part)
