"""What the conductor and its workers say to each other."""

from __future__ import annotations

from typing import NamedTuple

from bench.peers.data import Array
from bench.peers.shapes import Case


class Prepare(NamedTuple):
    """Make the case's run, run it, and answer with `Prepared`; the last case is dropped."""

    case: Case


class Prepared(NamedTuple):
    """What the run computes, and the seconds of one more call."""

    arrays: dict[str, Array]
    seconds: float


class Time(NamedTuple):
    """Call the run so many times, and answer with the list of seconds."""

    calls: int


class Peak(NamedTuple):
    """Answer with the peak of one core's fused multiply-adds, in GFLOP/s, measured now."""


class Memory(NamedTuple):
    """Answer with `MemoryUse`."""


class MemoryUse(NamedTuple):
    """Bytes of memory: now, and the most there has been."""

    resident: int
    peak: int


class Failed(NamedTuple):
    """There is no answer, and why; `expected` if the library has no way to do the case."""

    reason: str
    expected: bool
