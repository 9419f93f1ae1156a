"""The zeros that a row starts from are not multiplied: in its first step infinite recurrent weights do no harm."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.compiled import assert_same_results, make_program, ops_results, run_program
from helpers.layers import normal, outputs_of, randomize
from helpers.numeric import assert_same_bits
from helpers.recurrent import CELLS, make_problem

from fastmask import PackedSequence, layers, ops
from fastmask.ops import tuning

# A row and several, units in one vector and in several panels.
SHAPES = [(1, 5), (1, 150), (7, 37)]
KINDS = {
    "simple_rnn": layers.SimpleRNN,
    "lstm": layers.LSTM,
    "gru": layers.GRU,
    "gru_reset_before": lambda units, **options: layers.GRU(units, reset_after=False, **options),
}


def spoilt(array):
    """An array of NaN and both infinities."""
    return np.resize(np.array([np.inf, np.nan, -np.inf], array.dtype), array.shape)


def with_spoilt_weights(problem):
    """The same problem with a recurrent kernel of NaN and infinities."""
    return replace(problem, recurrent_kernel=spoilt(problem.recurrent_kernel))


def one_step(batch, time, seed=0):
    """A mask that leaves each row one step."""
    return np.arange(time) == np.random.default_rng(seed).integers(0, time, batch)[:, None]


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("dropout", [None, "shared", "per_gate"])
@pytest.mark.parametrize("cell", CELLS)
def test_outputs_and_gradients_of_rows_of_one_step(cell, dropout, go_backwards, dtype):
    for batch, units in SHAPES:
        options = {"initial_state": False, "dropout": dropout, "go_backwards": go_backwards}
        problem = make_problem(cell, batch, 5, 3, units, dtype=dtype, **options)
        problem.mask = one_step(batch, 5)
        for with_bias in (problem, replace(problem, bias=None)):
            assert_same_results(ops_results(with_spoilt_weights(with_bias)), ops_results(with_bias))


def first_outputs(program, problem, **options):
    """Outputs of the first valid steps, and the states of rows that have no other."""
    x = PackedSequence.from_padded(problem.x, problem.mask)
    sequence, states = run_program(program, problem, x, **options)
    single = x.packing.lengths == 1
    found = [state[single] for state in states]
    assert single.any()
    return found if sequence is None else [*found, sequence.values[: x.packing.batch_sizes[0]]]


def assert_same_first_outputs(problem, **options):
    spoilt_problem = with_spoilt_weights(problem)
    program, spoilt_program = make_program(problem), make_program(spoilt_problem)
    for _ in range(3):  # The first run may go without packed weights.
        expected = first_outputs(program, problem, **options)
        found = first_outputs(spoilt_program, spoilt_problem, **options)
        for array, wanted in zip(found, expected, strict=True):
            assert np.isfinite(array).all()
            assert_same_bits(array, wanted)


def problem_with_short_rows(cell, batch=6, units=40, **options):
    """Rows of one step beside longer ones, without dropout unless it is asked for."""
    problem = make_problem(cell, batch, 4, 5, units, dtype=np.float32, initial_state=False, **options)
    problem.mask = np.arange(4) < np.resize([1, 4, 3], batch)[:, None]
    return problem


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("cell", CELLS)
class TestInference:
    @pytest.mark.parametrize("dropout", [None, "shared"])
    @pytest.mark.usefixtures("instruction_set")
    def test_short_sequences(self, cell, dropout, return_sequences):
        for go_backwards in (False, True):
            problem = problem_with_short_rows(cell, go_backwards=go_backwards, dropout=dropout)
            assert_same_first_outputs(problem, return_sequences=return_sequences)

    @pytest.mark.parametrize("dropout", [None, "shared", "per_gate"])
    @pytest.mark.usefixtures("packed_weights", "instruction_set")
    def test_packed_weights(self, cell, dropout, return_sequences):
        for batch, units in SHAPES:
            problem = problem_with_short_rows(cell, batch, units, dropout=dropout)
            assert_same_first_outputs(problem, return_sequences=return_sequences)

    @pytest.mark.usefixtures("packed_weights")
    def test_threads(self, cell, return_sequences, set_threads):
        """They share rows, or the units of few rows."""
        set_threads(2)
        for few in ((), ((0, 10**9),)):
            with tuning.override(FEW_ROWS=few):
                assert_same_first_outputs(problem_with_short_rows(cell, 6, 150), return_sequences=return_sequences)


@pytest.mark.parametrize("op", ["simple_rnn", "lstm", "gru"])
@pytest.mark.usefixtures("instruction_set")
def test_single_steps(op):
    for batch, units in SHAPES:
        problem = make_problem(op, batch, 1, 3, units, dtype=np.float32)
        kernel, recurrent_kernel, bias, _ = problem.parameters
        found = ops.Cell(op, kernel, spoilt(recurrent_kernel), bias)(problem.x[:, 0])
        expected = ops.Cell(op, kernel, recurrent_kernel, bias)(problem.x[:, 0])
        for state, wanted in zip(found, expected, strict=True):
            assert_same_bits(state, wanted)


def made(make, *, spoil):
    """A built layer, the same at each call but for recurrent weights that are NaN and infinite if asked for."""
    layer = make()
    layer.build((None, None, 7))
    randomize(layer)
    recurrent = [spoil and "recurrent_kernel" in variable.path for variable in layer.weights]
    assert any(recurrent) == spoil
    values = zip(layer.get_weights(), recurrent, strict=True)
    layer.set_weights([spoilt(weight) if bad else weight for weight, bad in values])
    return layer


def results(layer, x, mask, training):
    """Outputs of plain calls, and outputs and gradients of a training call."""
    found = []
    if not training:
        for _ in range(1 if layer.stateful else 3):
            found += outputs_of(layer(x, mask))
        if layer.stateful:
            layer.reset_states()
    y, pullback = layer.vjp(x, mask, training=training)
    gradients = pullback(tuple(map(np.ones_like, y)) if isinstance(y, tuple) else np.ones_like(y))
    return [*found, *outputs_of(y), gradients.inputs, *gradients.weights]


LAYERS = {
    "last": {},
    "sequences": {"return_sequences": True, "return_state": True},
    "stateful": {"stateful": True},
    "zeros shown": {"return_sequences": True, "zero_output_for_mask": True},
    "dropout": {"dropout": 0.3, "recurrent_dropout": 0.4, "seed": 3},
    "recurrent dropout": {"recurrent_dropout": 0.4, "seed": 3, "return_sequences": True},
    "backwards": {"go_backwards": True},
}
# Bidirectional decides about the direction itself.
CASES = [(name, wrapped) for name in LAYERS for wrapped in (False, True) if not (wrapped and name == "backwards")]


def made_of(kind, name, wrapped):
    """A maker of layers."""

    def make():
        layer = KINDS[kind](20, **LAYERS[name])
        return layers.Bidirectional(layer) if wrapped else layer

    return make


@pytest.mark.parametrize("short", [True, False], ids=["short", "packed"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("name", "wrapped"), CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_layers(kind, name, wrapped, masked, short, request):
    if not short:
        request.getfixturevalue("packed_weights")
    x = normal(6, 4 if masked else 1, 7).astype(np.float32)
    mask = one_step(6, 4) if masked else None
    make = made_of(kind, name, wrapped)
    good, bad = (results(made(make, spoil=spoil), x, mask, "dropout" in name) for spoil in (False, True))
    for array, wanted in zip(bad, good, strict=True):
        assert_same_bits(array, wanted)
