"""The compiled kernels: one module per instruction set and dtype, chosen once for this machine.

``FASTMASK_ISA=baseline``, ``x86-64-v3`` or ``x86-64-v4`` in the environment forces an instruction set.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from fastmask.kernels import cpu, packing

__all__ = ["available", "cpu", "instruction_set", "module", "packing", "peak_gflops", "use"]

_LEVELS = {"baseline": 1, "x86-64-v3": 3, "x86-64-v4": 4}
_modules: dict[tuple[str, Any], ModuleType] = {}


def available() -> tuple[str, ...]:
    """The instruction sets that this machine can run, slowest first."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return ("baseline",)
    level = cpu.x86_64_level()
    return tuple(name for name, needed in _LEVELS.items() if needed <= level)


def _chosen() -> str:
    usable = available()
    forced = os.environ.get("FASTMASK_ISA")
    if not forced:
        return usable[-1]
    if forced not in _LEVELS:
        raise ImportError(f"FASTMASK_ISA={forced!r} is not an instruction set; expected one of {', '.join(_LEVELS)}.")
    if forced not in usable:
        raise ImportError(f"FASTMASK_ISA={forced!r}: this machine supports {', '.join(usable)} only.")
    return forced


_active = _chosen()


def instruction_set() -> str:
    """The instruction set in use: ``"baseline"``, ``"x86-64-v3"`` or ``"x86-64-v4"``."""
    return _active


def module(dtype: Any) -> ModuleType:
    """The compiled module for ``dtype`` (float32 or float64) and the instruction set in use."""
    key = (_active, dtype)
    found = _modules.get(key)
    if found is None:
        found = import_module(f"fastmask.kernels.{_active.replace('-', '_')}_{np.dtype(dtype).name}")
        _modules[key] = found
    return found


@contextmanager
def use(name: str) -> Iterator[None]:
    """Switch the whole process to another instruction set for a while (for tests and benches).

    Parameters
    ----------
    name : str
        One of :func:`available`; anything else is a ValueError.
    """
    global _active
    if name not in available():
        raise ValueError(f"name: expected one of {', '.join(available())}, got {name!r}")
    before, _active = _active, name
    try:
        yield
    finally:
        _active = before


def peak_gflops(dtype: Any = np.float32, repetitions: int = 200_000, tries: int = 5) -> float:
    """The peak of fused multiply-adds of one core, measured: 10^9 operations per second.

    The best of ``tries`` runs of a loop of independent multiply-adds in registers. Without a fused
    instruction (baseline on x86-64) it is the peak of separate multiplications and additions. That of int8 is of
    products of integers, two of which are added to a sum by two instructions.
    """
    run = module(np.float32).integer_loop if np.dtype(dtype) == np.int8 else module(dtype).fma_loop
    best = 0.0
    for _ in range(tries):
        start = time.perf_counter()
        operations = run(repetitions)
        best = max(best, operations / (time.perf_counter() - start) / 1e9)
    return best
