"""Training steps of a small classifier of texts, beside the same steps in plain NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from batches import Array, Shape, make_ids
from conftest import Measure

import fastmask as fm
from fastmask import reference

pytestmark = pytest.mark.benchmark(max_time=0.3, min_rounds=3)

VOCABULARY = 20_000
CELLS = {"SimpleRNN": ("simple_rnn", 1), "LSTM": ("lstm", 4), "GRU": ("gru", 3)}
SHAPES = [Shape(32, 80, 64, 64, 0.45), Shape(32, 300, 64, 64, 0.45), Shape(128, 80, 128, 128, 0.45)]


class Slot(NamedTuple):
    """The two running means of Adam for one weight."""

    m: Array
    v: Array


class NumpyModel:
    """The compiled model's steps in plain NumPy: embedding, one recurrent layer, one logistic unit, Adam."""

    def __init__(self, cell: str, weights: list[Array]) -> None:
        self.run = getattr(reference, f"{cell}_vjp")
        self.weights = weights
        self.slots = [Slot(np.zeros_like(weight), np.zeros_like(weight)) for weight in weights]
        self.steps = 0

    def step(self, ids: Array, y: Array) -> float:
        """Train on one batch; return its loss."""
        table, kernel, recurrent_kernel, bias, dense_kernel, dense_bias = self.weights
        x, pull_table = reference.embedding_vjp(ids, table)
        (_, states), pull_run = self.run(x, kernel, recurrent_kernel, bias, mask=ids != 0)
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


def make_model(cell: str, shape: Shape) -> fm.Sequential:
    """The compiled model."""
    fm.utils.set_random_seed(0)
    model = fm.Sequential(
        [
            fm.layers.Embedding(VOCABULARY, shape.features, mask_zero=True),
            getattr(fm.layers, cell)(shape.units),
            fm.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile("adam", "binary_crossentropy")
    return model


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def bench_training_step(measure: Measure, cell: str, shape: Shape, engine: str) -> None:
    name, gates = CELLS[cell]
    ids = make_ids(shape.batch, shape.steps, shape.share, VOCABULARY)
    y = np.random.default_rng(4).integers(0, 2, (shape.batch, 1)).astype(np.float32)
    model = make_model(cell, shape)
    plain = NumpyModel(name, model.get_weights())
    assert model.train_on_batch(ids, y) == pytest.approx(plain.step(ids, y), rel=1e-5)
    tokens = int(np.count_nonzero(ids))
    operations = 6.0 * tokens * (shape.features + shape.units) * gates * shape.units
    function = {"fastmask": lambda: model.train_on_batch(ids, y), "numpy": lambda: plain.step(ids, y)}[engine]
    measure(function, f"training step {cell} {shape}", tokens, operations)
