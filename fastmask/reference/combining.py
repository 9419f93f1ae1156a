"""Normalization, pooling, merging and attention over padded arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .activations import Array
from .packing import Mask

Masks = Sequence[Mask | None] | None


def layer_normalization(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: float = 1e-3,
    axis: int | Sequence[int] = -1,
    rms_scaling: bool = False,
) -> Array:
    """``x`` at mean 0 and variance 1 along some axes, times ``gamma``, plus ``beta``; with ``rms_scaling`` at any mean.

    ``gamma`` and ``beta`` have the lengths of the axes, in the order of ``x``.
    """
    axes = sorted(place % x.ndim for place in ([axis] if isinstance(axis, int) else axis))
    wide = [n if place in axes else 1 for place, n in enumerate(x.shape)]
    gamma, beta = (None if weight is None else weight.reshape(wide) for weight in (gamma, beta))
    mean, variance = x.mean(axis=tuple(axes), keepdims=True), x.var(axis=tuple(axes), keepdims=True)
    return batch_normalization(x, 0 * mean if rms_scaling else mean, variance, gamma, beta, epsilon)


def batch_moments(x: Array, mask: Mask | None = None, guard: float = 0.0) -> tuple[Array, Array]:
    """Mean and variance [F] of the valid tokens of ``x`` [B, T, F], whose number is ``guard`` too large."""
    tokens = x.reshape(-1, x.shape[-1]) if mask is None else x[mask]
    total = len(tokens) + guard or 1.0
    mean = tokens.sum(axis=0) / total
    return mean, ((tokens - mean) ** 2).sum(axis=0) / total


def batch_normalization(
    x: Array,
    mean: Array,
    variance: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: float = 1e-3,
) -> Array:
    """``gamma * (x - mean) / sqrt(variance + epsilon) + beta``."""
    y: Array = (x - mean) / np.sqrt(variance + epsilon)
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta


def average_pool(x: Array, mask: Mask | None = None) -> Array:
    """The mean over the valid steps of each row of ``x`` [B, T, ...]; zeros for a row without any."""
    return _pooled(x, mask, "mean")


def max_pool(x: Array, mask: Mask | None = None) -> Array:
    """The largest values over the valid steps of each row of ``x`` [B, T, ...]; zeros for a row without any."""
    return _pooled(x, mask, "max")


def _pooled(x: Array, mask: Mask | None, how: str) -> Array:
    y = np.zeros((x.shape[0], *x.shape[2:]), x.dtype)
    for row in range(x.shape[0]):
        steps = x[row] if mask is None else x[row][mask[row]]
        if len(steps):
            y[row] = getattr(steps, how)(axis=0)
    return y


def merge(arrays: Sequence[Array], mode: str, masks: Masks = None) -> Array:
    """Merge arrays [B, T, ...] entry by entry, two at a time, as Keras's layers do.

    With "multiply" masked entries are 1, and 0 where no array is valid; "maximum" and "minimum" take
    the other array's entry for a masked one. The other modes do not look at the masks.
    """
    pairs = zip(masks or [None] * len(arrays), arrays, strict=True)
    valid = [None if m is None else m.reshape(m.shape + (1,) * (a.ndim - m.ndim)) for m, a in pairs]
    if mode in ("add", "average"):
        total: Array = np.sum(np.broadcast_arrays(*arrays), axis=0)
        return total / len(arrays) if mode == "average" else total
    if mode == "subtract":
        first, second = arrays
        return first - second
    y, due = arrays[0], valid[0]
    if mode == "multiply":
        y = y if due is None else np.where(due, y, 1)
    for x, own in zip(arrays[1:], valid[1:], strict=True):
        if mode == "multiply":
            y = y * (x if own is None else np.where(own, x, 1))
        else:
            x = x if own is None else np.where(own, x, y)
            y = y if due is None else np.where(due, y, x)
            y = np.maximum(y, x) if mode == "maximum" else np.minimum(y, x)
        due = None if due is None or own is None else due | own
    return np.where(due, y, 0) if mode == "multiply" and due is not None else y


def batch_dot(x: Array, y: Array, axes: tuple[int, int], normalize: bool = False) -> Array:
    """Sums of products over one axis of ``x`` and of ``y``, row by row; [B, 1] if no axis is left."""
    if normalize:
        x, y = _unit(x, axes[0]), _unit(y, axes[1])
    rows = [np.tensordot(a, b, axes=(axes[0] - 1, axes[1] - 1)) for a, b in zip(x, y, strict=True)]
    out = np.array(rows)
    return out[:, None] if out.ndim == 1 else out


def _unit(x: Array, axis: int) -> Array:
    norms = np.sqrt((x * x).sum(axis=axis, keepdims=True))
    return np.asarray(x / np.maximum(norms, 1e-7))


def attention(
    query: Array,
    key: Array,
    value: Array,
    scores_mask: Mask | None = None,
    scale: float = 1.0,
    concat_weight: float | None = None,
) -> tuple[Array, Array]:
    """Averages [B, Q, E] of values [B, V, E] by the softmax of their scores, and these weights [B, Q, V].

    A score is ``scale * query @ key``, or with ``concat_weight`` that times
    ``sum(tanh(scale * (query + key)))``; where ``scores_mask`` is False it is 1e9 less.
    """
    if concat_weight is None:
        scores = scale * np.einsum("bqd,bvd->bqv", query, key)
    else:
        scores = concat_weight * np.tanh(scale * (query[:, :, None] + key[:, None])).sum(axis=-1)
    if scores_mask is not None:
        scores = np.where(scores_mask, scores, scores - 1e9)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = weights / weights.sum(axis=-1, keepdims=True)
    return np.einsum("bqv,bve->bqe", weights, value), weights
