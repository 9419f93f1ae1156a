"""Recurrent layers in 8-bit integers against the reference, and what a row's result must not depend on."""

import numpy as np
import pytest
from helpers.masks import MASK_KINDS
from helpers.numeric import assert_same_bits
from helpers.recurrent import CELLS, make_problem, processing_mask

from fastmask import PackedSequence, kernels, ops, reference
from fastmask.ops import Quantized, abs_max_quantize, tuning

# Around one, two and four vectors of every instruction set; odd numbers leave half a word; rows around the tiles.
SIZES = [(1, 5, 4, 3), (3, 4, 7, 16), (9, 3, 16, 33), (1, 3, 33, 64), (2, 2, 1, 1)]


def quantized(matrix):
    return Quantized(*abs_max_quantize(matrix))


def run(problem, x=None, states=None, **options):
    """Outputs in order of processing and final states, of the compiled operation."""
    x = PackedSequence.from_padded(problem.x, problem.mask) if x is None else x
    states = problem.initial_state if states is None else states
    weights = quantized(problem.kernel), quantized(problem.recurrent_kernel), problem.bias
    return getattr(ops, problem.cell.function)(x, *weights, states, **problem.options | options)


def expected(problem):
    """The same of the reference, in float32 as well, so that both round the same numbers to integers."""
    kernel = reference.QuantizedKernel(problem.kernel)
    recurrent = reference.QuantizedKernel(problem.recurrent_kernel, problem.options.get("activation", "tanh") != "relu")
    run_reference = getattr(reference, problem.cell.function)
    arguments = problem.x, kernel, recurrent, problem.bias, problem.initial_state
    return run_reference(*arguments, mask=problem.mask, **problem.options)


def compare(problem, tolerance=1e-5):
    sequence, states = run(problem)
    y, wanted = expected(problem)
    packed = reference.pack(y, processing_mask(problem))
    np.testing.assert_allclose(sequence.values, packed, rtol=tolerance, atol=tolerance)
    for state, value in zip(states, wanted, strict=True):
        np.testing.assert_allclose(state, value, rtol=tolerance, atol=tolerance)
    for state, value in zip(run(problem, return_sequences=False)[1], states, strict=True):
        assert_same_bits(state, value)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("cell", CELLS)
class TestValues:
    @pytest.mark.parametrize("mask", MASK_KINDS)
    @pytest.mark.parametrize("sizes", SIZES, ids=str)
    def test_masks(self, cell, sizes, mask):
        batch, time, features, units = sizes
        compare(make_problem(cell, batch, time, features, units, mask, np.float32))

    @pytest.mark.parametrize("size", [0.01, 3.0])
    def test_states_on_both_sides_of_one(self, cell, size):
        compare(make_problem(cell, 4, 5, 6, 17, dtype=np.float32, size=size), 1e-4)

    @pytest.mark.parametrize("initial_state", [True, False])
    @pytest.mark.parametrize("options", [{"activation": "relu"}, {"go_backwards": True}, {"bias": False}], ids=str)
    def test_options(self, cell, options, initial_state):
        problem = make_problem(cell, 5, 4, 6, 9, dtype=np.float32, initial_state=initial_state, **options)
        compare(problem, 1e-4)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("cell", CELLS)
class TestRows:
    def test_alone_and_in_a_batch(self, cell):
        problem = make_problem(cell, 7, 6, 5, 18, "right", np.float32)
        problem.x[~problem.valid] = np.nan
        sequence, states = run(problem)
        y = sequence.pad()
        for row in range(7):
            length = int(problem.valid[row].sum())
            alone = PackedSequence.from_padded(problem.x[row : row + 1, :length])
            first = tuple(state[row : row + 1] for state in problem.initial_state)
            part, last = run(problem, alone, first)
            assert_same_bits(part.pad()[0], y[row, :length])
            for state, whole in zip(last, states, strict=True):
                assert_same_bits(state[0], whole[row])

    @pytest.mark.parametrize("units", [20, 300])
    @pytest.mark.parametrize("rows", [1, 12])
    def test_threads(self, cell, rows, units, set_threads):
        problem = make_problem(cell, rows, 8, 6, units, "right", np.float32)
        set_threads(1)
        sequence, states = run(problem)
        for count in (2, 3):
            set_threads(count)
            with tuning.override(FEW_ROWS=((0, 12),)):
                other, last = run(problem)
            assert_same_bits(other.values, sequence.values)
            for state, value in zip(last, states, strict=True):
                assert_same_bits(state, value)

    def test_step_by_step(self, cell):
        problem = make_problem(cell, 4, 6, 5, 18, "none", np.float32, initial_state=False)
        _, whole = run(problem)
        states = None
        for t in range(6):
            _, states = run(problem, PackedSequence.from_padded(problem.x[:, t : t + 1]), states)
        for state, value in zip(states, whole, strict=True):
            assert_same_bits(state, value)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_a_row_that_is_not_finite(self, cell, bad):
        problem = make_problem(cell, 3, 4, 5, 18, "none", np.float32)
        _, states = run(problem)
        problem.x[1, 2, 3] = bad
        _, other = run(problem)
        for state, value in zip(other, states, strict=True):
            assert np.isnan(state[1]).all()
            assert_same_bits(state[[0, 2]], value[[0, 2]])

    def test_tokens_that_share_values(self, cell):
        problem = make_problem(cell, 5, 6, 7, 18, "holes", np.float32)
        table, ids = problem.x.reshape(-1, 7)[:4], np.arange(30).reshape(5, 6) % 4
        shared = ops.embedding(PackedSequence.from_padded(ids, problem.mask), table)
        sequence, _ = run(problem, shared)
        other, _ = run(problem, PackedSequence.from_padded(table[ids], problem.mask))
        assert_same_bits(sequence.values, other.values)


def test_instruction_sets_see_the_same_integers():
    x = np.random.default_rng(0).standard_normal((7, 45)).astype(np.float32)
    found = []
    for name in kernels.available():
        with kernels.use(name):
            out = np.empty((7, 24), np.float32)
            kernels.module(np.float32).quantize_rows(x, out, 0, 7)
            found.append(out)
    for other in found[1:]:
        assert_same_bits(other, found[0])
    integers = found[0][:, :23].copy().view(np.int16)
    wanted, scale = reference.abs_max_quantize(x, -1)
    np.testing.assert_array_equal(integers[:, :45], wanted)
    np.testing.assert_array_equal(integers[:, 45], 0)
    np.testing.assert_allclose(found[0][:, 23:], 1 / scale, rtol=1e-6)


@pytest.mark.usefixtures("instruction_set")
def test_sums_of_the_deepest_kernel_are_exact():
    problem = make_problem("simple_rnn", 1, 1, ops.DEEPEST, 1, "none", np.float32, False, False, activation=None)
    kernel = Quantized(np.full((ops.DEEPEST, 1), 127, np.int8), np.full(1, 127, np.float32))
    weights = kernel, quantized(problem.recurrent_kernel)
    _, (h,) = ops.simple_rnn(PackedSequence.from_padded(np.ones_like(problem.x)), *weights, activation=None)
    np.testing.assert_allclose(h, ops.DEEPEST, rtol=1e-6)


def test_bad_weights():
    problem = make_problem("lstm", 2, 3, 4, 5, dtype=np.float32)
    kernel, recurrent = quantized(problem.kernel), quantized(problem.recurrent_kernel)
    good = {"x": problem.x, "kernel": kernel, "recurrent_kernel": recurrent, "bias": problem.bias}
    bad = {
        "kernel": [problem.kernel, kernel._replace(scale=kernel.scale[1:]), recurrent],
        "recurrent_kernel": [problem.recurrent_kernel, recurrent._replace(values=recurrent.values[:, :-1])],
        "bias": [problem.bias.astype(np.float64), problem.bias[1:]],
        "x": [problem.x.astype(np.float64)],
    }
    for name, values in bad.items():
        for value in values:
            arguments = good | {name: value}
            x = PackedSequence.from_padded(arguments.pop("x"), problem.mask)
            with pytest.raises((TypeError, ValueError), match=rf"^{name}: "):
                ops.lstm(x, **arguments)
