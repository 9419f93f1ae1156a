"""Embedding, dense layers and the merging of two directions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .activations import Array, Pullback, activation_vjp

DensePullback = Callable[[Array], tuple[Array, Array, Array | None]]
MergePullback = Callable[[Array], tuple[Array, Array]]

MERGE_MODES = ("concat", "sum", "mul", "ave")


def embedding(ids: npt.NDArray[np.integer[Any]], embeddings: Array) -> Array:
    """Rows of ``embeddings`` [V, D] for ``ids`` of any shape: array ids.shape + (D,)."""
    return embedding_vjp(ids, embeddings)[0]


def embedding_vjp(ids: npt.NDArray[np.integer[Any]], embeddings: Array) -> tuple[Array, Pullback]:
    """:func:`embedding` and its pullback ``dy -> d_embeddings`` [V, D], dense."""

    def pullback(dy: Array) -> Array:
        gradient = np.zeros_like(embeddings)
        np.add.at(gradient, ids, dy)
        return gradient

    return embeddings[ids], pullback


def matmul(x: Array, weights: Array) -> Array:
    """``x @ weights`` for ``x`` [n, k] and ``weights`` [k, m]."""
    return x @ weights


def dense(x: Array, kernel: Array, bias: Array | None = None, activation: str | None = None) -> Array:
    """``activation(x @ kernel + bias)`` for ``x`` [..., k] and ``kernel`` [k, m]."""
    return dense_vjp(x, kernel, bias, activation)[0]


def dense_vjp(
    x: Array, kernel: Array, bias: Array | None = None, activation: str | None = None
) -> tuple[Array, DensePullback]:
    """:func:`dense` and its pullback ``dy -> (dx, d_kernel, d_bias or None)``."""
    z = x @ kernel
    y, pull = activation_vjp(z if bias is None else z + bias, activation or "linear")

    def pullback(dy: Array) -> tuple[Array, Array, Array | None]:
        dz = pull(dy)
        rows = dz.reshape(math.prod(dz.shape[:-1]), dz.shape[-1])
        d_kernel = x.reshape(len(rows), x.shape[-1]).T @ rows
        return dz @ kernel.T, d_kernel, None if bias is None else rows.sum(axis=0)

    return y, pullback


def merge_directions(forward: Array, backward: Array, mode: str = "concat") -> Array:
    """Merge two runs over [B, T, H], the second in its own order of processing.

    Parameters
    ----------
    forward, backward : array [B, T, H]
        Outputs with ``zero_output_for_mask``, as Keras's Bidirectional makes them.
    mode : {"concat", "sum", "mul", "ave"}, default "concat"
    """
    return merge_directions_vjp(forward, backward, mode)[0]


def merge_directions_vjp(forward: Array, backward: Array, mode: str = "concat") -> tuple[Array, MergePullback]:
    """:func:`merge_directions` and its pullback ``dy -> (d_forward, d_backward)``."""
    flipped = backward[:, ::-1]
    if mode == "concat":
        units = forward.shape[-1]
        y = np.concatenate([forward, flipped], axis=-1)
        return y, lambda dy: (dy[..., :units], dy[:, ::-1, units:])
    if mode == "sum":
        return forward + flipped, lambda dy: (dy, dy[:, ::-1])
    if mode == "mul":
        return forward * flipped, lambda dy: (dy * flipped, (dy * forward)[:, ::-1])
    if mode == "ave":
        return (forward + flipped) / 2, lambda dy: (dy / 2, dy[:, ::-1] / 2)
    raise ValueError(f"mode: expected one of {', '.join(MERGE_MODES)}, got {mode!r}")
