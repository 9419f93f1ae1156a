"""A classifier of texts and its training steps in plain NumPy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmask import reference

Array = NDArray[Any]


class Slot(NamedTuple):
    """The two running means of Adam for one weight."""

    m: Array
    v: Array


class NumpyModel:
    """Embedding, one recurrent layer, one logistic unit, and Adam; `cell` is a function of ``fastmask.reference``."""

    def __init__(self, cell: str, weights: list[Array]) -> None:
        self.cell = cell
        self.weights = weights
        self.slots = [Slot(np.zeros_like(weight), np.zeros_like(weight)) for weight in weights]
        self.steps = 0

    def predict(self, ids: Array) -> Array:
        """Return the probabilities (B, 1)."""
        table, kernel, recurrent_kernel, bias, dense_kernel, dense_bias = self.weights
        run = getattr(reference, self.cell)
        _, states = run(reference.embedding(ids, table), kernel, recurrent_kernel, bias, mask=ids != 0)
        return reference.dense(states[0], dense_kernel, dense_bias, "sigmoid")

    def step(self, ids: Array, y: Array) -> float:
        """Train on one batch; return its loss."""
        table, kernel, recurrent_kernel, bias, dense_kernel, dense_bias = self.weights
        x, pull_table = reference.embedding_vjp(ids, table)
        run = getattr(reference, f"{self.cell}_vjp")
        (_, states), pull_run = run(x, kernel, recurrent_kernel, bias, mask=ids != 0)
        p, pull_dense = reference.dense_vjp(states[0], dense_kernel, dense_bias, "sigmoid")
        loss = -np.mean(np.where(y, np.log(p), np.log(1 - p)))
        dh, d_dense_kernel, d_dense_bias = pull_dense((p - y) / (p * (1 - p)) / len(y))
        d = pull_run(None, (dh, *(None for _ in states[1:])))
        self._update([pull_table(d.inputs), d.kernel, d.recurrent_kernel, d.bias, d_dense_kernel, d_dense_bias])
        return float(loss)

    def _update(self, gradients: list[Array]) -> None:
        self.steps += 1
        alpha = reference.adam_alpha(0.001, self.steps)
        for n, gradient in enumerate(gradients):
            self.weights[n], m, v, _ = reference.adam_step(self.weights[n], gradient, *self.slots[n], None, alpha)
            self.slots[n] = Slot(m, v)
