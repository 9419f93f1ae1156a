"""Training steps of a small classifier of texts, beside the same steps in plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from batches import Shape, make_ids
from conftest import Measure
from numpy_model import NumpyModel

import fastmask as fm

pytestmark = pytest.mark.benchmark(max_time=0.3, min_rounds=3)

VOCABULARY = 20_000
CELLS = {"SimpleRNN": ("simple_rnn", 1), "LSTM": ("lstm", 4), "GRU": ("gru", 3)}
SHAPES = [Shape(32, 80, 64, 64, 0.45), Shape(32, 300, 64, 64, 0.45), Shape(128, 80, 128, 128, 0.45)]


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
