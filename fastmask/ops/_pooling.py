"""One value for each row of a batch from those of its valid tokens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from fastmask import kernels
from fastmask.batch.packing import PackedSequence, Packing, take_rows
from fastmask.ops._arrays import Array, check_like, check_packed_floats
from fastmask.ops._products import segment_sum
from fastmask.ops._sequences import expand_vjp

Pullback = Callable[[ArrayLike], Array]


def average_pool(x: PackedSequence) -> Array:
    """The mean over the tokens of each row, (B, ...); zeros for a row without tokens."""
    return average_pool_vjp(x)[0]


def average_pool_vjp(x: PackedSequence) -> tuple[Array, Pullback]:
    """:func:`average_pool` and its pullback ``dy -> dx`` like ``x.values``."""
    x = check_packed_floats("x", x)
    data, collapse = _tokens(x)
    plan = x.packing
    count = np.maximum(plan.lengths, 1).astype(x.dtype)[:, None]
    y = (_row_sum(data, plan) / count).reshape(plan.batch_size, *x.values.shape[1:])

    def pullback(dy: ArrayLike) -> Array:
        d = check_like("dy", dy, y)
        return collapse(take_rows(d.reshape(plan.batch_size, data.shape[1]) / count, plan.rows))

    return y, pullback


def max_pool(x: PackedSequence) -> Array:
    """The largest of each feature over the tokens of each row, (B, ...); zeros for a row without tokens."""
    return max_pool_vjp(x)[0]


def max_pool_vjp(x: PackedSequence) -> tuple[Array, Pullback]:
    """:func:`max_pool` and its pullback ``dy -> dx`` like ``x.values``; equal maxima share the gradient."""
    x = check_packed_floats("x", x)
    data, collapse = _tokens(x)
    plan = x.packing
    largest = _row_max(data, plan)
    y = largest.reshape(plan.batch_size, *x.values.shape[1:])

    def pullback(dy: ArrayLike) -> Array:
        d = check_like("dy", dy, y)
        winners = (data == take_rows(largest, plan.rows)).astype(x.dtype)
        share = d.reshape(largest.shape) / np.maximum(_row_sum(winners, plan), 1)
        return collapse(winners * take_rows(share, plan.rows))

    return y, pullback


def _tokens(x: PackedSequence) -> tuple[Array, Pullback]:
    """The tokens as a matrix (N, width), and the pullback to the stored values."""
    data, back = expand_vjp(x)
    flat = data.reshape(len(data), int(np.prod(data.shape[1:], dtype=np.int64)))
    return np.ascontiguousarray(flat), lambda d: back(np.asarray(d).reshape(data.shape))


def _row_sum(data: Array, plan: Packing) -> Array:
    return segment_sum(kernels.module(data.dtype), data, plan.rows, plan.batch_size)


def _row_max(data: Array, plan: Packing) -> Array:
    """The largest of each row, found step by step: a step holds a token of every row that is long enough."""
    largest = np.zeros((plan.batch_size, data.shape[1]), data.dtype)
    for step, (start, rows) in enumerate(zip(plan.offsets.tolist(), plan.batch_sizes.tolist(), strict=True)):
        tokens = data[start : start + rows]
        largest[:rows] = tokens if step == 0 else np.maximum(largest[:rows], tokens)
    return take_rows(largest, plan.unsorted_indices)
