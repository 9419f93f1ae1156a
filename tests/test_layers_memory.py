"""What a recurrent call returns is the caller's: no other result, no argument and no kept state shares its memory."""

from itertools import combinations, product

import numpy as np
import pytest
from helpers.compiled import make_program, run_program
from helpers.layers import normal, outputs_of, randomize
from helpers.numeric import assert_same_bits
from helpers.recurrent import CELLS, make_problem

from fastmask import PackedSequence, layers, ops

KINDS = {
    "simple_rnn": layers.SimpleRNN,
    "lstm": layers.LSTM,
    "gru": layers.GRU,
    "gru_reset_before": lambda units, **options: layers.GRU(units, reset_after=False, **options),
}
WRAPPERS = {
    "alone": lambda layer: layer,
    "concat": layers.Bidirectional,
    "apart": lambda layer: layers.Bidirectional(layer, merge_mode=None),
}
FLAGS = ("return_sequences", "return_state", "stateful")
MASKS = {
    "none": None,
    "empty row": np.arange(5) < np.array([[5], [0], [1]]),
}


@pytest.fixture(params=["short", "packed"])
def way(request):
    """Run on weights as they lie, or on packed ones."""
    if request.param == "packed":
        request.getfixturevalue("packed_weights")


def assert_apart(arrays):
    """No two of some named arrays share memory."""
    for (name, a), (other, b) in combinations(arrays, 2):
        assert not np.shares_memory(a, b), f"{name} and {other}"


def made(kind, wrapper, **options):
    layer = WRAPPERS[wrapper](KINDS[kind](4, dtype="float64", **options))
    layer.build((None, None, 3))
    return randomize(layer)


def parts(layer):
    return list(layer.sublayers.values()) or [layer]


def kept(layer):
    return [state for part in parts(layer) for state in part.states or ()]


def given_states(layer):
    count = sum(len(part.state_names) for part in parts(layer))
    return [normal(3, 4, seed=i) for i in range(count)]


def called(layer, x, mask, states, how):
    if how == "packed":
        return layer(PackedSequence.from_padded(x, mask), initial_state=states)
    return layer.vjp(x, mask, states)[0] if how == "training" else layer(x, mask, states)


def calls(layer, mask):
    """Results of calls of every form, two in a row, with what must be apart from them."""
    x = normal(3, 5 if mask is not None else 1, 3)
    for how, states in product(("plain", "packed", "training"), (None, given_states(layer))):
        for _ in range(2):
            outputs = outputs_of(called(layer, x, mask, states, how))
            yield outputs, [x, *(states or ())]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("way")
def test_results_states_arguments_and_weights(kind, wrapper, mask):
    for flags in product((False, True), repeat=len(FLAGS)):
        layer = made(kind, wrapper, **dict(zip(FLAGS, flags, strict=True)))
        for outputs, arguments in calls(layer, MASKS[mask]):
            groups = {
                "output": outputs, "argument": arguments, "state": kept(layer),
                "weight": [variable.value for variable in layer.weights],
            }  # fmt: skip
            assert_apart([(f"{name} {i}", a) for name, group in groups.items() for i, a in enumerate(group)])


@pytest.mark.parametrize("how", ["plain", "packed", "training"])
@pytest.mark.parametrize("return_state", [False, True])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("wrapper", ["alone", "apart"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("way")
def test_a_stateful_layer_goes_on_whatever_the_caller_does(kind, wrapper, return_sequences, return_state, how):
    """With what it was given and what it has returned."""
    options = {"stateful": True, "return_sequences": return_sequences, "return_state": return_state}
    layer, other = (made(kind, wrapper, **options) for _ in range(2))
    for step in range(3):
        x = normal(3, 5, 3, seed=step)
        first = given_states(layer) if step == 0 else None
        expected = [part.copy() for part in outputs_of(called(other, x, None, first, how))]
        found = outputs_of(called(layer, x, None, first, how))
        for part, wanted in zip(found, expected, strict=True):
            assert_same_bits(part, wanted)
        for array in (*found, *(first or ())):
            array[...] = np.nan


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("initial_state", [False, True])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.usefixtures("way")
def test_operations(cell, initial_state, return_sequences):
    for (batch, time), mask in product(((3, 4), (1, 1), (2, 0)), ("none", "all_empty")):
        problem = make_problem(cell, batch, time, 3, 4, mask, initial_state=initial_state)
        x = PackedSequence.from_padded(problem.x, problem.mask)
        options = problem.options | {"return_sequences": return_sequences}
        name, program = problem.cell.function, make_program(problem)
        found = [run_program(program, problem, x, return_sequences) for _ in range(3)]
        (sequence, states), pullback = getattr(ops, f"{name}_vjp")(x, *problem.parameters, **options)
        gradients = pullback(None, problem.d_states).initial_state
        for outputs, after in [*found, (sequence, states), (None, gradients or ())]:
            arrays = [*after, *(problem.initial_state or ()), *problem.d_states, x.values]
            arrays += [] if outputs is None else [outputs.values]
            assert_apart(list(enumerate(arrays)))


@pytest.mark.parametrize("op", ["simple_rnn", "lstm", "gru"])
def test_single_steps(op):
    problem = make_problem(op, 3, 1, 3, 4)
    *weights, states = problem.parameters
    cell = ops.Cell(op, *weights)
    assert_apart(list(enumerate([*cell(problem.x[:, 0], states), *states, *cell(problem.x[:, 0])])))
