"""Adam and its kin over many steps, whose number never ceases to count, against their formulas in plain NumPy."""

import numpy as np
import pytest

from fastmask import ops, optimizers
from fastmask.layers import Variable

SHAPE, RATE, BETA_1, BETA_2, EPSILON, DECAY = (5, 3), 0.02, 0.9, 0.999, 1e-5, 0.1
LOOKS = (1, 2, 3, 10, 30, 100, 300)


class Moments:
    """The running means of a gradient and of its square, in the rows that have one."""

    def __init__(self, steps_before):
        self.t, self.m, self.v = steps_before, np.zeros(SHAPE), np.zeros(SHAPE)
        self.largest, self.product = np.zeros(SHAPE), 1.0

    def take(self, g, rows):
        self.t += 1
        self.m[rows] = BETA_1 * self.m[rows] + (1 - BETA_1) * g[rows]
        self.v[rows] = BETA_2 * self.v[rows] + (1 - BETA_2) * g[rows] ** 2


def adam(w, g, s, rows=slice(None)):
    s.take(g, rows)
    unbiased, spread = s.m / (1 - BETA_1**s.t), np.sqrt(s.v / (1 - BETA_2**s.t))
    # Keras adds epsilon before it corrects the spread.
    w[rows] -= RATE * (unbiased / (spread + EPSILON / np.sqrt(1 - BETA_2**s.t)))[rows]


def adamw(w, g, s, rows):
    w *= 1 - RATE * DECAY
    adam(w, g, s)


def amsgrad(w, g, s, rows):
    s.take(g, slice(None))
    s.largest = np.maximum(s.largest, s.v)
    w -= RATE * np.sqrt(1 - BETA_2**s.t) / (1 - BETA_1**s.t) * s.m / (np.sqrt(s.largest) + EPSILON)


def adamax(w, g, s, rows):
    norm = np.maximum(BETA_2 * s.largest, np.abs(g))
    s.take(g, slice(None))
    s.largest = norm
    w -= RATE / (1 - BETA_1**s.t) * s.m / (norm + EPSILON)


def nadam(w, g, s, rows):
    s.take(g, slice(None))
    now, following = (BETA_1 * (1 - 0.5 * 0.96**t) for t in (s.t, s.t + 1))
    s.product *= now
    ahead = following * s.m / (1 - following * s.product) + (1 - now) * g / (1 - s.product)
    w -= RATE * ahead / (np.sqrt(s.v / (1 - BETA_2**s.t)) + EPSILON)


KIN = {
    "Adam": (optimizers.Adam, lambda w, g, s, rows: adam(w, g, s)),
    "AdamW": (lambda *a, **k: optimizers.AdamW(*a, weight_decay=DECAY, **k), adamw),
    "AMSGrad": (lambda *a, **k: optimizers.Adam(*a, amsgrad=True, **k), amsgrad),
    "LazyAdam": (optimizers.LazyAdam, adam),
    "Adamax": (optimizers.Adamax, adamax),
    "Nadam": (optimizers.Nadam, nadam),
}


@pytest.mark.parametrize("before", [0, 999, 9999])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("name", KIN)
def test_many_steps(name, kind, before):
    """From the first step on, and from a later one, as after loading a file."""
    make, formula = KIN[name]
    rng, optimizer = np.random.default_rng(0), make(RATE, beta_1=BETA_1, beta_2=BETA_2, epsilon=EPSILON)
    variable = Variable(rng.normal(size=SHAPE), "w")
    expected, state = variable.numpy(), Moments(before)
    optimizer.iterations = before
    for t in range(1, LOOKS[-1] + 1):
        rows = np.arange(SHAPE[0]) if kind == "dense" else np.flatnonzero(rng.random(SHAPE[0]) < 0.5)
        grad = ops.SparseRows(rows, rng.normal(size=(len(rows), SHAPE[1])), SHAPE)
        optimizer.apply([grad.dense() if kind == "dense" else grad], [variable])
        formula(expected, grad.dense(), state, rows)
        if t in LOOKS:
            np.testing.assert_allclose(variable.value, expected, rtol=1e-9, atol=1e-12, err_msg=f"step {before + t}")
    assert optimizer.iterations == before + LOOKS[-1]
