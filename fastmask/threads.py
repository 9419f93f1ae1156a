"""The number of threads, and the pool that runs shards of a batch.

The pool is made on first use, does not survive a fork, and runs kernels that release the GIL.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from operator import index
from queue import SimpleQueue

from fastmask.kernels.waiting import Counter

__all__ = ["get_num_threads", "run", "set_num_threads"]

Task = Callable[[], None]

# A thread that has nothing to do stays awake for so many seconds, as the next call is often near. On a busy virtual
# machine it takes milliseconds until a CPU that has gone to sleep is back: where threads slept at once, two of them
# took 31 ms for what one did in 22 ms, and take 17 ms now.
_AWAKE = 0.0 if os.environ.get("OMP_WAIT_POLICY", "").strip().lower() == "passive" else 5e-3


class _Batch:
    """Tasks of one call of :func:`run`: taken one by one by whoever is free, the caller among them."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = iter(tasks)
        self._lock = threading.Lock()
        self._helped = Counter()  # tasks that threads of the pool are at
        self._idle = threading.Event()
        self._error: BaseException | None = None

    def help(self) -> None:
        """Run tasks until none is left, in a thread of the pool."""
        while (task := self._take(1)) is not None:
            try:
                task()
            except BaseException as error:
                self._error = error
            with self._lock:
                if not self._helped.add(-1):
                    self._idle.set()

    def work(self) -> None:
        """Run tasks until none is left, in the caller's thread; return when all have ended."""
        try:
            while (task := self._take(0)) is not None:
                try:
                    task()
                except Exception as error:
                    self._error = error
        finally:
            self._finish()
        if self._error is not None:
            raise self._error

    def _take(self, helped: int) -> Task | None:
        with self._lock:
            task = next(self._tasks, None)
            self._helped.add(0 if task is None else helped)
            return task

    def _finish(self) -> None:
        """Take back what has not begun, and wait for the rest, which may write to the caller's arrays.

        Ctrl-C reaches the caller when no other thread is at work for it any more.
        """
        interruption: BaseException | None = None
        while True:
            try:
                self._helped.await_zero(_AWAKE)
                with self._lock:
                    self._tasks = iter(())
                    if not self._helped.add(0):
                        break
                    self._idle.clear()
                self._idle.wait(1.0)
            except BaseException as error:
                interruption = error
        if interruption is not None:
            raise interruption


class _Pool:
    def __init__(self) -> None:
        self._queue: SimpleQueue[_Batch] = SimpleQueue()
        self._offers = Counter()
        self._size = 0
        self._lock = threading.Lock()

    def submit(self, batch: _Batch, helpers: int) -> None:
        """Offer a batch to so many threads, or to as many as can be started: none while Python ends."""
        with self._lock:
            try:
                while self._size < helpers:
                    threading.Thread(target=self._serve, name=f"fastmask-{self._size}", daemon=True).start()
                    self._size += 1
            except RuntimeError:
                helpers = self._size
        for _ in range(helpers):
            self._offers.add(1)
            self._queue.put(batch)

    def _serve(self) -> None:
        while True:
            self._offers.await_positive(_AWAKE)
            batch = self._queue.get()
            self._offers.add(-1)
            batch.help()


_pool = _Pool()
_num_threads: int | None = None


def _forget_pool() -> None:
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _read_numbers(*paths: str) -> list[int]:
    """The numbers in some files; none where a file is missing or says something else ("max")."""
    try:
        words: list[str] = []
        for path in paths:
            with open(path) as file:
                words += file.read().split()
        return [int(word) for word in words]
    except (OSError, ValueError):
        return []


def _cgroup_cpus() -> int | None:
    first = "/sys/fs/cgroup/cpu/cpu.cfs_"
    for numbers in (_read_numbers("/sys/fs/cgroup/cpu.max"), _read_numbers(f"{first}quota_us", f"{first}period_us")):
        if len(numbers) == 2 and numbers[0] > 0:
            return max(1, -(-numbers[0] // numbers[1]))
    return None


def _default_num_threads() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    limits = [cpus, _cgroup_cpus()]
    # OMP_NUM_THREADS may be a list, one number for each level of nesting.
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if wanted.isdigit() and int(wanted) > 0:
        limits.append(int(wanted))
    return min(limit for limit in limits if limit is not None)


def get_num_threads() -> int:
    """The number of threads that a call may use.

    By default the CPUs that the process may run on (affinity, cgroup quota), or ``OMP_NUM_THREADS`` if
    that is less.
    """
    global _num_threads
    if _num_threads is None:
        _num_threads = _default_num_threads()
    return _num_threads


def set_num_threads(n: int) -> None:
    """Set the number of threads that a call may use. Results have the same bits for every number.

    Parameters
    ----------
    n : int
        At least 1.
    """
    global _num_threads
    try:
        wanted = 0 if isinstance(n, bool) else index(n)
    except TypeError:
        wanted = 0
    if wanted < 1:
        raise ValueError(f"n: expected a whole number of threads from 1 on, got {n!r}")
    _num_threads = wanted


def run(tasks: Sequence[Task], most: int | None = None) -> None:
    """Run tasks, on several threads where there are several tasks and threads; the caller works too.

    ``most``: the number of threads that they are worth, where that is less than their number.

    An error that a task raises is raised again when all have ended; an interruption, such as Ctrl-C, when
    those have ended that have begun.
    """
    helpers = min(len(tasks), get_num_threads(), most or len(tasks)) - 1 if len(tasks) > 1 else 0
    if helpers < 1:
        for task in tasks:
            task()
        return
    batch = _Batch(tasks)
    _pool.submit(batch, helpers)
    batch.work()
