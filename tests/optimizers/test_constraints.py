"""Constraints, which every way of making a step applies at its end, after clipping, decay and the update."""

import numpy as np
import pytest

import fastmask as fm
from fastmask import constraints, layers, ops, optimizers
from fastmask.layers import Variable

SHAPE = (6, 3)
OPTIMIZERS = {
    "sgd": lambda **kw: optimizers.SGD(0.5, momentum=0.9, nesterov=True, **kw),
    "rmsprop": lambda **kw: optimizers.RMSprop(0.1, **kw),
    "adagrad": lambda **kw: optimizers.Adagrad(0.1, **kw),
    "adadelta": lambda **kw: optimizers.Adadelta(1.0, **kw),
    "adam": lambda **kw: optimizers.Adam(0.1, amsgrad=True, **kw),
    "adamw": lambda **kw: optimizers.AdamW(0.1, **kw),
    "lazy": lambda **kw: optimizers.LazyAdam(0.1, **kw),
    "adamax": lambda **kw: optimizers.Adamax(0.1, **kw),
    "nadam": lambda **kw: optimizers.Nadam(0.1, **kw),
    "lion": lambda **kw: optimizers.Lion(0.1, **kw),
}
CONSTRAINTS = [constraints.NonNeg(), constraints.MaxNorm(0.7), constraints.MinMaxNorm(0.4, 0.6, rate=0.5, axis=1)]
WAYS = {
    "apply": lambda optimizer, grad, variable: optimizer.apply([grad], [variable]),
    "apply_gradients": lambda optimizer, grad, variable: optimizer.apply_gradients([(grad, variable)]),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_ends_with_the_constraint(name, sparse, way):
    """Three steps are those of the optimizer alone, each followed by the constraint."""
    decay = {} if name in ("lazy", "adamw") else {"weight_decay": 0.1}
    for constraint in CONSTRAINTS:
        rng = np.random.default_rng(1)
        start = rng.normal(size=SHAPE).astype(np.float32)
        bound, free = Variable(start, "w"), Variable(start, "w")
        bound.constraint = constraint
        first, second = (OPTIMIZERS[name](clipnorm=0.8, **decay) for _ in range(2))
        for _ in range(3):
            grad = rng.normal(size=(2, 3) if sparse else SHAPE).astype(np.float32)
            grad = ops.SparseRows(np.array([1, 4]), grad, SHAPE) if sparse else grad
            WAYS[way](first, grad, bound)
            WAYS[way](second, grad, free)
            free.assign(constraint(free.numpy()))
            np.testing.assert_array_equal(bound.value, free.value)
        assert not np.array_equal(bound.value, start)


def test_variables_without_a_gradient_are_left_alone():
    """As in Keras, a step changes only what has a gradient, by its constraint neither."""
    bound, other = Variable([-1.0, 2.0], "w"), Variable([1.0], "v")
    bound.constraint = constraints.NonNeg()
    optimizers.SGD(0.5).apply([None, np.ones(1)], [bound, other])
    np.testing.assert_array_equal(bound.value, [-1, 2])
    np.testing.assert_array_equal(other.value, [0.5])


@pytest.mark.parametrize("way", ["train_on_batch", "fit", "loop of one's own"])
def test_models(way):
    """All ways of training end in the same weights; the constraint is applied once a step."""

    def made():
        fm.utils.set_random_seed(3)
        half = constraints.MinMaxNorm(0.2, 0.3, rate=0.5, axis=1)
        model = fm.Sequential([
            layers.Embedding(9, 4, mask_zero=True, embeddings_constraint=half),
            layers.LSTM(3, recurrent_constraint=half, kernel_constraint="non_neg"),
            layers.Dense(1, kernel_constraint="unit_norm"),
        ])  # fmt: skip
        model.compile(optimizers.Adam(0.05, weight_decay=0.01), "mse")
        return model

    x, y = np.array([[1, 2, 3], [4, 5, 0]]), np.ones((2, 1), np.float32)
    model, expected = made(), made()
    free = optimizers.Adam(0.05, weight_decay=0.01)
    for _ in range(3):
        grads, weights = expected.loss_and_gradients(x, y)[1], expected.trainable_weights
        kept = [weight.constraint for weight in weights]
        for weight in weights:
            weight.constraint = None
        free.apply(grads, weights)
        for weight, constraint in zip(weights, kept, strict=True):
            weight.constraint = constraint
            if constraint is not None:
                weight.assign(constraint(weight.numpy()))
        if way == "train_on_batch":
            model.train_on_batch(x, y)
        elif way == "fit":
            model.fit(x, y, epochs=1, shuffle=False)
        else:
            model.optimizer.apply(model.loss_and_gradients(x, y)[1], model.trainable_weights)
    for got, right in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(got, right)
