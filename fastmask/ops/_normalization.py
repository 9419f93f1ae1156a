"""Layer normalization over any axes, and batch normalization of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastmask.core.arguments import real_numbers
from fastmask.ops._arrays import Array, check_axes, check_float, check_like, check_number, check_shape


class NormalizationGradients(NamedTuple):
    """Gradients of a normalization.

    Attributes
    ----------
    x : array like x
    gamma, beta : array like the argument, or None if none was given
    mean, variance : array (F,), or None unless they were given
    """

    x: Array
    gamma: Array | None
    beta: Array | None
    mean: Array | None = None
    variance: Array | None = None


Pullback = Callable[[ArrayLike], NormalizationGradients]


def layer_normalization(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    epsilon: float = 1e-3,
    axis: int | Sequence[int] = -1,
    rms_scaling: bool = False,
) -> Array:
    """``gamma * (x - mean) / sqrt(variance + epsilon) + beta`` with the moments along some axes.

    Parameters
    ----------
    x : float32 or float64 array
    gamma, beta : array of the lengths of the axes, in the order of x, optional
    epsilon : float, default 1e-3
    axis : int or sequence of int, default -1
    rms_scaling : bool, default False
        Whether the mean is taken off for the variance alone, as in Keras: ``gamma * x / sqrt(variance + epsilon)``.
    """
    return layer_normalization_vjp(x, gamma, beta, epsilon, axis, rms_scaling)[0]


def layer_normalization_vjp(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    epsilon: float = 1e-3,
    axis: int | Sequence[int] = -1,
    rms_scaling: bool = False,
) -> tuple[Array, Pullback]:
    """:func:`layer_normalization` and its pullback ``dy -> NormalizationGradients``."""
    array = check_float("x", x)
    axes = check_axes("axis", axis, array.ndim)
    sizes = tuple(array.shape[place] for place in axes)
    scale, offset = _check_affine(array, gamma, beta, sizes)
    rows = _as_rows(array, axes)
    centered = rows - _mean(rows)
    factor = 1 / np.sqrt(_mean(centered * centered) + array.dtype.type(check_number("epsilon", epsilon)))
    direction = centered * factor
    normal = rows * factor if rms_scaling else direction
    y = _from_rows(_affine(normal, scale, offset), array, axes)

    def pullback(dy: ArrayLike) -> NormalizationGradients:
        d = _as_rows(check_like("dy", dy, array), axes)
        dn = d if scale is None else d * scale
        shift = direction * _mean(dn * normal)
        dx = factor * (dn - shift if rms_scaling else dn - _mean(dn) - shift)
        d_gamma = None if scale is None else (d * normal).sum(axis=0).reshape(sizes)
        d_beta = None if offset is None else d.sum(axis=0).reshape(sizes)
        return NormalizationGradients(_from_rows(dx, array, axes), d_gamma, d_beta)

    return y, pullback


def batch_moments(x: ArrayLike, counts: ArrayLike | None = None, guard: float = 0.0) -> tuple[Array, Array]:
    """Mean and variance of rows, each counted so many times.

    Parameters
    ----------
    x : float32 or float64 array (n, F)
    counts : array (n,), optional
        Ones by default. A row that is counted zero times is not read.
    guard : float, default 0.0
        Added to the number of rows before it divides; Keras does so under a mask.

    Returns
    -------
    mean, variance : array (F,)
        Zeros if there are no rows.
    """
    array = check_float("x", x, 2)
    weights, total = _check_counts(array, counts, guard)
    mean = np.einsum("nf,n->f", array, weights) / total
    centered = array - mean
    return mean, np.einsum("nf,nf,n->f", centered, centered, weights) / total


def batch_normalization(
    x: ArrayLike,
    mean: ArrayLike,
    variance: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    epsilon: float = 1e-3,
) -> Array:
    """``gamma * (x - mean) / sqrt(variance + epsilon) + beta`` with given moments.

    Parameters
    ----------
    x : float32 or float64 array (n, F)
    mean, variance : array (F,)
    gamma, beta : array (F,), optional
    epsilon : float, default 1e-3
    """
    return batch_normalization_vjp(x, mean, variance, gamma, beta, epsilon)[0]


def batch_normalization_vjp(
    x: ArrayLike,
    mean: ArrayLike,
    variance: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    epsilon: float = 1e-3,
) -> tuple[Array, Pullback]:
    """:func:`batch_normalization` and its pullback ``dy -> NormalizationGradients``."""
    array = check_float("x", x, 2)
    scale, offset = _check_affine(array, gamma, beta, array.shape[1:])
    center = check_float("mean", mean, 1, array.dtype)
    spread = check_float("variance", variance, 1, array.dtype)
    check_shape("mean", center, array.shape[1:])
    check_shape("variance", spread, array.shape[1:])
    factor = 1 / np.sqrt(spread + array.dtype.type(check_number("epsilon", epsilon)))
    normal = (array - center) * factor
    y = _affine(normal, scale, offset)

    def pullback(dy: ArrayLike) -> NormalizationGradients:
        d = check_like("dy", dy, array)
        dx = d * (factor if scale is None else factor * scale)
        d_normal = (d * normal).sum(axis=0)
        d_variance = d_normal * factor * factor * (-0.5 if scale is None else -0.5 * scale)
        d_gamma, d_beta = (None if scale is None else d_normal), (None if offset is None else d.sum(axis=0))
        return NormalizationGradients(dx, d_gamma, d_beta, -dx.sum(axis=0), d_variance.astype(array.dtype))

    return y, pullback


def batch_training(
    x: ArrayLike,
    counts: ArrayLike | None = None,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    epsilon: float = 1e-3,
    guard: float = 0.0,
) -> tuple[Array, Array, Array]:
    """:func:`batch_normalization` of x by its own :func:`batch_moments`: y (n, F), mean (F,), variance (F,)."""
    return batch_training_vjp(x, counts, gamma, beta, epsilon, guard)[0]


def batch_training_vjp(
    x: ArrayLike,
    counts: ArrayLike | None = None,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    epsilon: float = 1e-3,
    guard: float = 0.0,
) -> tuple[tuple[Array, Array, Array], Pullback]:
    """:func:`batch_training` and the pullback of y; rows that are counted zero times have gradients too."""
    array = check_float("x", x, 2)
    weights, total = _check_counts(array, counts, guard)
    mean, variance = batch_moments(array, weights, guard)
    y, back = batch_normalization_vjp(array, mean, variance, gamma, beta, epsilon)

    def pullback(dy: ArrayLike) -> NormalizationGradients:
        g = back(dy)
        share = (weights / total)[:, None]
        d_variance = 2 * g.variance * (array - mean) * share  # type: ignore[operator]
        # The guard in the divisor leaves the weighted sum of (x - mean) a little off zero.
        d_mean = g.mean - d_variance.sum(axis=0)
        return NormalizationGradients(g.x + d_variance + d_mean * share, g.gamma, g.beta)

    return (y, mean, variance), pullback


def _mean(rows: Array) -> Array:
    if rows.shape[1] == 0:
        return np.zeros((rows.shape[0], 1), rows.dtype)
    return np.asarray(rows.mean(axis=-1, keepdims=True))


def _affine(normal: Array, gamma: Array | None, beta: Array | None) -> Array:
    y = normal if gamma is None else normal * gamma
    return y if beta is None else y + beta


def _as_rows(array: Array, axes: tuple[int, ...]) -> Array:
    """The entries along some axes as rows, one behind the other."""
    count = len(axes)
    if axes[0] < array.ndim - count:
        array = np.moveaxis(array, axes, range(-count, 0))
    shape = array.shape
    return array.reshape(math.prod(shape[:-count]), math.prod(shape[-count:]))


def _from_rows(rows: Array, like: Array, axes: tuple[int, ...]) -> Array:
    """Rows of `_as_rows` as an array of the shape that they come from."""
    if axes[0] == like.ndim - len(axes):
        return rows.reshape(like.shape)
    others = [n for place, n in enumerate(like.shape) if place not in axes]
    moved = rows.reshape(*others, *[like.shape[place] for place in axes])
    return np.ascontiguousarray(np.moveaxis(moved, range(-len(axes), 0), axes))


def _check_affine(
    x: Array, gamma: ArrayLike | None, beta: ArrayLike | None, sizes: tuple[int, ...]
) -> tuple[Array | None, Array | None]:
    """Gamma and beta as one row each."""
    found = []
    for name, value in (("gamma", gamma), ("beta", beta)):
        array = None if value is None else check_float(name, value, len(sizes), x.dtype)
        if array is not None:
            check_shape(name, array, sizes)
            array = array.reshape(-1)
        found.append(array)
    return found[0], found[1]


def _check_counts(x: Array, counts: ArrayLike | None, guard: float) -> tuple[Array, Array]:
    """The counts (n,) and what the sums are divided by, both of the dtype of x."""
    weights = np.ones(x.shape[0], x.dtype) if counts is None else real_numbers("counts", counts).astype(x.dtype)
    check_shape("counts", weights, x.shape[:1])
    total = weights.sum(dtype=np.float64) + check_number("guard", guard)
    return weights, np.asarray(total or 1.0, x.dtype)
