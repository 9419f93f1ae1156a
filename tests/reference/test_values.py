"""The rest of the reference against values by hand and against central differences."""

import math

import numpy as np
import pytest
from helpers.masks import MASK_KINDS, full_mask, make_mask
from helpers.numeric import assert_gradient

from fastmask import reference

# Values by hand or from tables, at x = -4, -1, 0, 1, 4.
KNOWN_VALUES = {
    "linear": [-4, -1, 0, 1, 4],
    "relu": [0, 0, 0, 1, 4],
    "tanh": [-0.999329299739067, -0.761594155955765, 0, 0.761594155955765, 0.999329299739067],
    "sigmoid": [0.017986209962091559, 0.268941421369995, 0.5, 0.731058578630005, 0.982013790037908],
    "hard_sigmoid": [0, 1 / 3, 0.5, 2 / 3, 1],
    "hard_sigmoid_keras2": [0, 0.3, 0.5, 0.7, 1],
    "softsign": [-0.8, -0.5, 0, 0.5, 0.8],
    "elu": [-0.981684361111266, -0.632120558828558, 0, 1, 4],
    "selu": [-1.7258986281898, -1.1113307378125628, 0, 1.0507009873554805, 4.202803949421922],
    "softplus": [
        0.018149927917808, 0.313261687518223, 0.693147180559945, 1.313261687518223, 4.018149927917808,
    ],
    "silu": [-0.071944839848366, -0.268941421369995, 0, 0.731058578630005, 3.928055160151634],
    "gelu": [-1.266849673e-4, -0.158655253931457, 0, 0.841344746068543, 3.999873315032649],
    "exponential": [0.018315638888734, 0.367879441171442, 1, 2.718281828459045, 54.598150033144236],
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN_VALUES)
def test_activation_values(name):
    y = reference.activation(np.array([-4.0, -1.0, 0.0, 1.0, 4.0]), name)
    np.testing.assert_allclose(y, KNOWN_VALUES[name], rtol=1e-9, atol=1e-13)


def test_every_activation_has_known_values():
    assert {*KNOWN_VALUES, "softmax"} == set(reference.ACTIVATIONS)


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_softmax_sums_to_one_along_its_axis(axis):
    x = np.random.default_rng(0).standard_normal((3, 4, 5)) * 300
    y = reference.activation(x, "softmax", axis)
    np.testing.assert_allclose(y.sum(axis=axis), 1.0, rtol=1e-12)
    small = x / 300
    ratio = np.exp(small) / np.exp(small).sum(axis=axis, keepdims=True)
    np.testing.assert_allclose(reference.activation(small, "softmax", axis), ratio, rtol=1e-12)


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("name", reference.ACTIVATIONS)
def test_activation_gradients(name, axis):
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((4, 5)) * 2, rng.standard_normal((4, 5))
    _, pullback = reference.activation_vjp(x, name, axis)
    assert_gradient(pullback(dy), lambda: (reference.activation(x, name, axis) * dy).sum(), x)


@pytest.mark.parametrize("name", reference.ACTIVATIONS)
def test_activations_do_not_overflow_early(name):
    x = np.array([-1e4, -100.0, 100.0, 1e4])
    y, pullback = reference.activation_vjp(x[:-1] if name == "exponential" else x, name)
    assert np.isfinite(y).all()
    assert np.isfinite(pullback(np.ones_like(y))).all()


def test_pack_plan_by_hand():
    mask = np.array([[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]], bool)
    plan = reference.pack_plan(mask)
    assert plan.lengths.tolist() == [2, 0, 3, 2]
    assert plan.sorted_indices.tolist() == [2, 0, 3, 1]
    assert plan.unsorted_indices.tolist() == [1, 3, 0, 2]
    assert plan.batch_sizes.tolist() == [3, 3, 1]
    assert plan.positions.tolist() == [8, 1, 12, 9, 3, 15, 10]
    assert reference.reverse_order(mask).tolist() == [6, 4, 5, 3, 1, 2, 0]


@pytest.mark.parametrize("mask", MASK_KINDS)
def test_pack_and_unpack(mask):
    valid = full_mask(make_mask(mask, 5, 6), 5, 6)
    x = np.random.default_rng(0).standard_normal((5, 6, 2))
    values = reference.pack(x, valid)
    np.testing.assert_array_equal(
        reference.unpack(values, valid, fill=[7.0, 8.0]),
        np.where(valid[:, :, None], x, [7.0, 8.0]),
    )
    repeated = reference.unpack(values, valid, fill=[7.0, 8.0], repeat=True)
    for row in range(5):
        shown = [7.0, 8.0]
        for t in range(6):
            shown = x[row, t] if valid[row, t] else shown
            np.testing.assert_array_equal(repeated[row, t], shown)


def test_embedding():
    rng = np.random.default_rng(2)
    table, ids = rng.standard_normal((5, 3)), np.array([[4, 0, 4], [1, 4, 0]])
    y, pullback = reference.embedding_vjp(ids, table)
    np.testing.assert_array_equal(y[1], [table[1], table[4], table[0]])
    dy = rng.standard_normal(y.shape)
    assert_gradient(pullback(dy), lambda: (reference.embedding(ids, table) * dy).sum(), table)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", [None, "tanh", "softmax"])
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 3)])
def test_dense(bias, activation, shape):
    rng = np.random.default_rng(3)
    x, kernel = rng.standard_normal(shape), rng.standard_normal((3, 2))
    b = rng.standard_normal(2) if bias else None
    y, pullback = reference.dense_vjp(x, kernel, b, activation)
    dy = rng.standard_normal(y.shape)
    gradients = pullback(dy)
    assert (gradients[2] is None) == (b is None)
    for gradient, array in zip(gradients, (x, kernel, b), strict=True):
        if array is not None:
            assert_gradient(gradient, lambda: (reference.dense(x, kernel, b, activation) * dy).sum(), array)


@pytest.mark.parametrize("mode", reference.MERGE_MODES)
def test_merge_directions(mode):
    rng = np.random.default_rng(4)
    forward, backward = rng.standard_normal((2, 2, 3, 2))
    y, pullback = reference.merge_directions_vjp(forward, backward, mode)
    merged = {
        "concat": lambda a, b: np.concatenate([a, b]),
        "sum": np.add,
        "mul": np.multiply,
        "ave": lambda a, b: (a + b) / 2,
    }[mode]
    np.testing.assert_array_equal(y[1, 0], merged(forward[1, 0], backward[1, 2]))
    dy = rng.standard_normal(y.shape)
    for gradient, array in zip(pullback(dy), (forward, backward), strict=True):
        assert_gradient(
            np.ascontiguousarray(gradient),
            lambda: (reference.merge_directions(forward, backward, mode) * dy).sum(),
            array,
        )


def test_merge_directions_rejects_other_modes():
    with pytest.raises(ValueError, match="mode"):
        reference.merge_directions(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)), "avg")


@pytest.mark.parametrize(("nesterov", "expected"), [(False, [-0.1, -0.19, -0.271]), (True, [-0.19, -0.271, -0.3439])])
def test_sgd_momentum(nesterov, expected):
    param, velocity = np.zeros(1), np.zeros(1)
    changes = []
    for _ in range(3):
        before = param
        param, velocity = reference.sgd_step(param, np.ones(1), velocity, 0.1, 0.9, nesterov)
        changes.append((param - before).item())
    np.testing.assert_allclose(changes, expected, rtol=1e-12)
    plain, nothing = reference.sgd_step(np.zeros(1), np.ones(1), None, 0.1)
    assert nothing is None
    np.testing.assert_allclose(plain, -0.1)


def test_rmsprop_puts_epsilon_inside_the_root():
    param, grad = np.zeros(1), np.full(1, 3.0)
    new, square, buffer, mean = reference.rmsprop_step(
        param, grad, np.zeros(1), None, None, 0.5, rho=0.75, epsilon=1.75
    )
    np.testing.assert_allclose(square, 2.25)
    np.testing.assert_allclose(new, -0.5 * 3 / 2)
    assert buffer is None
    assert mean is None
    new, square, buffer, mean = reference.rmsprop_step(
        param, grad, np.zeros(1), np.ones(1), np.zeros(1), 0.5, 0.75, 0.5, 2.3125
    )
    np.testing.assert_allclose(mean, 0.75)
    change = 0.5 * 3 / math.sqrt(2.25 - 0.5625 + 2.3125)
    np.testing.assert_allclose(buffer, 0.5 + change)
    np.testing.assert_allclose(new, -0.5 - change)


def test_adam_puts_epsilon_outside_the_root():
    param, zero = np.zeros(1), np.zeros(1)
    new, m, v, nothing = reference.adam_step(
        param, np.full(1, 3.0), zero, zero, None, 0.5, beta_1=0.5, beta_2=0.75, epsilon=0.5
    )
    np.testing.assert_allclose(m, 1.5)
    np.testing.assert_allclose(v, 2.25)
    np.testing.assert_allclose(new, -0.5 * 1.5 / (1.5 + 0.5))
    assert nothing is None
    new, m, v, v_max = reference.adam_step(param, np.full(1, 3.0), zero, zero, np.full(1, 9.0), 0.5, 0.5, 0.75, 0.0)
    np.testing.assert_allclose(v_max, 9.0)
    np.testing.assert_allclose(new, -0.5 * 1.5 / 3)
    np.testing.assert_allclose(reference.adam_alpha(0.1, 2, 0.9, 0.99), 0.1 * math.sqrt(0.0199) / 0.19)


@pytest.mark.parametrize(
    ("sample_weight", "expected"),
    [
        (None, (1 + 2 + 4) / 3),
        (np.array([10.0, 1.0]), (10 + 20 + 4) / 3),
        (np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), (1 + 4 + 16) / 3),
    ],
)
def test_masked_mean_divides_by_the_valid_steps(sample_weight, expected):
    values = np.array([[1.0, 2.0, np.nan], [4.0, np.nan, np.nan]])
    mask = ~np.isnan(values)
    loss, pullback = reference.masked_mean_vjp(values, mask, sample_weight)
    np.testing.assert_allclose(loss, expected)
    values[~mask] = 0.0
    assert_gradient(pullback(1.0), lambda: reference.masked_mean(values, mask, sample_weight), values)


def test_masked_mean_of_nothing_is_zero():
    loss, pullback = reference.masked_mean_vjp(np.ones((2, 3)), np.zeros((2, 3), bool))
    assert loss == 0
    assert not pullback(1.0).any()
