"""Optimizer steps, the cross-entropy of class numbers and the mean of a loss under a mask.

Optimizer steps return new arrays: the parameter first, then the slots as they were given (None stays None).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .activations import Array, softmax
from .packing import Mask

MaybeArray = Array | None


def sgd_step(
    param: Array,
    grad: Array,
    velocity: MaybeArray,
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
) -> tuple[Array, MaybeArray]:
    """Gradient descent; without ``velocity`` there is no momentum."""
    if velocity is None:
        return param - lr * grad, None
    velocity = momentum * velocity - lr * grad
    change = momentum * velocity - lr * grad if nesterov else velocity
    return param + change, velocity


def rmsprop_step(
    param: Array,
    grad: Array,
    mean_square: Array,
    momentum_buffer: MaybeArray,
    mean: MaybeArray,
    lr: float,
    rho: float = 0.9,
    momentum: float = 0.0,
    epsilon: float = 1e-7,
) -> tuple[Array, Array, MaybeArray, MaybeArray]:
    """RMSprop, centered when ``mean`` is given; epsilon stands inside the square root."""
    mean_square = rho * mean_square + (1 - rho) * grad**2
    variance = mean_square
    if mean is not None:
        mean = rho * mean + (1 - rho) * grad
        variance = mean_square - mean**2
    change = lr * grad / np.sqrt(variance + epsilon)
    if momentum_buffer is not None:
        momentum_buffer = momentum * momentum_buffer + change
        change = momentum_buffer
    return param - change, mean_square, momentum_buffer, mean


def adam_alpha(lr: float, step: int, beta_1: float = 0.9, beta_2: float = 0.999) -> float:
    """Step size of Adam with its bias correction; ``step`` counts from 1."""
    return lr * float(np.sqrt(1 - beta_2**step)) / (1 - beta_1**step)


def adam_step(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    v_max: MaybeArray,
    alpha: float,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
) -> tuple[Array, Array, Array, MaybeArray]:
    """Adam, with amsgrad when ``v_max`` is given; epsilon stands outside the square root."""
    m = beta_1 * m + (1 - beta_1) * grad
    v = beta_2 * v + (1 - beta_2) * grad**2
    largest = v
    if v_max is not None:
        v_max = largest = np.maximum(v_max, v)
    return param - alpha * m / (np.sqrt(largest) + epsilon), m, v, v_max


def lazy_adam_step(
    param: Array,
    ids: npt.NDArray[np.integer[Any]],
    rows: Array,
    m: Array,
    v: Array,
    v_max: MaybeArray,
    alpha: float,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
) -> tuple[Array, Array, Array, MaybeArray]:
    """:func:`adam_step` of the rows ``ids`` (distinct) with the gradients ``rows``; the others stay."""
    largest = None if v_max is None else v_max[ids]
    changed = adam_step(param[ids], rows, m[ids], v[ids], largest, alpha, beta_1, beta_2, epsilon)
    param, m, v = param.copy(), m.copy(), v.copy()
    param[ids], m[ids], v[ids] = changed[:3]
    if v_max is not None:
        v_max = v_max.copy()
        v_max[ids] = changed[3]
    return param, m, v, v_max


def sparse_crossentropy(
    prediction: Array,
    labels: npt.NDArray[np.integer[Any]],
    scale: MaybeArray = None,
    from_logits: bool = False,
    epsilon: float = 1e-7,
) -> tuple[Array, Array]:
    """Cross-entropy of class numbers [n], of probabilities or logits [n, C], and ``scale`` [n] times its gradient."""
    rows = np.arange(len(labels))
    chosen = np.zeros_like(prediction)
    chosen[rows, labels] = 1
    if from_logits:
        p = softmax(prediction)
        values, gradient = -np.log(p[rows, labels]), p - chosen
    else:
        total = prediction.sum(axis=-1)
        share = prediction[rows, labels] / total
        q = np.clip(share, epsilon, 1 - epsilon)
        inside = (q == share)[:, None]
        values, gradient = -np.log(q), inside * (1 - chosen / q[:, None]) / total[:, None]
    return values, gradient if scale is None else gradient * scale[:, None]


def masked_mean(values: Array, mask: Mask | None = None, sample_weight: Array | None = None) -> float:
    """Mean of a loss over the valid steps.

    Parameters
    ----------
    values : array [B, T] (or [B])
        Loss of each step. What stands at masked steps does not matter.
    mask : bool, shaped like ``values``, default None
    sample_weight : array shaped like ``values`` or [B], default None
        Multiplies the loss; the divisor stays the number of valid steps.

    Returns
    -------
    float
        0 when no step is valid.
    """
    return masked_mean_vjp(values, mask, sample_weight)[0]


def masked_mean_vjp(
    values: Array, mask: Mask | None = None, sample_weight: Array | None = None
) -> tuple[float, Callable[[float], Array]]:
    """:func:`masked_mean` and its pullback ``d_loss -> d_values``."""
    valid = np.ones(values.shape, bool) if mask is None else mask
    share = valid.astype(values.dtype) / max(int(valid.sum()), 1)
    if sample_weight is not None:
        missing = values.ndim - sample_weight.ndim
        share *= sample_weight.reshape(sample_weight.shape + (1,) * missing)
    loss = float((np.where(valid, values, 0) * share).sum())
    return loss, lambda d_loss=1.0: d_loss * share
