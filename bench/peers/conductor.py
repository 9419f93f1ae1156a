"""Starts the workers, gives a case to all of them, compares what they compute, and times them in turn."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from functools import partial
from multiprocessing import Pipe
from typing import Any

import numpy as np

from bench.peers import messages
from bench.peers.data import Array
from bench.peers.shapes import Case, LayerCase, ModelCase
from bench.peers.worker import environment

# Largest difference from fastmask, relative to the largest value: float32 sums in another order, over 1000 steps.
TOLERANCE = 2e-3
# A burst of calls takes about this long, a round is one burst of each library.
BURST_SECONDS = 0.03
ROUNDS = 4
# Calls longer than this are timed once more, not in rounds.
LONG_CALL_SECONDS = 0.4
# Libraries that take up to so many times as long as the fastest go on for as many rounds again: between them, chance
# decides what is the fastest.
CLOSE = 2.0
# A library alone is timed for about this long.
ALONE_SECONDS = 1.0
# OpenMP's threads spin for 5 ms after a call, and would take the next library's time.
PAUSE_SECONDS = 0.01
# No answer within this time: the worker hangs.
PATIENCE_SECONDS = 900.0

Outcome = dict[str, Any]
Participants = dict[str, tuple[str, Case]]


class WorkerDiedError(Exception):
    """The process of a library ended or hangs."""


class WorkerProcess:
    """A library in a process of its own."""

    def __init__(self, name: str, threads: int) -> None:
        self.name, self.threads = name, threads
        self.connection, end = Pipe()
        command = [sys.executable, "-m", "bench.peers.worker", name, str(threads), str(end.fileno())]
        self.process = subprocess.Popen(
            command, env=environment(threads), pass_fds=[end.fileno()], stdin=subprocess.DEVNULL
        )
        end.close()
        try:
            self._receive()
        except WorkerDiedError:
            self.close()
            raise

    def request(self, message: Any) -> Any:
        try:
            self.connection.send(message)
        except OSError as error:
            raise WorkerDiedError(f"{self.name} is gone") from error
        return self._receive()

    def _receive(self) -> Any:
        if not self.connection.poll(PATIENCE_SECONDS):
            raise WorkerDiedError(f"{self.name} gave no answer in {PATIENCE_SECONDS:.0f} s")
        try:
            return self.connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerDiedError(f"{self.name} died") from error

    def close(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()


class Forecast:
    """The least time that a case can take a library, from the best rate that it has shown."""

    def __init__(self) -> None:
        self.rates: dict[tuple[Any, ...], float] = {}

    def _key(self, name: str, case: Case) -> tuple[Any, ...]:
        return name, type(case).__name__, case.kind, case.cell, case.threads

    def least(self, name: str, case: Case) -> float:
        rate = self.rates.get(self._key(name, case), math.inf)
        return case.work / rate

    def learn(self, name: str, case: Case, seconds: float) -> None:
        key = self._key(name, case)
        self.rates[key] = max(self.rates.get(key, 0.0), case.work / seconds)


class Conductor:
    """Measures cases; a context manager that ends the processes of the libraries."""

    def __init__(self, longest: float = 20.0) -> None:
        self.longest = longest
        self.workers: dict[tuple[str, int], WorkerProcess] = {}
        self.forecast = Forecast()

    def __enter__(self) -> Conductor:
        return self

    def __exit__(self, *error: object) -> None:
        self.retire()

    def retire(self) -> None:
        """End all processes."""
        while self.workers:
            self.workers.popitem()[1].close()

    def ask(self, name: str, library: str, threads: int, message: Any) -> Any:
        """The answer of a participant's worker, which is started if need be; `Failed` if it dies."""
        key = name, threads
        try:
            if key not in self.workers:
                self.workers[key] = WorkerProcess(library, threads)
            return self.workers[key].request(message)
        except WorkerDiedError as error:
            if key in self.workers:
                self.workers.pop(key).close()
            return messages.Failed(str(error), False)

    def measure(self, parts: Participants) -> Outcome:
        """Compare what the participants compute with what the first one does, and time them in turn.

        Parameters
        ----------
        parts : dict
            For each name of the result the library and the case.

        Returns
        -------
        dict
            "seconds" of each participant that does its case, "reasons" of those that do not, and "peak_gflops" of
            one core in the same rounds if fastmask runs a layer.
        """
        reasons: dict[str, str] = {}
        first = self._prepare(parts, reasons)
        best, peak = self._rounds(parts, first, reasons)
        for name, seconds in best.items():
            self.forecast.learn(*parts[name], seconds)
        return {"seconds": best, "reasons": reasons, "peak_gflops": peak}

    def _prepare(self, parts: Participants, reasons: dict[str, str]) -> dict[str, float]:
        """Let each participant compute its case; return the seconds of those that agree with the first one."""
        expected: dict[str, Array] | None = None
        seconds = {}
        for name, (library, case) in parts.items():
            least = self.forecast.least(library, case)
            if least > self.longest:
                reasons[name] = f"takes more than {self.longest:.0f} s"
                continue
            answer = self.ask(name, library, case.threads, messages.Prepare(case))
            if isinstance(answer, messages.Failed):
                reasons[name] = answer.reason if answer.expected else f"failed: {answer.reason}"
                continue
            expected = expected or answer.arrays
            reason = difference(answer.arrays, expected)
            if reason:
                reasons[name] = f"differs: {reason}"
            else:
                seconds[name] = answer.seconds
        return seconds

    def _rounds(
        self, parts: Participants, first: dict[str, float], reasons: dict[str, str]
    ) -> tuple[dict[str, float], float | None]:
        best, peak = dict(first), 0.0
        for turn in range(2 * ROUNDS):
            close = CLOSE * min(best.values(), default=0.0) if turn >= ROUNDS else math.inf
            for name, seconds in first.items():
                if name in reasons or best[name] > close or (turn % ROUNDS and seconds > LONG_CALL_SECONDS):
                    continue
                library, case = parts[name]
                time.sleep(PAUSE_SECONDS)
                calls = min(1000, math.ceil(BURST_SECONDS / max(best[name], 1e-6)))
                answer = self.ask(name, library, case.threads, messages.Time(calls))
                if isinstance(answer, messages.Failed):
                    reasons[name] = f"failed: {answer.reason}"
                    del best[name]
                    continue
                best[name] = min(best[name], *answer)
                if library == "fastmask" and isinstance(case, LayerCase):
                    peak = max(peak, self.ask(name, library, case.threads, messages.Peak()))
        return best, peak or None


def measure_alone(library: str, case: ModelCase) -> Outcome:
    """Time training steps in a process of their own.

    Returns
    -------
    dict
        "seconds", "bytes" (the peak of memory above that of the imported library) and the first two "losses";
        or "reason".
    """
    with Conductor() as conductor:
        ask = partial(conductor.ask, library, library, case.threads)
        before = ask(messages.Memory())
        prepared = ask(messages.Prepare(case))
        if isinstance(prepared, messages.Failed):
            return {"reason": f"failed: {prepared.reason}"}
        calls = max(2, math.ceil(ALONE_SECONDS / prepared.seconds))
        answer = ask(messages.Time(calls if prepared.seconds < ALONE_SECONDS else 1))
        after = ask(messages.Memory())
    if isinstance(answer, messages.Failed):
        return {"reason": f"failed: {answer.reason}"}
    losses = prepared.arrays["losses"].tolist()
    return {"seconds": min(prepared.seconds, *answer), "bytes": after.peak - before.resident, "losses": losses}


def difference(arrays: dict[str, Array], expected: dict[str, Array]) -> str:
    """What is wrong with the arrays, or nothing."""
    if arrays.keys() != expected.keys():
        return f"got {', '.join(arrays)}, expected {', '.join(expected)}"
    for name, right in expected.items():
        found = arrays[name]
        if found.shape != right.shape:
            return f"{name} has shape {found.shape}, expected {right.shape}"
        error = float(np.abs(found.astype(np.float64) - right).max(initial=0.0))
        scale = float(np.abs(right).max(initial=0.0))
        if not error <= TOLERANCE * scale:
            return f"{name} by {error:.2g} of {scale:.2g}"
    return ""
