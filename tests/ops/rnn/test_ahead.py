"""Input products that a second thread makes ahead of the steps give the bits that one thread gives."""

import threading
import time

import numpy as np
import pytest
from helpers.compiled import assert_same_for_callers, assert_same_results, ops_results
from helpers.numeric import assert_same_bits
from helpers.recurrent import CELLS, make_problem

from fastmask import PackedSequence, kernels, ops, threads
from fastmask.batch.packing import Packing
from fastmask.kernels.memory import aligned_zeros
from fastmask.ops import RNNSpec, tuning
from fastmask.ops.rnn import forward
from fastmask.ops.rnn.schedule import Schedule, prepare
from fastmask.ops.rnn.weights import RNNWeights

ROWS = [1, 2, 3]    # too few for a range of rows for each of two threads


@pytest.fixture
def runs(monkeypatch, set_threads):
    """Whether each pass forward, in its order, was one with products ahead; units are never shared.

    Passes of one thread that keep nothing are not among them.
    """
    divided = []
    prepare_runs = forward.prepare

    def note(*arguments):
        runs = prepare_runs(*arguments)
        divided.append([run.divided for run in runs])
        return runs

    monkeypatch.setattr(forward, "prepare", note)
    with tuning.override(FEW_ROWS=()):
        yield divided


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"go_backwards": True}], ids=["plain", "back"])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_and_outputs(cell, rows, options, dtype, set_threads, runs):
    problem = make_problem(cell, rows, 60, 11, 37, mask="holes", dtype=dtype, **options)
    set_threads(1)
    expected = ops_results(problem)
    for count in (2, 5):
        set_threads(count)
        assert_same_results(ops_results(problem), expected)
    assert runs == [[False], [True], [True]]


@pytest.mark.parametrize("block", [1, 6 * 4 * 37 * 4 * 5, 10**6])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("cell", ["simple_rnn", "lstm", "gru"])
@pytest.mark.usefixtures("packed_weights")
def test_blocks_take_turns_in_scratch(cell, rows, return_sequences, block, set_threads, runs):
    problem = make_problem(cell, rows, 200, 20, 37, mask="left", dtype=np.float32)
    x = PackedSequence.from_padded(problem.x, problem.mask)
    function = getattr(ops, problem.cell.function)
    results = []
    for count in (1, 2, 2, 2):
        set_threads(count)
        with tuning.override(BLOCK_BYTES=block):
            sequence, states = function(x, *problem.parameters, return_sequences=return_sequences)
        results.append([*states, *([sequence.values] if return_sequences else [])])
    for other in results[1:]:
        for array, expected in zip(other, results[0], strict=True):
            assert_same_bits(array, expected)
    assert runs == [[True], [True], [True]]


@pytest.mark.parametrize("delay", [None, 0.0, 0.0003, 0.01])
def test_a_thread_that_comes_late_or_not_at_all(delay, set_threads, runs, monkeypatch):
    problem = make_problem("lstm", 1, 300, 25, 60, mask="none", dtype=np.float32)
    set_threads(1)
    expected = ops_results(problem)
    if delay is None:
        monkeypatch.setattr(threads._Pool, "submit", lambda *_: None)
    else:
        help_ = threads._Batch.help
        monkeypatch.setattr(threads._Batch, "help", lambda batch: (time.sleep(delay), help_(batch)))
    set_threads(2)
    assert_same_results(ops_results(problem), expected)
    assert runs == [[False], [True]]


class Chain:
    """A SimpleRNN of one row and its prepared run."""

    def __init__(self, kernel, steps=100, units=40):
        rng = np.random.default_rng(0)
        x, weights, recurrent = (
            rng.standard_normal(shape, dtype=np.float32) for shape in ((steps, 9), (9, units), (units, units))
        )
        plan = Packing.from_lengths([steps])
        spec = RNNSpec("simple_rnn", 9, units, activation="linear", use_bias=False)
        program = RNNWeights(spec, weights, recurrent, None).program(kernel)
        schedule = Schedule([(0, 1)], 1, 6 if threads.get_num_threads() > 1 else 0)
        with tuning.override(BLOCK_BYTES=1):
            (self.run,) = prepare(schedule, kernel, program, plan, (x, None, None))
        self.h = aligned_zeros((2, units), x.dtype)

    def run_steps(self):
        self.run.forward((self.h,), None, False, True, None)
        return self.h


@pytest.mark.usefixtures("runs")
def test_a_thread_that_comes_first_waits_for_room(set_threads):
    kernel = kernels.module(np.dtype(np.float32))
    set_threads(1)
    expected = Chain(kernel).run_steps()
    set_threads(2)
    chain = Chain(kernel)
    thread = threading.Thread(target=chain.run.make_products)
    thread.start()
    time.sleep(0.01)
    assert thread.is_alive()
    assert_same_bits(chain.run_steps(), expected)
    thread.join()


@pytest.mark.usefixtures("runs")
def test_products_of_steps_that_never_run_end(set_threads):
    """Products ahead come to an end although Ctrl-C has come before their steps began."""
    set_threads(2)
    chain = Chain(kernels.module(np.dtype(np.float32)))
    thread = threading.Thread(target=chain.run.make_products, daemon=True)
    thread.start()
    thread.join(60.0)
    assert not thread.is_alive()


def test_callers_at_the_same_time(set_threads, runs):
    problem = make_problem("gru", 2, 80, 5, 50, mask="right", dtype=np.float32)
    set_threads(1)
    expected = ops_results(problem)
    set_threads(3)
    assert_same_for_callers(problem, expected)
    assert runs == [[False], *[[True]] * 20]


@pytest.mark.parametrize(
    ("rows", "steps", "ahead"),
    [(1, 6, False), (1, 7, True), (3, 2, False), (3, 3, True), (4, 40, False), (0, 0, False)],
)
def test_where_there_is_more_than_one_block(rows, steps, ahead, set_threads, runs):
    set_threads(2)
    ops_results(make_problem("lstm", rows, steps, 3, 30, mask="none", dtype=np.float32))
    assert all(any(run) == ahead for run in runs)
