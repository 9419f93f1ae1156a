"""Print how long single steps without gradients take in torch.nn beside `fastmask.torch`, as it is and frozen.

    python -m bench.torch_steps [--rounds 60] [--units 64 256 512] [--steps 1]

One step, or a few, of 1 and 8 rows with given states, as a stream makes them, on one thread. The modules take turns; a
ratio is the median over rounds of the processor time of torch.nn divided by ours: above 1 fastmask is faster. On a busy
machine ratios hold and times do not, since both parts of a ratio are timed within some milliseconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch

import fastmask as fm
import fastmask.torch

CALLS = 10


def modules(cell: str, units: int) -> list[Any]:
    """The module of torch.nn, ours, and ours frozen."""
    theirs, ours, frozen = (
        getattr(library, cell)(units, units, batch_first=True) for library in (torch.nn, fastmask.torch, fastmask.torch)
    )
    fastmask.torch.freeze(frozen)
    return [theirs, ours, frozen]


def ratios(cell: str, units: int, shape: tuple[int, int], rounds: int) -> tuple[float, float, float]:
    """Microseconds of a call of torch.nn, and by how much ours and ours frozen are faster."""
    x, h = torch.randn(*shape, units), torch.randn(1, shape[0], units)
    states = (h, h) if cell == "LSTM" else h
    timed: list[list[float]] = []
    found = modules(cell, units)
    for _ in range(rounds):
        timed.append([])
        for module in found:
            module(x, states)
            start = time.process_time()
            for _ in range(CALLS):
                module(x, states)
            timed[-1].append(time.process_time() - start)
    theirs = median(row[0] for row in timed) / CALLS
    return 1e6 * theirs, median(row[0] / row[1] for row in timed), median(row[0] / row[2] for row in timed)


def lines(units: list[int], steps: int, rounds: int) -> Iterator[str]:
    """The table."""
    yield f"| steps: {steps} | torch.nn, us | ratio | ratio, frozen |\n|---|---|---|---|"
    for cell in ("LSTM", "GRU"):
        for width in units:
            for rows in (1, 8):
                theirs, ours, frozen = ratios(cell, width, (rows, steps), rounds)
                yield f"| {cell} of {width} units, rows: {rows} | {theirs:.0f} | {ours:.2f} | {frozen:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--units", type=int, nargs="+", default=[64, 256, 512])
    parser.add_argument("--steps", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    fm.set_num_threads(1)
    with torch.no_grad():
        for line in lines(arguments.units, arguments.steps, arguments.rounds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
