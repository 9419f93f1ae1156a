"""Regularizers and constraints: values, gradients, names, configs, and their place in layers."""

import numpy as np
import pytest
from helpers.layers import normal
from helpers.numeric import assert_gradient

import fastmask as fm
from fastmask import constraints, layers, regularizers

REGULARIZERS = [regularizers.L1(0.3), regularizers.L2(0.2), regularizers.L1L2(0.1, 0.4), regularizers.l1_l2()]


@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_penalty_and_gradient(regularizer):
    w = normal(4, 3)
    config = {"l1": 0.0, "l2": 0.0} | regularizer.get_config()
    expected = config["l1"] * np.abs(w).sum() + config["l2"] * (w**2).sum()
    np.testing.assert_allclose(regularizer(w), expected)
    assert_gradient(regularizer.gradient(w), lambda: regularizer(w), w)
    assert regularizer.gradient(w.astype(np.float32)).dtype == np.float32


def test_regularizers_by_name():
    assert regularizers.get(None) is None
    assert regularizers.get("l1").get_config() == regularizers.get("L1").get_config() == {"l1": 0.01}
    assert regularizers.get("l2").l2 == regularizers.get(regularizers.L2).l2 == 0.01
    assert regularizers.get("l1_l2").get_config() == {"l1": 0.0, "l2": 0.0}
    assert regularizers.l1_l2().get_config() == {"l1": 0.01, "l2": 0.01}
    config = regularizers.serialize(regularizers.L1L2(0.1, 0.2))
    assert config["class_name"] == "L1L2"
    assert regularizers.get(config).get_config() == {"l1": 0.1, "l2": 0.2}
    assert regularizers.serialize(None) is None


def test_function_as_regularizer():
    cubic = regularizers.get(lambda w: (np.abs(w**3).sum(), 3 * w * np.abs(w)))
    w = normal(3, 2)
    assert_gradient(cubic.gradient(w), lambda: cubic(w), w)
    with pytest.raises(TypeError, match="to serialize"):
        regularizers.serialize(cubic)


@pytest.mark.parametrize("value", [-1.0, np.inf, np.nan, "0.1", True])
def test_bad_factors(value):
    with pytest.raises(ValueError, match="l2: expected"):
        regularizers.L2(value)


def test_bad_identifiers():
    for module, word in ((regularizers, "regularizer"), (constraints, "constraint")):
        with pytest.raises(ValueError, match=f"{word}: expected one of"):
            module.get("best")
        with pytest.raises(TypeError, match=word):
            module.get(3)


CONSTRAINTS = [
    constraints.MaxNorm(0.9), constraints.MaxNorm(0.9, axis=1), constraints.UnitNorm(), constraints.NonNeg(),
    constraints.MinMaxNorm(0.5, 0.8, 0.3), constraints.MinMaxNorm(3.0, 4.0, axis=[0, 1]),
]  # fmt: skip


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_constraints(constraint):
    w = normal(4, 3)
    y = constraint(w)
    assert y.shape == w.shape
    assert constraint(w.astype(np.float32)).dtype == np.float32
    again = constraints.get(constraints.serialize(constraint))
    np.testing.assert_array_equal(again(w), y)
    if isinstance(constraint, constraints.NonNeg):
        np.testing.assert_array_equal(y, np.maximum(w, 0))
        return
    axis = tuple(np.atleast_1d(constraint.axis))
    norms = np.sqrt((w**2).sum(axis=axis, keepdims=True))
    low, high = getattr(constraint, "min_value", 0), getattr(constraint, "max_value", None)
    wanted = np.ones_like(norms) if high is None else np.clip(norms, low, high)
    rate = getattr(constraint, "rate", 1)
    np.testing.assert_allclose(y, w * (rate * wanted + (1 - rate) * norms) / (norms + 1e-7))


def test_constraints_by_name():
    assert constraints.get(None) is None
    for name, cls in (("max_norm", "MaxNorm"), ("non_neg", "NonNeg"), ("unit_norm", "UnitNorm")):
        assert type(constraints.get(name)).__name__ == type(constraints.get(cls)).__name__ == cls
    assert constraints.get(constraints.MaxNorm).get_config() == {"max_value": 2, "axis": 0}
    with pytest.raises(TypeError, match="to serialize"):
        constraints.serialize(np.abs)


REGULARIZED = {
    "dense": lambda **k: layers.Dense(2, kernel_regularizer="l2", bias_constraint="non_neg", **k),
    "embedding": lambda **k: layers.Embedding(4, 2, embeddings_regularizer="l1", embeddings_constraint="max_norm"),
    "lstm": lambda **k: layers.LSTM(2, recurrent_regularizer="l2", kernel_constraint="unit_norm", **k),
    "gru": lambda **k: layers.GRU(2, bias_regularizer={"class_name": "L2", "config": {"l2": 0.5}}, **k),
    "bidirectional": lambda **k: layers.Bidirectional(layers.LSTM(2, kernel_regularizer="l1_l2", **k)),
    "normalization": lambda **k: layers.BatchNormalization(gamma_regularizer="l1", beta_constraint="non_neg", **k),
}


@pytest.mark.parametrize("name", REGULARIZED)
def test_wiring_and_configs(name):
    layer = REGULARIZED[name]()
    layer.build((None, None) if name == "embedding" else (None, None, 3))
    assert any(w.regularizer is not None for w in layer.weights)
    config = layers.serialize(layer)
    assert layers.deserialize(config).get_config() == config["config"]
    assert len(layer.losses) == sum(w.regularizer is not None for w in layer.trainable_weights)
    layer.trainable = False
    assert layer.losses == []


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", [regularizers.L1, lambda l1: regularizers.L1L2(l1, 0.5)])
def test_a_weight_of_zero_is_not_pushed(make, dtype):
    """Whatever the sign of the zero."""
    tiny, regularizer = np.finfo(dtype).tiny, make(0.25)
    w = np.array([0.0, -0.0, 2.0, -2.0, tiny, -tiny], dtype)
    expected = np.array([0, 0, 0.25, -0.25, 0.25, -0.25], dtype) + dtype(2 * regularizer.l2) * w
    np.testing.assert_array_equal(regularizer.gradient(w), expected)


L1 = {"class_name": "L1L2", "config": {"l1": 0.5, "l2": 0.5}}
PENALIZED = {
    "dense": lambda: [fm.Input((3,)), layers.Dense(1, kernel_regularizer="l1", bias_regularizer=L1)],
    "embedding": lambda: [
        fm.Input((3,), dtype="int32"), layers.Embedding(4, 1, embeddings_regularizer=L1),
        layers.GlobalAveragePooling1D(),
    ],
    "recurrent": lambda: [
        fm.Input((2, 3)), layers.LSTM(1, kernel_regularizer=L1, recurrent_regularizer="l1", bias_regularizer="l1"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", PENALIZED)
def test_weights_of_zero_stay_in_training(name):
    """Weights that L1 has driven to zero do not move again where nothing but the penalty acts on them."""
    model = fm.Sequential(PENALIZED[name]())
    model.compile(fm.optimizers.SGD(0.1), "mse")
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    x = np.zeros((2, *model.input_shape[1:]), model.inputs[0].dtype)
    for _ in range(3):
        model.train_on_batch(x, np.zeros((2, 1)))
    for weight in model.get_weights():
        np.testing.assert_array_equal(weight, 0)
