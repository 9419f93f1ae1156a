"""Print what calls on tiny batches take: almost all of it is the fixed cost of a call.

    python -m bench.overhead [--rounds 40]

One thread, microseconds, the least of many calls; fastmask and the NumPy twins of `fastmask.reference` take turns.
With PyTorch installed, `fastmask.torch` is timed beside the module that it stands in for.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import fastmask as fm
from bench.peers.libraries import fastmask, plain_numpy
from bench.peers.shapes import AXES, PASSES, Case, LayerCase, ModelCase

Call = Callable[[], Any]
CALLS = 20


def cases() -> Iterator[Case]:
    for cell in AXES["cell"]:
        for batch, steps in ((1, 10), (4, 30)):
            for kind in PASSES:
                yield LayerCase(cell, 32, batch, steps, 0.45, "right", kind=kind)
    for kind in ("prediction", "training step"):
        yield ModelCase(kind, 4, 30, 54, 32)


def pairs() -> Iterator[tuple[str, str, Call, Call]]:
    """Name, name of the other one, call, and call of the other one."""
    ours, theirs = fastmask.Fastmask(), plain_numpy.PlainNumpy()
    for case in cases():
        of = "layer" if isinstance(case, LayerCase) else "model"
        name = f"{case.shape}, {case.kind}" if of == "layer" else f"Embedding, LSTM(32), Dense: {case.shape}"
        yield name, "NumPy", getattr(ours, of)(case).call, getattr(theirs, of)(case).call
    if find_spec("torch"):
        yield from torch_pairs()


def torch_pairs() -> Iterator[tuple[str, str, Call, Call]]:
    import torch

    import fastmask.torch

    torch.set_num_threads(1)
    for cell in ("LSTM", "GRU"):
        modules = [getattr(library, cell)(32, 32, batch_first=True) for library in (fastmask.torch, torch.nn)]
        for batch, steps in ((1, 10), (4, 30)):
            x = torch.zeros(batch, steps, 32)

            def forward(module: Any, x: Any = x) -> Any:
                with torch.no_grad():
                    return module(x)

            def both(module: Any, x: Any = x) -> None:
                module(x)[0].sum().backward()

            for run, kind in zip((forward, both), PASSES, strict=True):
                calls = [lambda run=run, module=module: run(module) for module in modules]
                yield f"fastmask.torch.{cell} B{batch} T{steps} H32, {kind}", "torch.nn", *calls


def least(calls: list[Call], rounds: int) -> list[float]:
    """Microseconds of each, called in turn."""
    best = [float("inf")] * len(calls)
    for _ in range(rounds):
        for n, call in enumerate(calls):
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            best[n] = min(best[n], (time.perf_counter() - start) / CALLS)
    return [1e6 * seconds for seconds in best]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    fm.set_num_threads(1)
    print("| call | us | other | us | ratio |\n|---|---|---|---|---|")
    for name, other, *calls in pairs():
        ours, theirs = least(calls, rounds)
        print(f"| {name} | {ours:.1f} | {other} | {theirs:.1f} | {theirs / ours:.1f} |", flush=True)


if __name__ == "__main__":
    main()
