"""Compiled recurrent layers against the reference, for every instruction set and dtype."""

import numpy as np
import pytest
from helpers.compiled import (
    assert_results_close,
    assert_same_results,
    check_against_reference,
    make_program,
    ops_results,
    reference_results,
    run_ops,
)
from helpers.masks import MASK_KINDS
from helpers.numeric import assert_close, assert_same_bits
from helpers.recurrent import CELL_ACTIVATIONS, CELLS, gradients_by_name, make_problem, processing_mask

from fastmask import PackedSequence, kernels, ops, reference
from fastmask.batch.packing import Packing
from fastmask.ops import tuning

pytestmark = pytest.mark.usefixtures("instruction_set")

DTYPES = [np.float32, np.float64]
# Around one, two and three vectors of every instruction set and dtype; batches around the row tiles.
SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 11, 15, 16, 17, 29, 33, 53]
BATCHES = [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 1, 19, 6, 1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
class TestAgainstReference:
    @pytest.mark.parametrize("turn", range(len(SIZES)))
    def test_sizes(self, cell, dtype, turn):
        features = SIZES[(turn * 4 + 3) % len(SIZES)]
        problem = make_problem(cell, BATCHES[turn], 4, features, SIZES[turn], mask="right", dtype=dtype, seed=turn)
        check_against_reference(problem)

    @pytest.mark.parametrize("go_backwards", [False, True])
    @pytest.mark.parametrize("mask", MASK_KINDS)
    def test_masks(self, cell, dtype, mask, go_backwards):
        check_against_reference(make_problem(cell, 7, 6, 5, 9, mask=mask, dtype=dtype, go_backwards=go_backwards))

    @pytest.mark.parametrize("initial_state", [False, True])
    @pytest.mark.parametrize("bias", [False, True])
    def test_optional_arguments(self, cell, dtype, bias, initial_state):
        problem = make_problem(cell, 4, 5, 3, 6, dtype=dtype, bias=bias, initial_state=initial_state)
        gradients = run_ops(problem)[1](None, problem.d_states)
        assert (gradients.bias is None) != bias
        assert (gradients.initial_state is None) != initial_state
        check_against_reference(problem)

    @pytest.mark.parametrize("go_backwards", [False, True])
    def test_last_state_only(self, cell, dtype, go_backwards):
        problem = make_problem(cell, 5, 6, 4, 10, mask="empty_row", dtype=dtype, go_backwards=go_backwards)
        (sequence, _), _ = run_ops(problem, return_sequences=False)
        assert sequence is None
        check_against_reference(problem, return_sequences=False)

    @pytest.mark.parametrize("go_backwards", [False, True])
    @pytest.mark.parametrize("dropout", ["shared", "per_gate"])
    def test_dropout(self, cell, dtype, dropout, go_backwards):
        check_against_reference(make_problem(cell, 5, 4, 6, 9, dtype=dtype, dropout=dropout, go_backwards=go_backwards))

    @pytest.mark.parametrize("name", ["input_mask", "recurrent_mask"])
    def test_one_kind_of_dropout(self, cell, dtype, name):
        problem = make_problem(cell, 5, 4, 6, 9, dtype=dtype, dropout="shared")
        del problem.options[name]
        check_against_reference(problem)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("cell", "option"), CELL_ACTIVATIONS)
@pytest.mark.parametrize("name", ops.RECURRENT_ACTIVATIONS)
def test_activations(cell, dtype, name, option):
    check_against_reference(make_problem(cell, 4, 5, 3, 5, dtype=dtype, size=0.7, **{option: name}))


def index_problem(cell, mask, dtype=np.float32, **options):
    """A problem whose tokens are rows of a table of 4; returns it with the indexed sequence."""
    problem = make_problem(cell, 5, 6, 7, 9, mask=mask, dtype=dtype, **options)
    rng = np.random.default_rng(7)
    table = rng.standard_normal((4, 7)).astype(dtype)
    numbers = rng.integers(0, 4, problem.x.shape[:2])
    problem.x = table[numbers]
    packing = PackedSequence.from_padded(problem.x, problem.mask).packing
    index = reference.pack(numbers, problem.valid)
    return problem, PackedSequence(table, packing, index)


@pytest.mark.parametrize("options", [{}, {"go_backwards": True}, {"dropout": "shared"}])
@pytest.mark.parametrize("mask", MASK_KINDS)
@pytest.mark.parametrize("cell", CELLS)
def test_input_of_repeated_rows(cell, mask, options):
    problem, sequence = index_problem(cell, mask, **options)
    actual = ops_results(problem, sequence)
    expected = reference_results(problem)
    d_table = np.zeros(sequence.values.shape)
    np.add.at(d_table, sequence.index, expected["x"])
    assert_results_close(actual, expected | {"x": d_table}, np.float32)


@pytest.mark.parametrize("cell", CELLS)
def test_repeated_rows_give_the_bits_of_copies(cell):
    problem, sequence = index_problem(cell, "holes")
    indexed, copied = ops_results(problem, sequence), ops_results(problem, sequence.expand())
    for name in ("y", "state[0]"):
        assert_same_bits(indexed[name], copied[name], name)


@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("mask", MASK_KINDS)
@pytest.mark.parametrize("cell", CELLS)
def test_padded_output_repeats_over_masked_steps(cell, mask, go_backwards):
    problem = make_problem(cell, 5, 6, 3, 4, mask=mask, go_backwards=go_backwards)
    (sequence, _), _ = run_ops(problem)
    assert sequence.repeat
    assert sequence.fill is None
    np.testing.assert_array_equal(sequence.packing.mask, processing_mask(problem))
    assert sequence.packing.masked == (problem.mask is not None)
    function = getattr(reference, problem.cell.function)
    y, _ = function(problem.x, *problem.parameters, mask=problem.mask, **problem.options)
    assert_close(sequence.pad(), y)


@pytest.mark.parametrize("cell", CELLS)
def test_forward_function_is_the_first_half_of_its_vjp(cell):
    problem = make_problem(cell, 5, 6, 3, 9, dtype=np.float32, dropout="shared")
    (expected, expected_states), _ = run_ops(problem)
    x = PackedSequence.from_padded(problem.x, problem.mask)
    function = getattr(ops, problem.cell.function)
    sequence, states = function(x, *problem.parameters, **problem.options)
    assert_same_bits(sequence.values, expected.values)
    for state, other in zip(states, expected_states, strict=True):
        assert_same_bits(state, other)
    nothing, last = function(x, *problem.parameters, return_sequences=False, **problem.options)
    assert nothing is None
    for state, other in zip(last, states, strict=True):
        assert_same_bits(state, other)


@pytest.mark.parametrize("cell", CELLS)
def test_missing_cotangents_are_zero(cell):
    problem = make_problem(cell, 5, 6, 3, 9)

    def gradients(dy, d_states):
        return gradients_by_name(run_ops(problem)[1](dy, d_states))

    dy = reference.pack(problem.dy, problem.valid)
    zeros = tuple(np.zeros_like(d) for d in problem.d_states)
    expected = gradients(dy, zeros)
    for d_states in (None, (None,) * len(zeros)):
        assert_results_close(gradients(dy, d_states), expected, np.float64)
    expected = gradients(np.zeros_like(dy), problem.d_states)
    assert_results_close(gradients(None, problem.d_states), expected, np.float64)


@pytest.mark.parametrize("cell", CELLS)
def test_second_call_of_a_pullback_is_refused(cell):
    problem = make_problem(cell, 5, 6, 3, 9, dtype=np.float32)
    _, pullback = run_ops(problem)
    dy = reference.pack(problem.dy, problem.valid)
    kept = dy.copy()
    pullback(dy, problem.d_states)
    assert_same_bits(dy, kept)
    with pytest.raises(RuntimeError, match="pullback"):
        pullback(dy, problem.d_states)


@pytest.mark.parametrize("cell", CELLS)
def test_arguments_are_left_alone(cell):
    problem = make_problem(cell, 5, 6, 3, 9, dtype=np.float32)
    kept = {name: array.copy() for name, array in problem.arrays().items()}
    ops_results(problem)
    for name, array in problem.arrays().items():
        assert_same_bits(array, kept[name], name)


@pytest.mark.parametrize("units", [9, 16])
@pytest.mark.parametrize("cell", CELLS)
def test_arrays_in_any_memory_order(cell, units):
    problem = make_problem(cell, 5, 6, 3, units, dtype=np.float32)
    expected = ops_results(problem)
    for name in ("kernel", "recurrent_kernel"):
        setattr(problem, name, np.asfortranarray(getattr(problem, name)))
    problem.initial_state = tuple(np.asfortranarray(s) for s in problem.initial_state)
    problem.d_states = tuple(np.asfortranarray(s) for s in problem.d_states)
    problem.dy = np.repeat(problem.dy, 2, axis=-1)[..., ::2]
    problem.bias = np.repeat(problem.bias, 2, axis=-1)[..., ::2]
    for name, array in ops_results(problem).items():
        assert_same_bits(array, expected[name], name)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
@pytest.mark.parametrize("cell", CELLS)
def test_grid_without_cells(cell, shape):
    problem = make_problem(cell, *shape, mask="none")
    results = ops_results(problem)
    assert results["y"].shape == (0, 2)
    assert_same_bits(results["state[0]"], problem.initial_state[0])
    assert_same_bits(results["initial_state[0]"], problem.d_states[0])
    assert not results["kernel"].any()
    assert not results["recurrent_kernel"].any()


@pytest.mark.parametrize("cell", CELLS)
def test_long_sequences(cell):
    problem = make_problem(cell, 3, 300, 4, 5, mask="right", dtype=np.float32)
    check_against_reference(problem)


@pytest.mark.parametrize("shape", [(9, 40, 230, 20), (40, 9, 20, 210)])
@pytest.mark.parametrize("cell", CELLS)
def test_wide_layers(cell, shape):
    """More tokens, features and units than the gradient of a kernel takes at a time."""
    check_against_reference(make_problem(cell, *shape, mask="right", dtype=np.float32))


@pytest.mark.parametrize("options", [{}, {"go_backwards": True}, {"dropout": "shared"}])
@pytest.mark.parametrize("cell", CELLS)
def test_blocks_of_steps(cell, options):
    """However many steps have their input products made at a time, the bits are the same."""
    problem = make_problem(cell, 7, 12, 5, 9, mask="left", dtype=np.float32, **options)
    expected = ops_results(problem)
    for size in (1, 40 * 4 * 32, 10 * 4 * 128):
        with tuning.override(BLOCK_BYTES=size):
            results = ops_results(problem)
        for name, array in results.items():
            assert_same_bits(array, expected[name], name)


@pytest.mark.parametrize("dropout", [None, "shared", "per_gate"])
@pytest.mark.parametrize("cell", CELLS)
def test_zeros_to_start_from_meet_no_infinite_weight(cell, dropout):
    """After one step the results are those of recurrent weights of zeros."""
    problem = make_problem(cell, 5, 1, 4, 9, mask="none", dtype=np.float32, initial_state=False, dropout=dropout)
    x, function = PackedSequence.from_padded(problem.x), getattr(ops, problem.cell.function)
    results = []
    for weight in (0, np.inf):
        problem.recurrent_kernel = np.full_like(problem.recurrent_kernel, weight)
        _, states = function(x, *problem.parameters, **problem.options)
        results.append(ops_results(problem) | {f"forward {n}": state for n, state in enumerate(states)})
    for name, array in results[0].items():
        np.testing.assert_array_equal(results[1][name], array, name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("units", [31, 64, 65, 96, 130])
@pytest.mark.parametrize("cell", CELLS)
def test_single_row(cell, units, dtype):
    check_against_reference(make_problem(cell, 1, 5, 7, units, dtype=dtype))


@pytest.mark.parametrize("cell", CELLS)
def test_many_rows(cell):
    problem = make_problem(cell, 150, 5, 4, 5, mask="holes", dtype=np.float32)
    check_against_reference(problem)


def bad_calls():
    """Name of the wrong argument, and how to make it so."""

    def changed(**changes):
        def change(problem):
            for name, function in changes.items():
                setattr(problem, name, function(getattr(problem, name)))

        return change

    def option(name, value):
        return lambda problem: problem.options.update({name: value})

    return [
        ("kernel", ValueError, changed(kernel=lambda k: k[:-1])),
        ("kernel", ValueError, changed(kernel=lambda k: k[:, :-1])),
        ("kernel", ValueError, changed(kernel=lambda k: k[0])),
        ("kernel", TypeError, changed(kernel=lambda k: k.astype(np.int32))),
        ("kernel", TypeError, changed(kernel=lambda k: k.astype(np.float64))),
        ("recurrent_kernel", ValueError, changed(recurrent_kernel=lambda k: k[:-1])),
        ("recurrent_kernel", TypeError, changed(recurrent_kernel=lambda k: k.astype(np.float64))),
        ("bias", ValueError, changed(bias=lambda b: b[..., :-1])),
        ("bias", ValueError, changed(bias=lambda b: b[None])),
        ("initial_state", ValueError, changed(initial_state=lambda s: (*s, s[0]))),
        ("initial_state", ValueError, changed(initial_state=lambda s: (s[0][:-1], *s[1:]))),
        ("activation", ValueError, option("activation", "sine")),
        ("input_mask", ValueError, option("input_mask", np.ones((5, 4), np.float32))),
        ("recurrent_mask", ValueError, option("recurrent_mask", np.ones((4, 9), np.float32))),
        ("recurrent_mask", ValueError, option("recurrent_mask", np.ones((7, 5, 9), np.float32))),
    ]


@pytest.mark.parametrize(("name", "error", "change"), bad_calls())
@pytest.mark.parametrize("cell", CELLS)
def test_bad_input_is_named(cell, name, error, change):
    problem = make_problem(cell, 5, 6, 3, 9, dtype=np.float32)
    change(problem)
    with pytest.raises(error, match=rf"\b{name}\b"):
        run_ops(problem)


def test_bad_sequences_are_named():
    problem = make_problem("lstm", 5, 6, 3, 9, dtype=np.float32)
    for x, error in [
        (problem.x, TypeError),
        (PackedSequence.from_padded(problem.x[:, :, 0]), ValueError),
        (PackedSequence(np.ones((30, 3), np.int64), Packing.full(5, 6)), TypeError),
    ]:
        with pytest.raises(error, match=r"\bx\b"):
            run_ops(problem, x)


def test_bad_cotangents_are_named():
    problem = make_problem("lstm", 5, 6, 3, 9, dtype=np.float32)
    _, pullback = run_ops(problem)
    dy = reference.pack(problem.dy, problem.valid)
    with pytest.raises(ValueError, match="d_sequence"):
        pullback(dy[:-1], None)
    with pytest.raises(ValueError, match="d_states"):
        pullback(dy, problem.d_states[:1])
    with pytest.raises(ValueError, match="d_states"):
        pullback(dy, (problem.d_states[0][:-1], None))


def test_float32_errors_stay_near_rounding():
    """The tolerance of the other tests is not what makes them pass."""
    problem = make_problem("lstm", 6, 10, 16, 24, dtype=np.float32)
    actual, expected = ops_results(problem), reference_results(problem)
    assert np.abs(actual["y"] - expected["y"]).max() < 5e-7


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_of_one_program_on_another_instruction_set(cell, instruction_set):
    problem = make_problem(cell, 3, 4, 5, 20, dtype=np.float32)
    program, x = make_program(problem), PackedSequence.from_padded(problem.x, problem.mask)
    for name in (instruction_set, *kernels.available()):
        with kernels.use(name):
            _, tape = program.vjp(ops.Tokens(x.values, x.packing), problem.initial_state)
            found = gradients_by_name(tape.pullback(None, problem.d_states))
            expected = gradients_by_name(run_ops(problem, x)[1](None, problem.d_states))
        assert_same_results(found, expected)
