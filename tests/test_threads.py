"""The number of threads, the pool, and what may happen around it: forks, other threads, errors."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from functools import partial

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers, threads
from fastmask.kernels.waiting import Counter

BATCH, TIME, WIDTH = 32, 40, 64


@pytest.fixture(scope="module")
def model():
    fm.utils.set_random_seed(1)
    return fm.Sequential([layers.Masking(input_shape=(None, WIDTH)), layers.Bidirectional(layers.LSTM(WIDTH))])


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((BATCH, TIME, WIDTH), np.float32)


@pytest.mark.parametrize("n", [0, -1, 1.5, True, None, "2"])
def test_a_number_of_threads_is_a_positive_integer(n):
    before = fm.get_num_threads()
    with pytest.raises(ValueError, match="n: expected a whole number of threads"):
        fm.set_num_threads(n)
    assert fm.get_num_threads() == before


def test_set_and_get(set_threads):
    for n in (1, np.int64(3)):
        set_threads(n)
        assert fm.get_num_threads() == n


@pytest.mark.parametrize(("value", "limit"), [("1", 1), ("1,4", 1), ("0", None), ("many", None), ("", None)])
def test_default(value, limit):
    code = "import fastmask; print(fastmask.get_num_threads())"
    environment = os.environ | {"OMP_NUM_THREADS": value}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    usable = threads._cgroup_cpus() or sys.maxsize
    usable = min(usable, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    assert int(out.stdout) == (limit or usable)


def test_an_error_of_a_task_is_raised_when_all_have_ended(set_threads):
    set_threads(2)
    done = []

    def fail():
        raise RuntimeError("task")

    with pytest.raises(RuntimeError, match="task"):
        threads.run([fail, lambda: done.append(1), lambda: done.append(2)])
    assert sorted(done) == [1, 2]


def test_a_counter_is_awaited():
    counter = Counter()
    assert counter.await_zero(0.0)
    assert not counter.await_positive(0.001)
    assert counter.add(2) == 2
    assert counter.await_positive(0.0)
    assert not counter.await_zero(0.001)
    assert counter.add(-2) == 0
    assert counter.await_zero(0.0)


@pytest.mark.parametrize("start", [0, 1])
def test_a_counter_is_seen_to_change(start):
    """By a thread that waits with the interpreter's lock let go."""
    counter = Counter()
    counter.add(start)
    other = threading.Timer(0.02, counter.add, [1 - 2 * start])
    other.start()
    assert (counter.await_zero if start else counter.await_positive)(60.0)
    other.join()
    assert counter.add(0) == 1 - start


@pytest.mark.parametrize(("policy", "awake"), [("passive", False), (" PASSIVE", False), ("active", True), ("", True)])
def test_threads_stay_awake_unless_they_are_told_not_to(policy, awake):
    code = "from fastmask import threads; print(threads._AWAKE > 0)"
    environment = os.environ | {"OMP_WAIT_POLICY": policy}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == str(awake)


@pytest.mark.parametrize("awake", [0.0, 5e-3])
def test_tasks_of_every_length(awake, set_threads, monkeypatch):
    """Those that end before the caller's, and those that it has to sleep for."""
    monkeypatch.setattr(threads, "_AWAKE", awake)
    set_threads(3)
    for seconds in (0.0, 0.002, 0.02):
        ended = []
        threads.run([partial(_end_after, seconds * k, ended) for k in (1, 0, 2, 0, 1)])
        assert len(ended) == 5


def _end_after(seconds, ended):
    time.sleep(seconds)
    ended.append(seconds)


def test_python_threads_may_share_a_model(model, x, set_threads):
    set_threads(2)
    expected = model.predict(x)
    wrong = []

    def work(rows):
        for _ in range(3):
            if not np.array_equal(model.predict(x[rows]), expected[rows]):
                wrong.append(rows)

    started = [threading.Thread(target=work, args=(slice(i, i + 8),)) for i in range(8)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_has_a_pool_of_its_own(model, x, set_threads):
    set_threads(2)
    expected = model.predict(x)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=lambda: answers.put(np.array_equal(model.predict(x), expected)), daemon=True)
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert answers.get()
    np.testing.assert_array_equal(model.predict(x), expected)
