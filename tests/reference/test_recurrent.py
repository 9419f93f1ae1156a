"""The recurrent reference against definitions written out here and against central differences."""

import math

import numpy as np
import pytest
from helpers.masks import MASK_KINDS
from helpers.numeric import assert_gradient
from helpers.recurrent import CELL_ACTIVATIONS, CELLS, gradients_by_name, make_problem

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
    return (y * problem.dy).sum() + sum((s * d).sum() for s, d in zip(states, problem.d_states, strict=True))


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
        check_recurrent_gradients(make_problem(cell, mask=mask, go_backwards=True, zero_output_for_mask=True))

    @pytest.mark.parametrize("dropout", ["shared", "per_gate"])
    def test_dropout(self, cell, mask, dropout):
        check_recurrent_gradients(make_problem(cell, mask=mask, dropout=dropout, go_backwards=True))

    def test_without_bias_and_initial_state(self, cell, mask):
        problem = make_problem(cell, mask=mask, bias=False, initial_state=False)
        gradients = run_vjp(problem)[1](problem.dy, problem.d_states)
        assert gradients.bias is None
        assert gradients.initial_state is None
        check_recurrent_gradients(problem)


@pytest.mark.parametrize(("cell", "option"), CELL_ACTIVATIONS)
@pytest.mark.parametrize("name", reference.ACTIVATIONS)
def test_recurrent_gradients_of_every_activation(cell, name, option):
    check_recurrent_gradients(make_problem(cell, time=3, size=0.3, **{option: name}))


@pytest.mark.parametrize("cell", CELLS)
def test_missing_cotangents_are_zero(cell):
    problem = make_problem(cell)
    _, pullback = run_vjp(problem)
    no_states = pullback(problem.dy, None)
    zeros = tuple(np.zeros_like(d) for d in problem.d_states)
    np.testing.assert_array_equal(no_states.inputs, pullback(problem.dy, zeros).inputs)
    no_dy = pullback(None, problem.d_states)
    np.testing.assert_array_equal(no_dy.inputs, pullback(np.zeros_like(problem.dy), problem.d_states).inputs)
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
            with_kernel_of_gate(problem, gate, array_name, multiplier[gate, 0] if per_gate else multiplier[0])
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
