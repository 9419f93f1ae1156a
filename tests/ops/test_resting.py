"""Optimizer steps that know which rows are at rest, against the dense gradient, bit for bit."""

import copy
import pickle

import numpy as np
import pytest
from helpers.numeric import assert_same_bits

from fastmask import ops, threads
from fastmask.ops._resting import AT_REST

from .test_optimizers import DTYPES, STEPS, arrays_of

ROWS, COLUMNS = 40, 13


def gradient(ids, dtype, seed=0):
    rows = np.random.default_rng(seed).standard_normal((len(ids), COLUMNS)).astype(dtype)
    return ops.SparseRows(np.array(ids, np.int64), rows, (ROWS, COLUMNS))


def assert_same_arrays(first, second):
    for array, other in zip(first, second, strict=True):
        if array is not None:
            assert_same_bits(array, other)


class Twins:
    """A parameter and its state, stepped with dense gradients, and a copy stepped with sparse ones."""

    def __init__(self, step="adam", dtype=np.float32):
        self.name, slots, self.numbers = STEPS[step]
        self.dense, self.sparse = (arrays_of(slots, (ROWS, COLUMNS), dtype) for _ in range(2))
        self.resting, self.dtype, self.steps = ops.RestingRows(), dtype, 0

    def step(self, ids):
        self.steps += 1
        grad = gradient(ids, self.dtype, self.steps)
        getattr(ops, self.name)(self.dense[0], grad.dense(), *self.dense[1:], *self.numbers)
        self.step_sparse(grad)
        assert_same_arrays(self.sparse, self.dense)

    def step_sparse(self, grad):
        getattr(ops, self.name)(self.sparse[0], grad, *self.sparse[1:], *self.numbers, resting=self.resting)

    def knows(self, row):
        """Tell whether a step passes over a row although ones have been put into its state behind its back."""
        arrays = [None if a is None else a.copy() for a in self.sparse]
        for array, kept in zip(self.sparse[1:], arrays[1:], strict=True):
            if array is not None:
                array[row] = 1
                assert not kept[row].any()
        self.step_sparse(gradient([], self.dtype))
        passed = all((array[row] == 1).all() for array in self.sparse[1:] if array is not None)
        for array, kept in zip(self.sparse, arrays, strict=True):
            if array is not None:
                array[...] = kept
        return passed


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("step", STEPS)
def test_bits_of_the_dense_gradient(step, count, dtype, set_threads):
    """Rows come, stay away and come back; row 39 never comes; a dense gradient moves all rows but the last ten."""
    set_threads(count)
    twins, rng = Twins(step, dtype), np.random.default_rng(7)
    for ids in ([3, 1], [], [1, 38], [0], [3], *(rng.choice(39, 7, replace=False) for _ in range(4))):
        twins.step(ids)
    dense = rng.standard_normal((ROWS, COLUMNS)).astype(dtype)
    dense[30:] = 0
    for arrays, known in ((twins.dense, {}), (twins.sparse, {"resting": twins.resting})):
        getattr(ops, twins.name)(arrays[0], dense, *arrays[1:], *twins.numbers, **known)
    for ids in ([], [2], [39], []):
        twins.step(ids)


@pytest.mark.parametrize("step", ["sgd momentum", "rmsprop", "adam"])
def test_state_of_known_rows_is_not_read(step):
    twins = Twins(step)
    assert not twins.knows(5)
    twins = Twins(step)
    twins.step([0, 1])
    assert twins.knows(5)
    twins.resting.forget()
    assert not twins.knows(5)


def test_a_row_with_a_gradient_is_no_longer_known():
    twins = Twins()
    twins.step([0])
    twins.step([5])
    twins.sparse[1][5], twins.sparse[2][5] = 0, 0
    assert not twins.knows(5)


def test_dense_gradients_leave_nothing_known():
    twins = Twins()
    twins.step([0])
    twins.step_sparse(np.zeros((ROWS, COLUMNS), np.float32))
    assert not twins.knows(5)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_other_arrays_are_not_known(number):
    twins = Twins("amsgrad")
    twins.step([0])
    assert twins.knows(5)
    twins.sparse[number] = twins.sparse[number].copy()
    assert not twins.knows(5)


def test_another_number_of_rows():
    resting = ops.RestingRows()
    for rows in (4, 9, 2):
        param = np.zeros((rows, 3), np.float32)
        grad = ops.SparseRows(np.array([rows - 1]), np.ones((1, 3), np.float32), param.shape)
        ops.sgd_step(param, grad, None, 1.0, resting=resting)
        np.testing.assert_array_equal(param, -grad.dense())


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_know_nothing(make):
    twins = Twins()
    twins.step([0])
    twins.resting = make(twins.resting)
    assert not twins.knows(5)


def test_a_failed_step_leaves_nothing_known(monkeypatch):
    twins = Twins()
    twins.step([0])

    def interrupted(tasks):
        tasks[0]()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threads, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            twins.step_sparse(gradient([5], np.float32))
    twins.sparse[1][...], twins.sparse[2][...] = 0, 0
    assert not twins.knows(7)
    twins.step_sparse(gradient([0], np.float32))
    assert twins.knows(7)


def test_refused_arguments_change_nothing():
    twins = Twins()
    twins.step([0])
    for bad, error in ((gradient([40], np.float32), IndexError), (gradient([1], np.float64), TypeError)):
        with pytest.raises(error, match=r"\bgradient\b"):
            twins.step_sparse(bad)
    with pytest.raises(TypeError, match=r"resting: expected RestingRows or None, got dict"):
        ops.adam_step(*twins.sparse[:1], gradient([1], np.float32), *twins.sparse[1:], 0.1, resting={})
    assert_same_arrays(twins.sparse, twins.dense)
    twins.step([1])
    assert twins.knows(5)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_steps_at_the_same_time_leave_nothing_known(order):
    """One step may have met a row before the other moved it, and a third, begun meanwhile, as well."""
    resting, ids = ops.RestingRows(), np.zeros(0, np.int64)

    def begin():
        running = resting.step((None,), ids, ROWS)
        return running, running.__enter__()

    def run():
        with resting.step((None,), ids, ROWS) as places:
            found = places.copy()
            places[...] = AT_REST
        return set(found.tolist())

    assert [run(), run()] == [{-1}, {AT_REST}]
    both = [begin(), begin()]
    assert [set(places.tolist()) for _, places in both] == [{AT_REST}, {-1}]
    assert not np.shares_memory(both[0][1], both[1][1])
    for _, places in both:
        places[...] = AT_REST
    assert [run(), run()] == [{-1}, {-1}]
    both[order[0]][0].__exit__(None, None, None)
    assert [run(), run()] == [{-1}, {-1}]
    both[order[1]][0].__exit__(None, None, None)
    assert [run(), run()] == [{-1}, {AT_REST}]


def test_forgetting_during_a_step(monkeypatch):
    twins, run = Twins(), threads.run

    def changed_meanwhile(tasks):
        run(tasks)
        twins.resting.forget()

    monkeypatch.setattr(threads, "run", changed_meanwhile)
    twins.step_sparse(gradient([0], np.float32))
    monkeypatch.setattr(threads, "run", run)
    assert not twins.knows(5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_get_equal_shares_of_the_rows_that_move(count, set_threads, monkeypatch):
    set_threads(count)
    twins, run, shares = Twins(), threads.run, []
    twins.step(range(9))

    def noted(tasks):
        ranges = [tuple(task.args[-2:]) for task in tasks]
        assert [end for _, end in ranges] == [*(begin for begin, _ in ranges[1:]), ROWS]
        shares.extend([sum(begin <= row < end for row in range(9)) for begin, end in ranges])
        run(tasks)

    monkeypatch.setattr(threads, "run", noted)
    twins.step_sparse(gradient(range(9), np.float32))
    assert len(shares) == count
    assert sum(shares) == 9
    assert max(shares) - min(shares) <= 1
