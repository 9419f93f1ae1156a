"""The states of rows that are known to be at rest are not read, and nobody else's change of them is missed."""

import copy
import pickle

import numpy as np
import pytest

from fastmask.layers import Variable

from .test_state import MAKERS, SHAPE, Twins, gradient, with_state


def reads_a_row_not_met(optimizer, weight):
    """Tell whether a step reads the state of a row: a NaN that nobody could have put there is found or not."""
    states, kept = [state for state in optimizer._states[weight] if state is not None], weight.numpy()
    states[0][20] = np.nan
    optimizer.apply([gradient([0])], [weight])
    for state in states:
        state[20] = 0
    found = np.isnan(weight.value[20]).any()
    weight.assign(kept)
    return found


@with_state
@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_rows_that_were_never_met_are_not_read(name, make):
    """Steps read such rows only after a slot was lent, a dense gradient or a copy, and while a slot is held."""
    optimizer, weight = MAKERS[name](), Variable(np.ones(SHAPE, np.float32), "w")

    def step(grad):
        optimizer.apply([grad], [weight])

    step(gradient([0]))
    assert not reads_a_row_not_met(optimizer, weight)
    assert optimizer.variables
    assert reads_a_row_not_met(optimizer, weight)
    step(gradient([1]))
    held = optimizer.variables
    step(gradient([1]))
    assert reads_a_row_not_met(optimizer, weight)
    del held
    step(gradient([1]))
    assert not reads_a_row_not_met(optimizer, weight)
    step(np.zeros(SHAPE, np.float32))
    assert reads_a_row_not_met(optimizer, weight)
    step(gradient([1]))
    other, another = make((optimizer, weight))
    assert not reads_a_row_not_met(optimizer, weight)
    if make is not copy.copy:
        assert reads_a_row_not_met(other, another)


@with_state
def test_another_state_is_not_known(name):
    twins = Twins(MAKERS[name])
    twins.step(0)
    for optimizer in twins.optimizers:
        for weight, state in optimizer._states.items():
            optimizer._states[weight] = tuple(None if a is None else np.full_like(a, 0.5) for a in state)
    twins.step(1)
    twins.step(0)


@with_state
def test_steps_on_some_of_the_variables(name):
    """A step on some of the variables leaves what is known of the rows of the others."""
    twins = Twins(MAKERS[name])
    for ids in ([0], [1]):
        twins.step(*ids)
        for optimizer, (first, _), sparse in zip(twins.optimizers, twins.weights, (True, False), strict=True):
            grad = gradient([9 + ids[0]])
            optimizer.apply([grad if sparse else grad.dense()], [first])
        twins.compare()
    optimizer, (_, second) = twins.optimizers[0], twins.weights[0]
    assert not reads_a_row_not_met(optimizer, second)
