"""The number of threads, the pool, and what may happen around it: forks, other threads, errors."""

import multiprocessing
import os
import signal
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
    """A thread that waits without the interpreter's lock sees another thread change the counter."""
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
    """Some tasks end before the caller's own, for others the caller has to sleep."""
    monkeypatch.setattr(threads, "_AWAKE", awake)
    set_threads(3)
    for seconds in (0.0, 0.002, 0.02):
        ended = []
        threads.run([partial(_end_after, seconds * k, ended) for k in (1, 0, 2, 0, 1)])
        assert len(ended) == 5


def _end_after(seconds, ended):
    time.sleep(seconds)
    ended.append(seconds)


@pytest.fixture
def ctrl_c():
    """A function that sends Ctrl-C to the main thread; a shell may have had it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals of POSIX")
@pytest.mark.parametrize("awake", [0.0, 5e-3, 3e-2, 60.0])
def test_ctrl_c_while_the_caller_waits_for_the_last_task(awake, ctrl_c, set_threads, monkeypatch):
    """However often Ctrl-C comes, it is raised only when the task that another thread runs has ended."""
    begun, waits, returned, ended = threading.Event(), threading.Event(), threading.Event(), []

    class Watched:
        """A counter that tells when the caller begins to wait."""

        def __init__(self):
            self.counter = Counter()
            self.add = self.counter.add

        def await_zero(self, seconds):
            waits.set()
            return self.counter.await_zero(seconds)

    def task():
        if threading.current_thread() is threading.main_thread():
            begun.wait(60)
            return
        begun.set()
        waits.wait(60)
        for _ in range(3):
            time.sleep(0.02)
            if not returned.is_set():
                ctrl_c()
        time.sleep(0.05)
        ended.append(True)

    monkeypatch.setattr(threads, "Counter", Watched)
    monkeypatch.setattr(threads, "_AWAKE", awake)
    set_threads(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            threads.run([task, task])
        assert ended == [True]
    finally:
        returned.set()


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


def in_a_fork(function):
    """What a function returns in a fork of this process."""
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=lambda: answers.put(function()), daemon=True)
    child.start()
    child.join(60)
    child.kill()
    assert child.exitcode == 0
    return answers.get()


def meet():
    """Run two tasks that end only together, each in a thread of its own."""
    barrier = threading.Barrier(2)
    threads.run([partial(barrier.wait, 20)] * 2)
    return True


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
class TestForks:
    def test_a_fork_has_a_pool_of_its_own(self, model, x, set_threads):
        set_threads(2)
        expected = model.predict(x)
        assert in_a_fork(lambda: np.array_equal(model.predict(x), expected))
        np.testing.assert_array_equal(model.predict(x), expected)

    def test_a_fork_has_threads_of_its_own(self, set_threads):
        set_threads(2)
        assert meet()
        assert in_a_fork(meet)
        assert meet()

    def test_a_fork_while_a_thread_offers_work(self, set_threads):
        set_threads(2)
        meet()
        with threads._pool._lock:
            assert in_a_fork(meet)
        assert meet()
