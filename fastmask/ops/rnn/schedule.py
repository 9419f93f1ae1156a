"""How the steps of a run are shared out among threads: by rows, by units, or with input products made ahead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any, NamedTuple

from fastmask import threads
from fastmask.batch.packing import Packing
from fastmask.kernels import packing
from fastmask.ops import tuning
from fastmask.ops._arrays import thread_count
from fastmask.ops.rnn.spec import RNNSpec

Task = Callable[[], None]


class Schedule(NamedTuple):
    """Who runs what.

    Attributes
    ----------
    ranges : list of (begin, end)
        Sorted rows of each run.
    parts : int
        Threads that share the units of every step of the one range; 1: each range is one thread's.
    ahead : int
        Steps of a block whose input products another thread makes ahead of the steps; 0: nobody does.
    capacity : int
        Tokens whose input products a run has room for, at least: those of a step, or as many as stay in a cache.
    """

    ranges: list[tuple[int, int]]
    parts: int = 1
    ahead: int = 0
    capacity: int = 1


def choose(spec: RNNSpec, module: ModuleType, plan: Packing, from_table: bool, divisible: bool) -> Schedule:
    """The schedule of a run.

    Parameters
    ----------
    from_table : bool
        Whether the input products are there before the first step.
    divisible : bool
        Whether threads can share the units of a step.
    """
    block = tuning.BLOCK_BYTES // (max(1, spec.columns) * spec.dtype.itemsize)
    capacity = max(min(max(block, plan.batch_size), plan.tokens), 1)
    features = 0 if from_table else spec.features
    # A gate's activation takes about as long as 20 of its products.
    operations = 2.0 * plan.tokens * spec.columns * (spec.units + features + 20)
    ranges = [(0, plan.batch_size)]
    if operations < tuning.OPERATIONS_PER_THREAD or threads.get_num_threads() == 1:
        return Schedule(ranges, capacity=capacity)
    count = thread_count(operations)
    if count > 1:
        parts = _unit_parts(spec, module, plan, count) if divisible else 1
        if parts > 1:
            return Schedule(ranges, parts, capacity=capacity)
        ranges = _row_ranges(plan, count)
    return Schedule(ranges, 1, 0 if from_table or len(ranges) > 1 else _steps_of_block(plan), capacity)


def _unit_parts(spec: RNNSpec, module: ModuleType, plan: Packing, threads: int) -> int:
    panels: int = -(-spec.units // (4 * module.lanes))
    recurrent_bytes = spec.units * spec.columns * spec.dtype.itemsize
    few = next((rows for least, rows in tuning.FEW_ROWS if recurrent_bytes >= least), 0)
    if plan.tokens > few * plan.batch_sizes.size or module.is_crowded():
        return 1
    return min(threads, panels)


def _row_ranges(plan: Packing, threads: int) -> list[tuple[int, int]]:
    """Ranges of sorted rows whose steps take about as long."""
    rows = int(plan.batch_sizes[0])
    # Twice as many shards as threads, if they have rows enough: a thread that is held up does less.
    # One row takes as long as two, whose weights are read once.
    parts = 2 * threads if rows >= 64 * threads else max(1, min(threads, rows // 2))
    if parts == 1:
        return [(0, plan.batch_size)]
    return list(pairwise(packing.split_rows(plan.lengths, plan.sorted_indices, parts)))


def _steps_of_block(plan: Packing) -> int:
    steps: int = -(-tuning.BLOCK_ROWS // int(plan.batch_sizes[0]))
    return steps if steps < plan.batch_sizes.size else 0


def prepare(
    schedule: Schedule, module: ModuleType, program: Any, plan: Packing, inputs: tuple[Any, Any, Any]
) -> list[Any]:
    """The kernels' runs of a schedule.

    inputs: values or None, the row of each token in them or in a table of products, and where the products of every
    token are or are to be kept, or None.
    """
    active = int(plan.batch_sizes[0]) if plan.tokens else 0
    arrays = plan.batch_size, plan.batch_sizes, plan.offsets
    runs: list[Any] = []
    capacity = max(2 * schedule.ahead * active, schedule.capacity)
    for begin, end in schedule.ranges:
        runs.append(module.Run(program, arrays, begin, end, inputs, capacity))
    for _ in range(1, schedule.parts):
        # The parts of a team read and write the same products.
        shared = (*inputs[:2], runs[0]) if inputs[2] is None else inputs
        runs.append(module.Run(program, arrays, 0, plan.batch_size, shared, capacity))
    if schedule.ahead:
        runs[0].divide(schedule.ahead, schedule.ahead * active)
    return runs


def join_team(schedule: Schedule, module: ModuleType, spec: RNNSpec, runs: Sequence[Any]) -> None:
    """Let the threads of runs that share the units begin together, before each pass over the steps."""
    if schedule.parts > 1:
        recurrent_bytes = spec.units * spec.columns * spec.dtype.itemsize
        team = module.Team(len(runs), tuning.PATIENCE + recurrent_bytes / tuning.SLOWEST_BYTES_PER_SECOND)
        for part, run in enumerate(runs):
            run.join(team, part)


def with_products(steps: Sequence[Task], runs: Sequence[Any]) -> list[Task]:
    """Tasks that run the steps of runs, and what another thread can do ahead of a run that is the only one."""
    return [*steps, *(run.make_products for run in runs if run.divided)]
