"""What is timed: the axes, the cases, and a selection of them that covers every pair of values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, product
from typing import Any

GATES = {"SimpleRNN": 1, "LSTM": 4, "GRU": 3}
AXES: dict[str, tuple[Any, ...]] = {
    "cell": ("LSTM", "GRU", "SimpleRNN"),
    "units": (32, 64, 96, 128, 150, 200, 256, 512, 1024),
    "batch": (1, 8, 32, 128, 512),
    "steps": (10, 30, 100, 300, 1000),
    "density": (0.2, 0.45, 1.0),
    "mask": ("right", "left", "holed", "none"),
    "threads": (1, 2),
}
PASSES = ("forward", "forward+backward")
# The inputs of a case may take up to 128 MiB, as every library holds them at once, with gates and gradients.
MOST_INPUTS = 32 * 2**20
# Cases of the selection stay below this number of multiply-adds at full density: 0.5 s at 100 GFLOP/s forward.
SELECTED_WORK = 25e9


@dataclass(frozen=True)
class LayerCase:
    """One recurrent layer on a padded batch (batch, steps, units) that returns the last outputs.

    The layer is as wide as its input. `density` is the share of steps that are valid; where they are is told by
    `mask`: at the beginning of the rows ("right" padding), at their end, or anywhere ("holed"). With "none" all
    steps are valid and no mask is passed.
    """

    cell: str
    units: int
    batch: int
    steps: int
    density: float
    mask: str
    threads: int = 1
    kind: str = "forward"

    @property
    def work(self) -> float:
        """Multiply-adds of a forward pass over the padded batch."""
        return self.batch * self.steps * 2.0 * self.units * GATES[self.cell] * self.units

    @property
    def shape(self) -> str:
        padding = "no padding" if self.mask == "none" else f"{self.density:.0%} valid, {self.mask}"
        return f"{self.cell} B{self.batch} T{self.steps} H{self.units}, {padding}"


@dataclass(frozen=True)
class ModelCase:
    """``Embedding(20000, units, mask_zero=True)``, ``LSTM(units)``, ``Dense(1)`` with Adam on word ids.

    `kind` is "training step" or "prediction". The lengths are log-normal, as of reviews; with `outlier` one row has
    all the `steps`, and the other rows share what is left of the `tokens` evenly. `form` is "padded", or "list" for
    rows that have never been padded.
    """

    kind: str
    batch: int
    steps: int
    tokens: int
    units: int = 128
    outlier: bool = False
    form: str = "padded"
    threads: int = 1

    cell = "LSTM"
    vocabulary = 20_000

    @property
    def work(self) -> float:
        return self.batch * self.steps * 8.0 * self.units**2

    @property
    def shape(self) -> str:
        return f"{self.kind}, B{self.batch} T{self.steps} ({self.tokens / (self.batch * self.steps):.0%} valid)"


@dataclass(frozen=True)
class StreamCase:
    """One step of a stateful LSTM at batch 1, through Python."""

    units: int
    threads: int = 1
    kind: str = "one step"

    cell = "LSTM"

    @property
    def work(self) -> float:
        return 8.0 * self.units**2

    @property
    def shape(self) -> str:
        return f"LSTM H{self.units}, one step"


Case = LayerCase | ModelCase | StreamCase


def possible(case: LayerCase) -> bool:
    """Whether the values go together and the data of all libraries fit into memory."""
    full = case.density == 1.0
    return full == (case.mask == "none") and case.batch * case.steps * case.units <= MOST_INPUTS


def full_grid() -> Iterator[LayerCase]:
    """All possible layer cases, the smaller ones first."""
    cases = (LayerCase(**dict(zip(AXES, values, strict=True))) for values in product(*AXES.values()))
    return iter(sorted(filter(possible, cases), key=lambda case: case.work))


def pairs(case: LayerCase) -> set[tuple[Any, ...]]:
    """The pairs of values of two axes that a case covers."""
    values = [(axis, getattr(case, axis)) for axis in AXES]
    return set(combinations(values, 2))


def covering(cases: list[LayerCase]) -> list[LayerCase]:
    """Few of the cases, which cover every pair of values that any of them has.

    Greedy: the case with the most pairs still missing comes next; of several the one whose values were taken least
    often, then the one with the least work.
    """
    remaining = [(pairs(case), case) for case in cases]
    missing = set().union(*(covers for covers, _ in remaining))
    uses: Counter[tuple[str, Any]] = Counter()

    def rank(item: tuple[set[tuple[Any, ...]], LayerCase]) -> tuple[float, ...]:
        covers, case = item
        often = sum(uses[axis, getattr(case, axis)] * len(AXES[axis]) for axis in AXES)
        return len(covers & missing), -often, -case.work

    chosen = []
    while missing:
        covers, best = max(remaining, key=rank)
        chosen.append(best)
        uses.update((axis, getattr(best, axis)) for axis in AXES)
        missing -= covers
        remaining = [item for item in remaining if item[0] & missing]
    return chosen


# Common shapes that the covering set need not have: widths and batches of classifiers of texts, and whole sequences
# at batch 1.
COMMON = [
    *(LayerCase(cell, 128, 32, 100, 0.45, "right") for cell in AXES["cell"]),
    *(LayerCase("LSTM", units, 32, 100, 0.45, "right") for units in (256, 512)),
    LayerCase("LSTM", 128, 128, 300, 0.2, "right"),
    LayerCase("LSTM", 128, 32, 100, 0.45, "right", threads=2),
    LayerCase("LSTM", 256, 128, 100, 0.45, "right", threads=2),
    LayerCase("LSTM", 512, 128, 100, 1.0, "none"),
    *(LayerCase("LSTM", units, 1, 100, 1.0, "none") for units in (128, 256, 512)),
]


@cache
def selection() -> tuple[LayerCase, ...]:
    """The layer cases of a default run."""
    affordable = [case for case in full_grid() if case.work <= SELECTED_WORK]
    return tuple(dict.fromkeys([*covering(affordable), *COMMON]))


def both_passes(cases: Iterable[LayerCase]) -> list[LayerCase]:
    return [replace(case, kind=kind) for case in cases for kind in PASSES]


def model_cases() -> list[ModelCase]:
    """Training and prediction with reviews of which 45 % of the steps are valid."""
    sizes = product(("training step", "prediction"), (32, 128), (80, 400), AXES["threads"])
    return [ModelCase(kind, b, t, round(0.45 * b * t), threads=threads) for kind, b, t, threads in sizes]


def stream_cases() -> list[StreamCase]:
    return [StreamCase(units) for units in (32, 128, 512)]


ROWS, ROW_TOKENS = 1000, 30


def padding_cases() -> list[ModelCase]:
    """The same number of tokens with ever more padding: one row grows, and 999 rows give up what it takes."""
    lengths = (30, 100, 300, 1000, 3000, 10_000)
    return [ModelCase("training step", ROWS, t, ROWS * ROW_TOKENS, 64, outlier=True) for t in lengths]


def token_cases() -> list[ModelCase]:
    """Ever more tokens at the same share of padding."""
    return [ModelCase("training step", 32, t, round(0.45 * 32 * t), 64) for t in (50, 100, 200, 400, 800, 1600)]
