"""How the steps of a recurrent operation are shared out among threads: by rows, or by units."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmask.ops._arrays import thread_count

if TYPE_CHECKING:
    from fastmask.ops._recurrent import Problem

# Threads share the units of every step where the recurrent weights have so many bytes and a step has so many rows at
# most, on average. Weights that do not fit into a second-level cache come from beyond it in every step: an LSTM of 512
# units takes 14 ms for a row of 100 steps, and 6 ms if each of two threads keeps half of the units; at 14 rows a step
# both ways are even. Smaller weights are read as fast by each thread for rows of its own, but one to three rows are
# best kept together: 1.16 and 0.78 ms for a row and an LSTM of 256 units. Below, a step ends before threads have met.
_FEW_ROWS = (2 * 2**20, 12), (2**19, 5), (2**18, 3)
# A thread that has not come back after the time in which it could have read its weights, and this, has lost its CPU.
_PATIENCE = 1e-3
_SLOWEST_BYTES_PER_SECOND = 5e9


def unit_parts(problem: Problem) -> int:
    """How many threads share the units of every step; 1: threads share the rows."""
    plan, kernel, size = problem.plan, problem.kernel, problem.recurrent_kernel.nbytes
    few = next((rows for least, rows in _FEW_ROWS if size >= least), 0)
    if plan.tokens > few * plan.batch_sizes.size or not problem.divisible or kernel.is_crowded():
        return 1
    panels: int = -(-problem.units // (4 * kernel.lanes))
    return min(thread_count(problem.operations), panels)


def row_ranges(problem: Problem) -> list[tuple[int, int]]:
    """Ranges of sorted rows with about as many tokens each."""
    plan = problem.plan
    parts = thread_count(problem.operations)
    if parts > 1:
        rows = int(plan.batch_sizes[0])
        # Twice as many shards as threads, if they have rows enough: a thread that is held up does less.
        # One row takes as long as two, whose weights are read once.
        parts = 2 * parts if rows >= 64 * parts else max(1, min(parts, rows // 2))
    if parts == 1:
        return [(0, plan.batch_size)]
    total = np.cumsum(plan.sorted_lengths)
    inner = np.searchsorted(total, plan.tokens * np.arange(1, parts) / parts) + 1
    edges = sorted({0, *inner.tolist(), plan.batch_size})
    return list(pairwise(edges))


def form_team(problem: Problem, runs: Sequence[Any]) -> None:
    """Let the threads of runs that share the units begin together, before each pass over the steps."""
    if problem.parts == 1:
        return
    patience = _PATIENCE + problem.recurrent_kernel.nbytes / _SLOWEST_BYTES_PER_SECOND
    team = problem.kernel.Team(problem.parts, patience)
    for part, run in enumerate(runs):
        run.join(team, part)
