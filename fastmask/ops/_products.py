"""Products of tokens with matrices, shared out over threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from types import ModuleType

import numpy as np

from fastmask import threads
from fastmask.kernels import packing
from fastmask.kernels.memory import aligned_zeros
from fastmask.ops import tuning
from fastmask.ops._arrays import (
    Array,
    Indices,
    product_panels,
    split,
    thread_count,
)

Task = Callable[[], None]


def product_tasks(
    kernel: ModuleType, pieces: Sequence[tuple[Array, Array]], out: Array, *, start: Array | None = None,
    out_index: Indices | None = None,
) -> list[Task]:
    """Tasks that fill ``out[out_index[n]] = start + x[n] @ matrix``.

    pieces: columns of x, and panels of the rows of the matrix that meet them, in the order of the sums.
    """
    tokens = pieces[0][0].shape[0]
    columns = sum([x.shape[1] for x, _ in pieces])
    product = kernel.Matmul(tuple(pieces), start, out, out_index)
    return [partial(product.fill, *rows) for rows in _ranges(tokens, 2.0 * tokens * columns * out.shape[1])]


def fill_product(
    kernel: ModuleType, x: Array, panels: Array, start: Array | None, out: Array, units: Array | None = None
) -> None:
    """``out = start + x @ matrix``, of which the panels are given, and the units if x and matrix are quantised."""
    product = kernel.Matmul(((x, panels),), start, out, None, units)
    if 2.0 * x.size * out.shape[1] < tuning.OPERATIONS_PER_THREAD:
        product.fill(0, x.shape[0])
    else:
        threads.run([partial(product.fill, *rows) for rows in _ranges(x.shape[0], 2.0 * x.size * out.shape[1])])


def _ranges(count: int, operations: float) -> list[tuple[int, int]]:
    """Ranges for work of so many operations: two for each thread, as one that is held up then does less."""
    parts = thread_count(operations)
    return split(count, 2 * parts if parts > 1 else 1)


def multiply_tasks(
    kernel: ModuleType, x: Array, matrix: Array, out: Array, *, start: Array | None = None,
    out_index: Indices | None = None,
) -> list[Task]:
    """:func:`product_tasks` of a matrix that is still to be packed."""
    return product_tasks(kernel, [(x, product_panels(kernel, matrix))], out, start=start, out_index=out_index)


def multiply(kernel: ModuleType, x: Array, matrix: Array, out: Array, *, start: Array | None = None) -> Array:
    """``out = start + x @ matrix``; returns ``out``."""
    threads.run(multiply_tasks(kernel, x, matrix, out, start=start))
    return out


def gradient_tasks(
    kernel: ModuleType, x: Array, d: Array, out: Array, *, bias: Array | None = None, x_index: Indices | None = None,
    begin: int = 0, share: float = 1.0,
) -> list[Task]:
    """Tasks that fill ``out`` with ``x[x_index].T @ d`` and ``bias`` with sums of ``d``, over tokens from ``begin`` on.

    Threads share the columns of ``out``; each sum runs over all tokens in their order. ``share``: what this is of
    all work that runs at the same time. It is split no further than that asks for, since each part copies all of x:
    with 32 columns of x, two halves take 1.2 times as long as the whole.
    """
    tokens = d.shape[0]
    blocks = -(-out.shape[1] // (4 * kernel.lanes))
    share = max(share, 1e-3)
    parts = ceil(share * thread_count(2.0 * tokens * max(1, out.shape[0]) * out.shape[1] / share))
    gradient = kernel.WeightGradient(x, x_index, d, out, bias, begin)
    return [partial(gradient.fill, *part) for part in split(blocks, parts)]


def clearing_tasks(out: Array, kept: Indices) -> list[Task]:
    """Tasks that set the rows of ``out`` to zeros, but for those that ``kept`` names."""
    rows = out.shape[0]
    if kept.size == rows or out.size == 0:
        return []
    keep = np.zeros(rows, np.bool_)
    keep[kept] = True
    parts = min(2 * threads.get_num_threads(), 1 + out.nbytes // tuning.CLEARED_BYTES)
    return [partial(packing.clear_rows, out, keep.view(np.uint8), *part) for part in split(rows, parts)]


def segment_sum(kernel: ModuleType, d: Array, index: Indices, count: int) -> Array:
    """``out[index[n]] += d[n]`` over ``count`` rows, in the order of n; an index of -1 is left out."""
    columns = d.shape[1]
    out = aligned_zeros((count, columns), d.dtype)
    parts = min(thread_count(10.0 * d.size), max(1, columns // (4 * kernel.lanes)))
    vectors = -(-columns // kernel.lanes)
    threads.run([
        partial(kernel.segment_sum, d, index, out, begin * kernel.lanes, min(end * kernel.lanes, columns))
        for begin, end in split(vectors, parts)
    ])
    return out
