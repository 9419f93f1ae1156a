"""Every threshold of the operations: the number, what it was measured with, and one way to override it.

The figures were taken on a virtual machine with two cores of an AMD EPYC (Zen 4), unless another is named.
`python -m bench.overhead` and `make bench-against` measure them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

OPERATIONS_PER_THREAD = 20_000_000
"""About 200 microseconds of one core: below this a second thread costs more than it saves."""

GRADIENT_SHARE = 2.0
"""Gradients of weights and inputs do not wait for one another: they are worth a second thread from half of the usual
work on. An LSTM of 64 units takes 0.78 ms for both passes over a row of 300 steps, and 0.83 ms with one thread."""

BLOCK_BYTES = 512 * 1024
"""Input products of a block of steps stay in the second-level cache until those steps have run."""

FEW_TOKENS_AT_FIRST, FEW_OPERATIONS_AT_FIRST = 4, 4_000_000
"""Up to so many tokens, or operations, the first run of a program goes without packed weights: packing them would take
longer than the run."""

FEW_TOKENS, FEW_OPERATIONS = 1, 1_200_000
"""The same for its later runs, whose weights are packed already. A SimpleRNN of 128 units takes 15 us for 10 steps on
the weights as they lie and 16 us on packed ones, for 30 steps 40 and 36 us."""

LYING_STEPS, LYING_OPERATIONS = 2, 2 * OPERATIONS_PER_THREAD
"""Up to so many steps, and operations, a module of PyTorch, whose weights may change unseen, reads them where they lie
(`python -m bench.torch_steps --steps 2`). To compare them with those that were packed reads twice their memory, but
each step on them as they lie has to turn them over. More operations are worth two threads."""

GRADIENTS_AT_ONCE = 40_000_000
"""Up to so many operations, a few hundred microseconds, one compiled call makes all gradients of a run."""

FEW_ROWS: tuple[tuple[int, int], ...] = (2 * 2**20, 12), (2**19, 5), (2**18, 3)
"""Threads share the units of every step where the recurrent weights have so many bytes and a step has so many rows at
most, on average. Weights that do not fit into a second-level cache come from beyond it in every step: an LSTM of 512
units takes 14 ms for a row of 100 steps, and 6 ms if each of two threads keeps half of the units; at 14 rows a step
both ways are even. Smaller weights are read as fast by each thread for rows of its own, but one to three rows are best
kept together: 1.16 and 0.78 ms for a row and an LSTM of 256 units. Below, a step ends before threads have met."""

PATIENCE, SLOWEST_BYTES_PER_SECOND = 1e-3, 5e9
"""A thread that has not come back after the time in which it could have read its weights at this rate, and these
seconds, has lost its CPU."""

BLOCK_ROWS = 6
"""Where one thread runs all steps, another makes their input products for so many rows at a time: GRUs of 128 and 256
units on 8 and one rows take 0.20 and 0.27 ms, and alone 0.32 and 0.34 ms. With 24 rows at a time the latter takes
0.33 ms. Below 0.2 ms it costs as much as it saves."""

LARGEST_TABLE = 64 * 2**20
"""Bytes up to which the products of an embedding table are kept: 20,000 words times the gates of an LSTM of 128 units
take 39 MiB."""

CLEARED_BYTES = 2**18
"""Small pieces of clearing, 10 microseconds each, fill the time until the last product of another thread ends."""

KEPT_PLAN_TOKENS = 2048
"""Plans of batches without a mask are kept, eight of them, up to so many tokens: 64 KiB each."""


@contextmanager
def override(**numbers: Any) -> Iterator[None]:
    """Use other numbers for a while: ``with tuning.override(FEW_TOKENS=-1): ...``.

    Parameters
    ----------
    **numbers
        By the names of this module; AttributeError for another.
    """
    unknown = [name for name in numbers if not name.isupper() or name not in globals()]
    if unknown:
        raise AttributeError(f"tuning has no number {unknown[0]!r}")
    before = {name: globals()[name] for name in numbers}
    globals().update(numbers)
    try:
        yield
    finally:
        globals().update(before)
