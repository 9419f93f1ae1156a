"""The reference against definitions written out here, and its gradients against central differences."""

import math

import numpy as np
import pytest
from helpers.masks import MASK_KINDS, full_mask, make_mask
from helpers.numeric import assert_gradient
from helpers.recurrent import CELLS, gradients_by_name, make_problem

from fastmask import reference

BATCH, TIME, UNITS = 3, 4, 2


def run(problem, **changes):
    """The reference's forward function on a problem."""
    function = getattr(reference, problem.cell.function)
    options = {"mask": problem.mask} | problem.options | changes
    return function(problem.x, *problem.parameters, **options)


def run_vjp(problem):
    function = getattr(reference, problem.cell.function + "_vjp")
    return function(problem.x, *problem.parameters, mask=problem.mask, **problem.options)


def weighted_sum(problem):
    """A scalar whose cotangents are the problem's dy and d_states."""
    y, states = run(problem)
    return (y * problem.dy).sum() + sum(
        (s * d).sum() for s, d in zip(states, problem.d_states, strict=True)
    )


def check_recurrent_gradients(problem):
    (y, states), pullback = run_vjp(problem)
    expected_y, expected_states = run(problem)
    np.testing.assert_array_equal(y, expected_y)
    np.testing.assert_array_equal(states, expected_states)
    gradients = gradients_by_name(pullback(problem.dy, problem.d_states))
    arrays = problem.arrays()
    assert gradients.keys() == arrays.keys()
    for name, array in arrays.items():
        assert_gradient(gradients[name], lambda: weighted_sum(problem), array, name)


@pytest.mark.parametrize("mask", MASK_KINDS)
@pytest.mark.parametrize("cell", CELLS)
class TestRecurrentGradients:
    def test_all_arguments(self, cell, mask):
        check_recurrent_gradients(make_problem(cell, mask=mask))

    def test_backwards_with_zero_output(self, cell, mask):
        check_recurrent_gradients(
            make_problem(cell, mask=mask, go_backwards=True, zero_output_for_mask=True)
        )

    @pytest.mark.parametrize("dropout", ["shared", "per_gate"])
    def test_dropout(self, cell, mask, dropout):
        check_recurrent_gradients(make_problem(cell, mask=mask, dropout=dropout, go_backwards=True))

    def test_without_bias_and_initial_state(self, cell, mask):
        problem = make_problem(cell, mask=mask, bias=False, initial_state=False)
        gradients = run_vjp(problem)[1](problem.dy, problem.d_states)
        assert gradients.bias is None
        assert gradients.initial_state is None
        check_recurrent_gradients(problem)


@pytest.mark.parametrize("option", ["activation", "recurrent_activation"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", reference.ACTIVATIONS)
def test_recurrent_gradients_of_every_activation(cell, name, option):
    if option == "recurrent_activation" and CELLS[cell].gates == 1:
        pytest.skip("SimpleRNN has no gates")
    check_recurrent_gradients(make_problem(cell, time=3, size=0.3, **{option: name}))


@pytest.mark.parametrize("cell", CELLS)
def test_missing_cotangents_are_zero(cell):
    problem = make_problem(cell)
    _, pullback = run_vjp(problem)
    no_states = pullback(problem.dy, None)
    zeros = tuple(np.zeros_like(d) for d in problem.d_states)
    np.testing.assert_array_equal(no_states.inputs, pullback(problem.dy, zeros).inputs)
    no_dy = pullback(None, problem.d_states)
    np.testing.assert_array_equal(
        no_dy.inputs, pullback(np.zeros_like(problem.dy), problem.d_states).inputs
    )
    assert np.abs(no_dy.inputs).max() > 0


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def simple_rnn_step(x, states, kernel, recurrent, bias):
    return (np.tanh(x @ kernel + states[0] @ recurrent + bias),)


def lstm_step(x, states, kernel, recurrent, bias):
    h, c = states
    z = x @ kernel + h @ recurrent + bias
    units = len(h)
    h_new, c_new = np.empty(units), np.empty(units)
    for j in range(units):
        zi, zf, zc, zo = (z[gate * units + j] for gate in range(4))
        c_new[j] = sigmoid(zf) * c[j] + sigmoid(zi) * math.tanh(zc)
        h_new[j] = sigmoid(zo) * math.tanh(c_new[j])
    return h_new, c_new


def gru_step(x, states, kernel, recurrent, bias):
    (h,) = states
    units = len(h)
    reset_after = bias.ndim == 2
    gx = x @ kernel + (bias[0] if reset_after else bias)
    gh = h @ recurrent + (bias[1] if reset_after else 0)
    z = np.array([sigmoid(v) for v in gx[:units] + gh[:units]])
    r = np.array([sigmoid(v) for v in (gx + gh)[units : 2 * units]])
    candidate = slice(2 * units, None)
    inner = r * gh[candidate] if reset_after else (r * h) @ recurrent[:, candidate]
    return (z * h + (1 - z) * np.tanh(gx[candidate] + inner),)


STEPS = {"simple_rnn": simple_rnn_step, "lstm": lstm_step, "gru": gru_step}


def run_row(problem, row, go_backwards=False, zero_output=False):
    """One row by the definition of the masked recurrence."""
    step = STEPS[problem.cell.function]
    states = tuple(s[row] for s in problem.initial_state)
    order = range(problem.x.shape[1])
    outputs, shown = [], np.zeros(len(problem.recurrent_kernel))
    for t in reversed(order) if go_backwards else order:
        if problem.valid[row, t]:
            parameters = (problem.kernel, problem.recurrent_kernel, problem.bias)
            states = step(problem.x[row, t], states, *parameters)
            shown = states[0]
        outputs.append(np.zeros_like(shown) if zero_output and not problem.valid[row, t] else shown)
    return np.array(outputs), states


@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("zero_output", [False, True])
@pytest.mark.parametrize("mask", MASK_KINDS)
@pytest.mark.parametrize("cell", CELLS)
def test_recurrence_row_by_row(cell, mask, zero_output, go_backwards):
    problem = make_problem(cell, batch=4, time=5, features=3, units=2, mask=mask)
    y, states = run(problem, go_backwards=go_backwards, zero_output_for_mask=zero_output)
    assert len(states) == problem.cell.states
    for row in range(4):
        expected_y, expected_states = run_row(problem, row, go_backwards, zero_output)
        np.testing.assert_allclose(y[row], expected_y, rtol=1e-12, atol=1e-15)
        for state, expected in zip(states, expected_states, strict=True):
            np.testing.assert_allclose(state[row], expected, rtol=1e-12, atol=1e-15)


def with_kernel_of_gate(problem, gate, array_name, multiplier):
    """Parameters where dropout of one gate is folded into its block of a kernel (batch of one)."""
    array = getattr(problem, array_name).copy()
    units = len(problem.recurrent_kernel)
    array[:, gate * units : (gate + 1) * units] *= multiplier[:, None]
    setattr(problem, array_name, array)


@pytest.mark.parametrize("cell", [c for c in CELLS if c != "gru_reset_before"])
@pytest.mark.parametrize("per_gate", [False, True])
def test_dropout_scales_rows_of_the_kernels(cell, per_gate):
    dropout = "per_gate" if per_gate else "shared"
    problem = make_problem(cell, batch=1, features=5, units=4, dropout=dropout)
    y, _ = run(problem)
    masks = {"kernel": "input_mask", "recurrent_kernel": "recurrent_mask"}
    for array_name, mask_name in masks.items():
        multiplier = problem.options.pop(mask_name)
        for gate in range(problem.cell.gates):
            with_kernel_of_gate(
                problem, gate, array_name, multiplier[gate, 0] if per_gate else multiplier[0]
            )
    np.testing.assert_allclose(run(problem)[0], y, rtol=1e-12)


@pytest.mark.parametrize("mask", MASK_KINDS[1:])
@pytest.mark.parametrize("cell", CELLS)
def test_padding_is_not_looked_at(cell, mask):
    problem = make_problem(cell, mask=mask)
    (y, _), pullback = run_vjp(problem)
    clean = pullback(problem.dy, problem.d_states)
    problem.x[~problem.mask] = np.nan
    (poisoned, _), pullback = run_vjp(problem)
    np.testing.assert_array_equal(poisoned, y)
    gradients = pullback(problem.dy, problem.d_states)
    np.testing.assert_array_equal(gradients.kernel, clean.kernel)
    np.testing.assert_array_equal(gradients.inputs, clean.inputs)
    assert not gradients.inputs[~problem.mask].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", CELLS)
def test_dtype_is_kept(cell, dtype):
    problem = make_problem(cell, dtype=dtype, dropout="shared")
    (y, states), pullback = run_vjp(problem)
    gradients = gradients_by_name(pullback(problem.dy, problem.d_states))
    for array in (y, *states, *gradients.values()):
        assert array.dtype == dtype


@pytest.mark.parametrize("cell", CELLS)
def test_no_time_steps(cell):
    problem = make_problem(cell, time=0, mask="none")
    (y, states), pullback = run_vjp(problem)
    assert y.shape == (3, 0, 2)
    np.testing.assert_array_equal(states, problem.initial_state)
    gradients = pullback(problem.dy, problem.d_states)
    np.testing.assert_array_equal(gradients.initial_state, problem.d_states)
    assert not gradients.kernel.any()


# Values by hand or from tables, at x = -4, -1, 0, 1, 4.
KNOWN_VALUES = {
    "linear": [-4, -1, 0, 1, 4],
    "relu": [0, 0, 0, 1, 4],
    "tanh": [-0.999329299739067, -0.761594155955765, 0, 0.761594155955765, 0.999329299739067],
    "sigmoid": [0.017986209962091559, 0.268941421369995, 0.5, 0.731058578630005, 0.982013790037908],
    "hard_sigmoid": [0, 1 / 3, 0.5, 2 / 3, 1],
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
            assert_gradient(
                gradient, lambda: (reference.dense(x, kernel, b, activation) * dy).sum(), array
            )


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


@pytest.mark.parametrize(
    ("nesterov", "expected"), [(False, [-0.1, -0.19, -0.271]), (True, [-0.19, -0.271, -0.3439])]
)
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
    new, m, v, v_max = reference.adam_step(
        param, np.full(1, 3.0), zero, zero, np.full(1, 9.0), 0.5, 0.5, 0.75, 0.0
    )
    np.testing.assert_allclose(v_max, 9.0)
    np.testing.assert_allclose(new, -0.5 * 1.5 / 3)
    np.testing.assert_allclose(
        reference.adam_alpha(0.1, 2, 0.9, 0.99), 0.1 * math.sqrt(0.0199) / 0.19
    )


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
    assert_gradient(
        pullback(1.0), lambda: reference.masked_mean(values, mask, sample_weight), values
    )


def test_masked_mean_of_nothing_is_zero():
    loss, pullback = reference.masked_mean_vjp(np.ones((2, 3)), np.zeros((2, 3), bool))
    assert loss == 0
    assert not pullback(1.0).any()
