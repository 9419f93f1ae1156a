"""Losses whose passes over a large vocabulary of classes are worth compiling."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from fastmask import kernels, threads
from fastmask.kernels.memory import aligned_empty
from fastmask.ops._arrays import Array, check_float, check_shape, split, thread_count
from fastmask.ops._embedding import check_ids


def sparse_crossentropy(
    prediction: ArrayLike, labels: ArrayLike, scale: ArrayLike | None = None, from_logits: bool = False,
    epsilon: float = 1e-7,
) -> tuple[Array, Array]:
    """Cross-entropy of one choice among C classes, and its gradient.

    Parameters
    ----------
    prediction : float32 or float64 array (n, C)
        Probabilities p: the value is ``-log(p[label] / sum(p))``, the quotient clipped to [epsilon, 1 - epsilon]
        with zero gradient outside, as in Keras. Or, ``from_logits``, scores x: the value is
        ``-log(softmax(x)[label])``.
    labels : integer array (n,)
        From 0 to C - 1; anything else is an IndexError.
    scale : array (n,) of the same dtype, optional
        What the gradient of each row is multiplied by; 1 by default. The values do not see it.
    from_logits : bool, default False
    epsilon : float, default 1e-7

    Returns
    -------
    values : array (n,)
    gradient : array (n, C)
        ``scale`` times the derivative of each row's value by that row of ``prediction``.
    """
    rows = check_float("prediction", prediction, 2)
    numbers = np.ascontiguousarray(check_ids("labels", labels, rows.shape[1]))
    check_shape("labels", numbers, rows.shape[:1])
    scales = np.ones(rows.shape[0], rows.dtype) if scale is None else check_float("scale", scale, 1, rows.dtype)
    check_shape("scale", scales, rows.shape[:1])
    values, gradient = np.empty(rows.shape[0], rows.dtype), aligned_empty(rows.shape, rows.dtype)
    module, last = kernels.module(rows.dtype), () if from_logits else (float(epsilon),)
    run = module.sparse_crossentropy_of_logits if from_logits else module.sparse_crossentropy
    parts = [slice(*part) for part in split(rows.shape[0], thread_count(20.0 * rows.size))]
    arrays = (rows, numbers, scales, values, gradient)
    threads.run([partial(run, *(array[part] for array in arrays), *last) for part in parts])
    return values, gradient
