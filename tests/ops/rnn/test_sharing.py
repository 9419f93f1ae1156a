"""Threads that share the units of every step of a wide layer give the bits that one thread gives."""

import time
from itertools import combinations, pairwise

import numpy as np
import pytest
from helpers.compiled import assert_same_for_callers, assert_same_results, ops_results
from helpers.numeric import assert_same_bits
from helpers.recurrent import CELLS, make_problem

from fastmask import PackedSequence, kernels, ops, threads
from fastmask.batch.packing import Packing
from fastmask.kernels import packing
from fastmask.ops import tuning
from fastmask.ops.rnn import forward, tape

WIDE = 4 * 64 + 5    # columns of four panels and a rest, for the widest vectors


@pytest.fixture
def patience():
    """Wait for threads of a team however long they take."""
    while any(kernels.module(np.dtype(dtype)).is_crowded() for dtype in ("float32", "float64")):
        time.sleep(0.001)
    with tuning.override(PATIENCE=1000.0):
        yield


@pytest.fixture
def share_units(set_threads, patience):
    """Share units whatever the width of a layer and whoever waits; gives ``set_threads``."""
    with tuning.override(FEW_ROWS=((0, 10**9),)):
        yield set_threads


@pytest.fixture
def teams(monkeypatch):
    """The numbers of parts of each pass, forwards and backwards."""
    formed = []

    def noting(function):
        def note(schedule, *arguments):
            formed.append(schedule.parts)
            return function(schedule, *arguments)

        return note

    monkeypatch.setattr(forward, "prepare", noting(forward.prepare))
    monkeypatch.setattr(tape, "join_team", noting(tape.join_team))
    return formed


def compare_with_one_thread(problem, set_threads, counts=(2, 3, 7), x=None):
    set_threads(1)
    expected = ops_results(problem, x)
    for count in counts:
        set_threads(count)
        assert_same_results(ops_results(problem, x), expected)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"go_backwards": True}, {"dropout": "shared"}], ids=["plain", "back", "drop"])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_and_outputs(cell, options, dtype, share_units):
    compare_with_one_thread(make_problem(cell, 5, 9, 11, WIDE, mask="holes", dtype=dtype, **options), share_units)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("rows", [1, 2, 40])
@pytest.mark.parametrize("units", [1, 64, 65, 130, 192])
@pytest.mark.parametrize("cell", CELLS)
def test_widths_and_rows(cell, units, rows, share_units):
    compare_with_one_thread(make_problem(cell, rows, 4, 3, units, mask="right", dtype=np.float32), share_units)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.usefixtures("packed_weights")
def test_inference(cell, return_sequences, share_units, teams):
    problem = make_problem(cell, 3, 40, 20, WIDE, mask="left", dtype=np.float32)
    x = PackedSequence.from_padded(problem.x, problem.mask)
    results = []
    for count in (1, 2, 4):
        share_units(count)
        function = getattr(ops, problem.cell.function)
        sequence, states = function(x, *problem.parameters, return_sequences=return_sequences, **problem.options)
        results.append([*states, *([sequence.values] if return_sequences else [])])
    for other in results[1:]:
        for array, expected in zip(other, results[0], strict=True):
            assert_same_bits(array, expected)
    assert teams == [2, 4]  # one thread has none


@pytest.mark.parametrize("block", [1, 3000, 10**6])
def test_blocks_of_inputs(block, share_units):
    """Products of inputs are made by blocks of steps, by all threads."""
    with tuning.override(BLOCK_BYTES=block):
        compare_with_one_thread(make_problem("gru", 3, 30, 70, 130, mask="right", dtype=np.float32), share_units)


def test_repeated_inputs(share_units):
    problem = make_problem("lstm", 3, 8, 9, 130, mask="right", dtype=np.float32)
    x = PackedSequence.from_padded(problem.x, problem.mask)
    index = np.random.default_rng(0).integers(0, 5, x.packing.tokens)
    compare_with_one_thread(problem, share_units, x=PackedSequence(x.values[:5].copy(), x.packing, index))


def test_both_passes_have_a_team(share_units, teams):
    share_units(2)
    ops_results(make_problem("gru", 2, 5, 3, 130, dtype=np.float32))
    assert teams == [2, 2]


@pytest.mark.parametrize("cell", CELLS)
def test_with_recurrent_dropout_rows_are_shared(cell, share_units, teams):
    share_units(2)
    ops_results(make_problem(cell, 8, 5, 3, 130, dtype=np.float32, dropout="shared"))
    assert set(teams) == {1}


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(
    ("units", "rows", "parts"),
    [(384, 12, 2), (384, 13, 1), (200, 5, 2), (200, 6, 1), (130, 3, 2), (130, 4, 1), (32, 1, 1)],
)
def test_the_wider_a_layer_the_more_rows_share_units(units, rows, parts, set_threads, teams):
    set_threads(2)
    ops_results(make_problem("lstm", rows, 2, 3, units, mask="none", dtype=np.float32))
    assert teams == [parts, parts]


@pytest.mark.parametrize("delay", [None, 0.0, 0.001, 0.01])
def test_threads_that_come_late_or_not_at_all(delay, share_units, monkeypatch):
    problem = make_problem("lstm", 2, 300, 5, 130, mask="right", dtype=np.float32)
    share_units(1)
    expected = ops_results(problem)
    if delay is None:
        monkeypatch.setattr(threads._Pool, "submit", lambda *_: None)
    else:
        help_ = threads._Batch.help
        monkeypatch.setattr(threads._Batch, "help", lambda batch: (time.sleep(delay), help_(batch)))
    share_units(4)
    assert_same_results(ops_results(problem), expected)


def test_callers_at_the_same_time(share_units):
    problem = make_problem("gru", 2, 40, 5, 130, mask="right", dtype=np.float32)
    share_units(1)
    expected = ops_results(problem)
    share_units(3)
    assert_same_for_callers(problem, expected)


def test_after_a_long_wait_rows_are_shared_for_a_while(share_units, teams, monkeypatch):
    """Of three panels one thread has two, and the other waits for it; here any wait is a long one."""
    kernel = kernels.module(np.dtype(np.float32))
    problem = make_problem("simple_rnn", 2000, 6, 3, 12 * kernel.lanes, mask="none", dtype=np.float32)
    x = PackedSequence.from_padded(problem.x)
    share_units(2)
    with tuning.override(PATIENCE=0.0, SLOWEST_BYTES_PER_SECOND=np.inf):
        for _ in range(100):
            ops.simple_rnn(x, *problem.parameters, return_sequences=False)
            if kernel.is_crowded():
                break
        else:
            pytest.fail("no thread has waited")
    while kernel.is_crowded():
        time.sleep(0.001)
    teams.clear()
    ops_results(problem)
    monkeypatch.setattr(kernel, "is_crowded", lambda: True)
    ops_results(problem)
    assert teams == [2, 2, 1, 1]


def cost_of_range(lengths):
    """Steps of the first row count twice, and those of the second come with them."""
    return 2 * lengths[0] + sum(lengths[2:])


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
@pytest.mark.parametrize("rows", [1, 2, 5, 9])
def test_ranges_of_rows_take_about_as_long(rows, parts):
    rng = np.random.default_rng(rows)
    for most in (1, 4, 1000):
        plan = Packing.from_lengths(rng.integers(0, most, rows, endpoint=True))
        ends = packing.split_rows(plan.lengths, plan.sorted_indices, parts)
        lengths = plan.lengths[plan.sorted_indices].tolist()
        assert (ends[0], ends[-1]) == (0, rows)
        assert len(ends) <= parts + 1
        inner = [cut for count in range(min(parts, rows)) for cut in combinations(range(1, rows), count)]
        least = min(max(cost_of_range(lengths[a:b]) for a, b in pairwise((0, *cut, rows))) for cut in inner)
        assert max(cost_of_range(lengths[a:b]) for a, b in pairwise(ends)) == least
