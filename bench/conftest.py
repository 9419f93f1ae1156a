"""Fixtures of the benches, and the table that they end with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fastmask import kernels, threads

ENGINES = ("fastmask", "numpy")
ROWS = pytest.StashKey[dict[str, dict[str, tuple[float, dict[str, Any]]]]]()

Measure = Callable[..., None]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = {}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Whose function is timed."""
    return str(request.param)


@pytest.fixture
def measure(benchmark: Any, engine: str, request: pytest.FixtureRequest) -> Measure:
    """Time a function in a group, and say how near it comes to the machine's peak.

    ``measure(function, group, tokens, operations=0)``; operations are counted over valid tokens only.
    """

    def run(function: Callable[[], Any], group: str, tokens: int, operations: float = 0) -> None:
        benchmark.group = group
        peak = kernels.peak_gflops(tries=2)
        benchmark(function)
        if benchmark.stats is None:
            return
        seconds = benchmark.stats.stats.min
        info = {"tokens": tokens, "threads": threads.get_num_threads(), "isa": kernels.instruction_set()}
        if operations:
            # The clock changes with load: the peak is measured around the run.
            peak = max(peak, kernels.peak_gflops(tries=2)) * info["threads"]
            speed = operations / seconds / 1e9
            info |= {"gflops": speed, "peak_gflops": peak, "share_of_peak": speed / peak}
        benchmark.extra_info.update(info)
        request.config.stash[ROWS].setdefault(group, {})[engine] = (seconds, info)

    return run


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print one line for each group: both times, their ratio, and the share of the peak."""
    if not config.stash[ROWS]:
        return
    out = terminalreporter.write_line
    out("")
    out(f"{'best times':58}{'fastmask':>11}{'NumPy':>11}{'ratio':>8}{'GFLOP/s':>9}{'of peak':>9}")
    for group, found in config.stash[ROWS].items():
        times = [found[name][0] if name in found else float("nan") for name in ENGINES]
        info = found.get("fastmask", (0, {}))[1]
        line = f"{group:58}{1e3 * times[0]:8.3f} ms{1e3 * times[1]:8.2f} ms{times[1] / times[0]:8.1f}"
        if "gflops" in info:
            line += f"{info['gflops']:9.0f}{info['share_of_peak']:9.0%}"
        out(line)
