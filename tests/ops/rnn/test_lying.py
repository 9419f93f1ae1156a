"""Runs on weights in any order of memory, and in PyTorch's order of gates, give the bits of packed weights."""

import numpy as np
import pytest
from helpers.compiled import on_packed_weights
from helpers.numeric import assert_close, assert_same_bits

from fastmask import kernels, ops, reference
from fastmask.batch.packing import PackedSequence
from fastmask.ops.rnn.lying import run_lying

GATES = {"simple_rnn": 1, "lstm": 4, "gru": 3}
SIZES = [(7, units) for units in (*range(1, 18), 31, 33)] + [(1, 1), (64, 64), (65, 40), (130, 72)]


def by_columns(matrix):
    return np.asfortranarray(matrix)


def by_rows(matrix):
    return np.ascontiguousarray(matrix)


def apart(matrix):
    """Neither rows nor columns are contiguous."""
    room = np.full((2 * matrix.shape[0], 3 * matrix.shape[1]), np.nan, matrix.dtype)
    room[::2, ::3] = matrix
    return room[::2, ::3]


def shifted(matrix):
    """Columns that begin one number behind a cache line, with numbers between them."""
    room = np.full((matrix.shape[1] + 1, matrix.shape[0] + 3), np.nan, matrix.dtype)
    room[:-1, 1:-2] = matrix.T
    return room[:-1, 1:-2].T


class Layer:
    """Random weights in PyTorch's order, two biases apart, and what the operations take."""

    def __init__(self, op, features, units, dtype, bias=True):
        rng = np.random.default_rng(units)
        columns = GATES[op] * units
        self.op, self.units, self.columns = op, units, columns
        self.kernels = [rng.standard_normal((rows, columns)).astype(dtype) for rows in (features, units)]
        self.biases = [rng.standard_normal(columns).astype(dtype) for _ in range(2 if bias else 0)]
        self.spec = ops.RNNSpec(op, features, units, np.dtype(dtype).name, use_bias=bias)

    def swap(self, array):
        z = self.units
        return np.concatenate([array[..., z : 2 * z], array[..., :z], array[..., 2 * z :]], -1)

    def arguments(self):
        kernels, biases = self.kernels, self.biases
        if self.op == "gru":
            kernels, biases = map(self.swap, kernels), [self.swap(bias) for bias in biases]
        if not biases:
            return *map(by_rows, kernels), None
        return *map(by_rows, kernels), np.stack(biases) if self.op == "gru" else biases[0] + biases[1]

    def run(self, lie, sequence, states):
        module = kernels.module(self.spec.dtype)
        cell = module.Cell(
            getattr(module, self.spec.kind.code), self.spec.codes, *map(lie, self.kernels), tuple(self.biases),
            self.op == "gru",
        )
        tokens = ops.Tokens(sequence.values, sequence.packing, sequence.index)
        return run_lying(cell, self.spec, tokens, states, True)


def batch(rows, steps, features, dtype, states):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((rows, steps, features)).astype(dtype)
    mask = rng.random((rows, steps)) < 0.7
    mask[0] = True
    x[~mask] = np.nan
    return x, mask, states and tuple(rng.standard_normal(shape).astype(dtype) for shape in states)


def check(layer, lie, rows, steps, given=True):
    spec = layer.spec
    shapes = [(rows, spec.units)] * len(spec.states) if given else None
    x, mask, states = batch(rows, steps, spec.features, spec.dtype, shapes)
    sequence = PackedSequence.from_padded(x, mask)
    found, after = layer.run(lie, sequence, states)
    with on_packed_weights():
        expected, expected_after = getattr(ops, layer.op)(sequence, *layer.arguments(), initial_state=states)
    assert_same_bits(found, expected.values)
    for state, value in zip(after, expected_after, strict=True):
        assert_same_bits(state, value)
    return x, mask, states, after


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("lie", [by_columns, by_rows, apart, shifted])
@pytest.mark.parametrize("op", GATES)
def test_every_size_gives_the_bits_of_packed_weights(op, lie, dtype):
    for features, units in SIZES:
        layer = Layer(op, features, units, dtype)
        for rows in (1, 2, 5):
            check(layer, lie, rows, 1)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("op", GATES)
def test_steps_of_many_rows(op, given, bias, dtype):
    layer = Layer(op, 20, 33, dtype, bias)
    for rows, steps in ((1, 6), (33, 4), (70, 1)):
        check(layer, by_columns, rows, steps, given)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("op", GATES)
def test_the_results_are_those_of_the_reference(op, dtype):
    layer = Layer(op, 19, 37, dtype)
    x, mask, states, after = check(layer, by_columns, 4, 3)
    wide = [array.astype(np.float64) for array in layer.arguments()]
    _, expected = getattr(reference, op)(
        np.nan_to_num(x).astype(np.float64), *wide, tuple(state.astype(np.float64) for state in states), mask=mask
    )
    for state, value in zip(after, expected, strict=True):
        assert_close(state, value)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_behind_the_weights_are_not_read(dtype):
    layer = Layer("lstm", 5, 9, dtype)
    layer.biases = [np.append(bias, np.nan).astype(dtype)[:-1] for bias in layer.biases]
    for rows in (1, 3):
        check(layer, shifted, rows, 2)


def test_a_cell_sees_changed_weights_in_any_order():
    layer = Layer("gru", 4, 8, np.float32)
    module = kernels.module(np.dtype(np.float32))
    weights = [*map(by_columns, layer.kernels)]
    cell = module.Cell(module.GRU, layer.spec.codes, *weights, tuple(layer.biases), True)
    x, mask, _ = batch(1, 1, 4, np.float32, None)
    sequence = PackedSequence.from_padded(x, mask)
    tokens = ops.Tokens(sequence.values, sequence.packing)
    states = (np.ones((1, 8), np.float32),)
    results = [run_lying(cell, layer.spec, tokens, states, True)[0]]
    for array in (*weights, *layer.biases):
        array[...] += 1
        results.append(run_lying(cell, layer.spec, tokens, states, True)[0])
        assert not np.array_equal(results[-1], results[-2])
