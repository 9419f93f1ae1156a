"""Every pullback of fastmask.ops against central differences in float64."""

import numpy as np
import pytest
from helpers.compiled import run_ops
from helpers.masks import MASK_KINDS, full_mask, make_mask
from helpers.numeric import assert_gradient
from helpers.recurrent import CELL_ACTIVATIONS, CELLS, gradients_by_name, make_problem, processing_mask

from fastmask import PackedSequence, ops, reference
from fastmask.batch.packing import Packing

pytestmark = pytest.mark.usefixtures("instruction_set")


def recurrent_sum(problem, dy, return_sequences):
    """A scalar whose cotangents are ``dy`` and the problem's d_states."""
    function = getattr(ops, problem.cell.function)
    x = PackedSequence.from_padded(problem.x, problem.mask)
    options = problem.options | {"return_sequences": return_sequences}
    sequence, states = function(x, *problem.parameters, **options)
    pairs = zip(states, problem.d_states, strict=True)
    total = sum((state * d_state).sum() for state, d_state in pairs)
    return total + (sequence.values * dy).sum() if return_sequences else total


def check_recurrent(problem, return_sequences=True):
    dy = reference.pack(problem.dy, processing_mask(problem)) if return_sequences else None
    _, pullback = run_ops(problem, return_sequences=return_sequences)
    gradients = gradients_by_name(pullback(dy, problem.d_states))
    gradients["x"] = reference.unpack(gradients["x"], problem.valid)
    arrays = problem.arrays()
    assert gradients.keys() == arrays.keys()
    for name, array in arrays.items():
        assert_gradient(gradients[name], lambda: recurrent_sum(problem, dy, return_sequences), array, name)


@pytest.mark.parametrize("mask", MASK_KINDS)
@pytest.mark.parametrize("cell", CELLS)
class TestRecurrent:
    def test_all_arguments(self, cell, mask):
        check_recurrent(make_problem(cell, mask=mask))

    def test_backwards_with_dropout_of_gates(self, cell, mask):
        check_recurrent(make_problem(cell, batch=4, mask=mask, dropout="per_gate", go_backwards=True))

    def test_last_state_with_shared_dropout(self, cell, mask):
        problem = make_problem(cell, time=3, mask=mask, bias=False, dropout="shared")
        check_recurrent(problem, return_sequences=False)


@pytest.mark.parametrize(("cell", "option"), CELL_ACTIVATIONS)
@pytest.mark.parametrize("name", ops.RECURRENT_ACTIVATIONS)
def test_recurrent_activations(cell, name, option):
    check_recurrent(make_problem(cell, time=3, size=0.5, **{option: name}))


@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_input_of_repeated_rows(cell):
    problem = make_problem(cell, mask="holes")
    rng = np.random.default_rng(1)
    table = rng.standard_normal((3, 3))
    packing = Packing.from_mask(problem.mask)
    index = rng.integers(0, 3, packing.tokens)
    dy = reference.pack(problem.dy, problem.mask)

    def run():
        return run_ops(problem, PackedSequence(table, packing, index))

    gradients = run()[1](dy, None)
    assert_gradient(gradients.inputs, lambda: (run()[0][0].values * dy).sum(), table)


def random_arrays(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", [None, *ops.ACTIVATIONS])
def test_dense(activation, bias):
    x, kernel, b, dy = random_arrays(0, (5, 3), (3, 7), (7,), (5, 7))
    b = b if bias else None
    gradients = ops.dense_vjp(x, kernel, b, activation)[1](dy)
    assert (gradients[2] is None) != bias
    for name, gradient, array in zip(("x", "kernel", "bias"), gradients, (x, kernel, b), strict=True):
        if array is not None:
            assert_gradient(gradient, lambda: (ops.dense(x, kernel, b, activation) * dy).sum(), array, name)


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("name", ops.ACTIVATIONS)
def test_activation(name, axis):
    x, dy = random_arrays(1, (3, 4, 5), (3, 4, 5))
    _, pullback = ops.activation_vjp(x, name, axis)
    assert_gradient(pullback(dy), lambda: (ops.activation(x, name, axis) * dy).sum(), x)


def test_embedding():
    (table,) = random_arrays(2, (6, 3))
    ids = np.random.default_rng(2).integers(0, 6, (3, 5))
    y, pullback = ops.embedding_vjp(ids, table)
    dy = np.random.default_rng(3).standard_normal(y.shape)
    gradient = pullback(dy).dense()
    assert_gradient(gradient, lambda: (ops.embedding(ids, table) * dy).sum(), table)


def test_embedding_of_packed_ids():
    (table,) = random_arrays(2, (6, 3))
    ids = np.random.default_rng(2).integers(0, 6, (3, 5))
    packed = PackedSequence.from_padded(ids, make_mask("holes", 3, 5))
    y, pullback = ops.embedding_vjp(packed, table)
    dy = np.random.default_rng(3).standard_normal(y.values.shape)
    gradient = pullback(dy).dense()
    assert_gradient(gradient, lambda: (ops.embedding(packed, table).values * dy).sum(), table)


def test_multiply():
    x, factor, dy = random_arrays(4, (4, 3), (4, 3), (4, 3))
    _, pullback = ops.multiply_vjp(x, factor)
    assert_gradient(pullback(dy), lambda: (ops.multiply_vjp(x, factor)[0] * dy).sum(), x)


@pytest.mark.parametrize("mask", MASK_KINDS)
class TestSequences:
    """Functions that move tokens."""

    def sequence(self, mask, indexed=False, **options):
        """A random sequence of shape (4, 5, 3), and its mask."""
        grid_mask = make_mask(mask, 4, 5)
        packing = Packing.full(4, 5) if grid_mask is None else Packing.from_mask(grid_mask)
        (values,) = random_arrays(5, (4 if indexed else packing.tokens, 3))
        rng = np.random.default_rng(6)
        index = rng.integers(0, 4, packing.tokens) if indexed else None
        return PackedSequence(values, packing, index, **options)

    def check(self, function, sequence, output=lambda y: y):
        """Central differences in the values of one sequence."""
        y, pullback = function(sequence)
        dy = np.random.default_rng(7).standard_normal(output(y).shape)
        gradient = pullback(dy)
        assert_gradient(gradient, lambda: (output(function(sequence)[0]) * dy).sum(), sequence.values)

    @pytest.mark.parametrize("indexed", [False, True])
    def test_expand(self, mask, indexed):
        self.check(ops.expand_vjp, self.sequence(mask, indexed))

    @pytest.mark.parametrize("indexed", [False, True])
    @pytest.mark.parametrize("repeat", [False, True])
    @pytest.mark.parametrize("fill", [None, np.ones(3)])
    def test_unpack(self, mask, fill, repeat, indexed):
        self.check(ops.unpack_vjp, self.sequence(mask, indexed, fill=fill, repeat=repeat))

    def test_pack(self, mask):
        grid_mask = make_mask(mask, 4, 5)
        (x,) = random_arrays(8, (4, 5, 3))
        sequence, pullback = ops.pack_vjp(x, grid_mask)
        dy = np.random.default_rng(9).standard_normal(sequence.values.shape)
        gradient = pullback(dy)
        assert_gradient(gradient, lambda: (ops.pack(x, grid_mask).values * dy).sum(), x)
        assert not gradient[~full_mask(grid_mask, 4, 5)].any()

    def test_time_order(self, mask):
        sequence = self.sequence(mask, repeat=True)
        self.check(ops.time_order_vjp, sequence, lambda y: y.values)

    @pytest.mark.parametrize("mode", reference.MERGE_MODES)
    def test_merge_directions(self, mask, mode):
        forward = self.sequence(mask, repeat=True)
        (values,) = random_arrays(10, forward.values.shape)
        backward = PackedSequence(values, forward.packing.reversed, repeat=True)
        y, pullback = ops.merge_directions_vjp(forward, backward, mode)
        dy = np.random.default_rng(11).standard_normal(y.values.shape)

        def weighted_sum():
            return (ops.merge_directions_vjp(forward, backward, mode)[0].values * dy).sum()

        for gradient, sequence in zip(pullback(dy), (forward, backward), strict=True):
            assert_gradient(gradient, weighted_sum, sequence.values)
