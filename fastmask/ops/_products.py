"""Products of tokens with matrices, shared out over threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType

from fastmask import threads
from fastmask.kernels.memory import aligned_empty, aligned_zeros
from fastmask.ops._arrays import (
    Array,
    Indices,
    product_panels,
    split,
    thread_count,
)

Task = Callable[[], None]


def multiply_tasks(
    kernel: ModuleType, x: Array, matrix: Array, out: Array, *, start: Array | None = None,
    x_index: Indices | None = None, out_index: Indices | None = None, count: int | None = None,
    accumulate: bool = False, split_at: int = 0,
) -> list[Task]:
    """Tasks that fill ``out[out_index[n]] = start + x[x_index[n]] @ matrix`` for ``count`` tokens.

    Each sum begins with column ``split_at`` of x; the columns before it come last.
    """
    tokens = out.shape[0] if count is None else count
    parts = thread_count(2.0 * tokens * matrix.size)
    columns = [slice(split_at, None), slice(split_at)] if split_at else [slice(None)]
    pieces = [(x[:, part], product_panels(kernel, matrix[part])) for part in columns]

    def multiply_rows(begin: int, end: int) -> None:
        for i, (left, panels) in enumerate(pieces):
            kernel.matmul(left, x_index, panels, start, out, out_index, begin, end, accumulate or i > 0)

    return [partial(multiply_rows, begin, end) for begin, end in split(tokens, parts)]


def product_tasks(
    kernel: ModuleType, x: Array, panels: Array, out: Array, *, start: Array | None = None
) -> list[Task]:
    """Tasks that fill ``out = start + x @ matrix``, given the panels of the matrix."""
    parts = thread_count(2.0 * out.size * x.shape[1])
    return [
        partial(kernel.matmul, x, None, panels, start, out, None, begin, end, False)
        for begin, end in split(out.shape[0], parts)
    ]


def multiply(
    kernel: ModuleType, x: Array, matrix: Array, out: Array, *, start: Array | None = None, accumulate: bool = False
) -> Array:
    """``out = start + x @ matrix``; returns ``out``."""
    threads.run(multiply_tasks(kernel, x, matrix, out, start=start, accumulate=accumulate))
    return out


def gradient_tasks(
    kernel: ModuleType, x: Array, d: Array, out: Array, *, bias: Array | None = None, x_index: Indices | None = None,
    begin: int = 0,
) -> list[Task]:
    """Tasks that add ``x[x_index].T @ d`` to ``out`` and the sums of ``d`` to ``bias``, over tokens from ``begin`` on.

    Threads share the columns of ``out``; each sum runs over all tokens in their order.
    """
    tokens = d.shape[0]
    panels = -(-out.shape[1] // (4 * kernel.lanes))
    parts = thread_count(2.0 * tokens * max(1, out.shape[0]) * out.shape[1])
    return [
        partial(_gradient_slice, kernel, x, x_index, d, out, bias, begin, tokens, first, last)
        for first, last in split(panels, parts)
    ]


def _gradient_slice(
    kernel: ModuleType, x: Array, x_index: Indices | None, d: Array, out: Array, bias: Array | None, begin: int,
    end: int, first: int, last: int,
) -> None:
    scratch = aligned_empty(kernel.gradient_scratch_size(*out.shape), out.dtype)
    kernel.gradient_product(x, x_index, d, out, bias, begin, end, first, last, scratch)


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
