"""Small trainings with everything random in them, on data of every kind, to be compared bit by bit."""

import os
from pathlib import Path

import numpy as np

import fastmask as fm
from fastmask import layers

ROWS, TIME, WORDS, BATCH, EPOCHS = 72, 7, 30, 8, 3
SOURCES = ["arrays", "steps", "sequences", "dataset", "dataset steps", "iterable", "generator"]


def compiled(optimizer="adam", units=6, metrics=("mae",), stateful=False):
    """A model with dropout of every kind; each call makes the same."""
    fm.utils.set_random_seed(5)
    model = fm.Sequential([
        layers.Embedding(WORDS, 5, mask_zero=True, batch_input_shape=(BATCH if stateful else None, None)),
        layers.Bidirectional(layers.GRU(units, dropout=0.2, recurrent_dropout=0.1, return_sequences=True)),
        layers.Dropout(0.2),
        layers.LSTM(units, stateful=stateful),
        layers.Dense(1),
    ])  # fmt: skip
    model.compile(optimizer, "mse", metrics=list(metrics))
    return model


def rows():
    """Ids with padding, and targets."""
    rng = np.random.default_rng(7)
    x = rng.integers(1, WORDS, (ROWS, TIME)) * (np.arange(TIME) < rng.integers(1, TIME + 1, (ROWS, 1)))
    return x, rng.standard_normal((ROWS, 1)).astype(np.float32)


class Batches(fm.utils.PyDataset):
    """Batches of the rows."""

    def __init__(self):
        super().__init__(workers=2)
        self.x, self.y = rows()

    def __len__(self):
        return ROWS // BATCH

    def __getitem__(self, index):
        chosen = slice(index * BATCH, (index + 1) * BATCH)
        return self.x[chosen], self.y[chosen]


class Shuffled:
    """An iterable that draws a new order from NumPy's global generator each time."""

    def __iter__(self):
        x, y = rows()
        for chosen in np.split(np.random.permutation(ROWS), ROWS // BATCH):  # noqa: NPY002
            yield x[chosen], y[chosen]


def endless():
    """A generator without end, with random numbers of its own."""
    rng, (x, y) = np.random.default_rng(9), rows()
    while True:
        chosen = rng.integers(0, ROWS, BATCH)
        yield x[chosen], y[chosen]


def given(source):
    """The arguments of `fit` for a kind of data."""
    x, y = rows()
    return {
        "arrays": lambda: {"x": x, "y": y, "batch_size": BATCH},
        "steps": lambda: {"x": x, "y": y, "batch_size": 12, "steps_per_epoch": 3},
        "sequences": lambda: {"x": [row[row > 0] for row in x], "y": y, "batch_size": 10},
        "dataset": lambda: {"x": Batches()},
        "dataset steps": lambda: {"x": Batches(), "steps_per_epoch": 6},
        "iterable": lambda: {"x": Shuffled()},
        "generator": lambda: {"x": endless(), "steps_per_epoch": 9},
    }[source]()


class Interrupt(fm.callbacks.Callback):
    """Raises InterruptedError instead of training on a batch after so many."""

    def __init__(self, batches):
        self.left = batches

    def on_train_batch_begin(self, batch, logs=None):
        self.left -= 1
        if self.left < 0:
            raise InterruptedError


def fit(model, callbacks=(), source="arrays", **arguments):
    """Train; return the model and its history."""
    options = given(source) | {"epochs": EPOCHS, "verbose": 0} | arguments
    return model, model.fit(**options, callbacks=list(callbacks))


def same_runs(first, second):
    """Fail unless two trainings ended with the same bits."""
    for a, b in zip(first[0].get_weights(), second[0].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(first[0].optimizer.variables, second[0].optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.value, b.value)
    assert first[1].epoch == second[1].epoch
    assert first[1].history == second[1].history


def environment():
    """The environment of a process that imports the helpers of the tests."""
    paths = [str(Path(__file__).parents[1]), str(Path(fm.__file__).parents[1])]
    return os.environ | {"PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
