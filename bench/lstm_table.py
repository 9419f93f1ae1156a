"""Print the LSTM's speed on one core over valid tokens, and its share of the machine's FMA peak.

    python bench/lstm_table.py [--dtype float32] [--repeats 15]

Operations are counted over valid tokens only: 2 * tokens * (D + H) * 4H forward and three times that forward
and backward. Every row alternates the kernel with the peak measurement and takes the best of each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

import fastmask as fm
from fastmask import PackedSequence, Packing, kernels, ops

# batch, steps, features, units, share of valid tokens (None: a long tail), as in a user's batches
SHAPES = [
    (32, 80, 128, 128, 0.44),
    (32, 200, 128, 128, 0.45),
    (64, 200, 256, 256, 0.51),
    (64, 100, 512, 512, 1.0),
    (256, 500, 64, 64, 0.22),
    (1, 100, 128, 128, 1.0),
]


def lengths(batch: int, steps: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Log-normal lengths clipped to the steps, as of reviews, with about the wanted share of valid tokens."""
    if share == 1.0:
        return np.full(batch, steps)
    scale = share * steps
    for _ in range(30):
        drawn = np.clip(rng.lognormal(np.log(scale), 0.6, batch).astype(int), 1, steps)
        drawn[0] = steps
        scale *= share * steps / drawn.mean()
    return drawn


def best(functions: list[Callable[[], float]], repeats: int) -> list[float]:
    """The least result of each function, called in turn."""
    results = [[function() for function in functions] for _ in range(repeats)]
    return [min(column) for column in zip(*results, strict=True)]


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(shape: tuple[int, int, int, int, float], dtype: str, repeats: int) -> str:
    batch, steps, features, units, share = shape
    rng = np.random.default_rng(0)
    plan = Packing.from_lengths(lengths(batch, steps, share, rng), steps)
    x = PackedSequence(rng.standard_normal((plan.tokens, features)).astype(dtype), plan)
    weights = [
        (rng.standard_normal(s) / np.sqrt(units)).astype(dtype)
        for s in ((features, 4 * units), (units, 4 * units), (4 * units,))
    ]
    dy = rng.standard_normal((plan.tokens, units)).astype(dtype)

    def forward() -> float:
        return seconds(lambda: ops.lstm(x, *weights))

    def both() -> float:
        return seconds(lambda: ops.lstm_vjp(x, *weights)[1](dy))

    def peak() -> float:
        return 1 / kernels.peak_gflops(dtype, tries=1)

    operations = 2e-9 * plan.tokens * (features + units) * 4 * units
    forward_time, both_time, inverse_peak = best([forward, both, peak], repeats)
    top = 1 / inverse_peak
    fast, slow = operations / forward_time, 3 * operations / both_time
    return (
        f"| LSTM B{batch} T{steps} D{features} H{units} ({100 * plan.tokens / (batch * steps):.0f} % valid) "
        f"| {fast:.0f} | {100 * fast / top:.0f} % | {slow:.0f} | {100 * slow / top:.0f} % | {top:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    fm.set_num_threads(1)
    print(f"One core, {arguments.dtype}, {kernels.instruction_set()}, GFLOP/s over valid tokens\n")
    print("| shape | forward | of peak | forward + backward | of peak | FMA peak |")
    print("|---|---|---|---|---|---|")
    for shape in SHAPES:
        print(measure(shape, arguments.dtype, arguments.repeats), flush=True)


if __name__ == "__main__":
    main()
