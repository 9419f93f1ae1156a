"""Attention over the padded grid, with the arithmetic of Keras's Attention layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmask.core.arguments import as_array
from fastmask.ops._arrays import Array, check_bool, check_broadcast, check_float, check_like, check_shape

Mask = NDArray[np.bool_]
_MASKED = 1e9


class AttentionGradients(NamedTuple):
    """Gradients of an attention.

    Attributes
    ----------
    query, key, value : arrays like the arguments
    scale, concat_weight : array (), or None if none was given
    """

    query: Array
    key: Array
    value: Array
    scale: Array | None
    concat_weight: Array | None


Pullback = Callable[[ArrayLike | None, ArrayLike | None], AttentionGradients]


def attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    scores_mask: Mask | None = None,
    scale: ArrayLike | None = None,
    concat_weight: ArrayLike | None = None,
    factor: ArrayLike | None = None,
) -> tuple[Array, Array]:
    """Averages of values, weighted by the softmax of how well each query fits the keys.

    Parameters
    ----------
    query : float32 or float64 array (B, Q, D)
    key : array (B, V, D)
    value : array (B, V, E)
    scores_mask : bool array that broadcasts to (B, Q, V), optional
        Scores where it is False get 1e9 taken off, as in Keras: they have no weight, unless a query
        has no other.
    scale : array (), optional
    concat_weight : array (), optional
        With it a score is ``concat_weight * sum(tanh(scale * (query + key)))``, else the product
        ``scale * query @ key``.
    factor : array (B, Q, V), optional
        Multiplies the weights (dropout).

    Returns
    -------
    y : array (B, Q, E)
    weights : array (B, Q, V)
    """
    return attention_vjp(query, key, value, scores_mask, scale, concat_weight, factor)[0]


def attention_vjp(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    scores_mask: Mask | None = None,
    scale: ArrayLike | None = None,
    concat_weight: ArrayLike | None = None,
    factor: ArrayLike | None = None,
) -> tuple[tuple[Array, Array], Pullback]:
    """:func:`attention` and its pullback ``(dy or None, d_weights or None) -> AttentionGradients``."""
    q = check_float("query", query, 3)
    k, v = (check_float(name, x, 3, q.dtype) for name, x in (("key", key), ("value", value)))
    check_shape("key", k, (q.shape[0], v.shape[1], q.shape[2]))
    check_shape("value", v, (q.shape[0], k.shape[1], v.shape[2]))
    scale, concat_weight = (_check_scalar(n, a, q) for n, a in (("scale", scale), ("concat_weight", concat_weight)))
    scores, scores_back = (_dot if concat_weight is None else _concat)(q, k, scale, concat_weight)
    if scores_mask is not None:
        allowed = check_bool("scores_mask", scores_mask)
        check_broadcast("scores_mask", allowed, scores.shape)
        scores = np.where(allowed, scores, scores - q.dtype.type(_MASKED))
    soft = np.exp(scores - scores.max(axis=-1, keepdims=True)) if scores.size else scores
    soft /= soft.sum(axis=-1, keepdims=True)
    kept = None if factor is None else check_float("factor", factor, None, q.dtype)
    if kept is not None:
        check_broadcast("factor", kept, soft.shape)
    weights = soft if kept is None else soft * kept
    y = weights @ v

    def pullback(dy: ArrayLike | None, d_weights: ArrayLike | None = None) -> AttentionGradients:
        d = np.zeros_like(y) if dy is None else check_like("dy", dy, y)
        dw = d @ v.swapaxes(1, 2)
        if d_weights is not None:
            extra = check_like("d_weights", d_weights, dw)
            dw = dw + extra
        dw = dw if kept is None else dw * kept
        d_scores = soft * (dw - (dw * soft).sum(axis=-1, keepdims=True))
        dq, dk, d_scale, d_concat = scores_back(d_scores)
        return AttentionGradients(dq, dk, weights.swapaxes(1, 2) @ d, d_scale, d_concat)

    return (y, weights), pullback


def _check_scalar(name: str, value: ArrayLike | None, like: Array) -> Array | None:
    """One number in the dtype of ``like``."""
    if value is None:
        return None
    array = as_array(name, value)
    if array.shape != () or array.dtype.kind not in "fiu":
        raise ValueError(f"{name}: expected one number, got {array.dtype} with shape {array.shape}")
    return array.astype(like.dtype)


Scores = tuple[Array, Callable[[Array], tuple[Array, Array, Array | None, Array | None]]]


def _dot(q: Array, k: Array, s: Array | None, _: Array | None) -> Scores:
    products = q @ k.swapaxes(1, 2)

    def back(d: Array) -> tuple[Array, Array, Array | None, Array | None]:
        scaled = d if s is None else d * s
        d_scale = None if s is None else np.asarray((d * products).sum())
        return scaled @ k, scaled.swapaxes(1, 2) @ q, d_scale, None

    return products if s is None else products * s, back


def _concat(q: Array, k: Array, s: Array | None, w: Array | None) -> Scores:
    sums = q[:, :, None] + k[:, None]
    bent = np.tanh(sums if s is None else sums * s)
    total = bent.sum(axis=-1)

    def back(d: Array) -> tuple[Array, Array, Array | None, Array | None]:
        inner = (d * w)[..., None] * (1 - bent * bent)
        d_scale = None if s is None else np.asarray((inner * sums).sum())
        inner = inner if s is None else inner * s
        return inner.sum(axis=2), inner.sum(axis=1), d_scale, np.asarray((d * total).sum())

    return w * total, back
