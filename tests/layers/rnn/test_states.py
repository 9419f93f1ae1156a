"""States of stateful layers that are set, all of them or those of some rows."""

import numpy as np
import pytest
from helpers.layers import normal, randomize

from fastmask import layers

KINDS = {"SimpleRNN": layers.SimpleRNN, "GRU": layers.GRU, "LSTM": layers.LSTM}
BATCH, TIME, FEATURES, UNITS = 4, 5, 3, 2


def stateful(kind, wrap):
    inner = KINDS[kind](UNITS, dtype="float64", stateful=True)
    layer = layers.Bidirectional(inner) if wrap else inner
    layer.build((None, None, FEATURES))
    return randomize(layer)


def some_states(kind, wrap, rows=BATCH):
    count = (2 if kind == "LSTM" else 1) * (2 if wrap else 1)
    return [normal(rows, UNITS, seed=10 + i) for i in range(count)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrap", [False, True])
class TestReset:
    def test_values_are_what_the_next_call_starts_from(self, kind, wrap):
        x, layer, states = normal(BATCH, TIME, FEATURES), stateful(kind, wrap), some_states(kind, wrap)
        layer.reset_states(states)
        found = layer(x)
        np.testing.assert_array_equal(found, layer(x, initial_state=states))

    def test_values_are_copied(self, kind, wrap):
        x, layer, states = normal(BATCH, TIME, FEATURES), stateful(kind, wrap), some_states(kind, wrap)
        expected = layer(x, initial_state=states)
        layer.reset_states(states)
        for state in states:
            state[:] = 9
        np.testing.assert_array_equal(layer(x), expected)

    @pytest.mark.parametrize("rows", [[1, 3], np.array([False, True, False, True])], ids=["numbers", "mask"])
    def test_rows_start_again_alone(self, kind, wrap, rows):
        x, layer = normal(BATCH, TIME, FEATURES), stateful(kind, wrap)
        first, second = layer(x), layer(x)
        layer.reset_state()
        layer(x)
        layer.reset_state(rows=rows)
        found = layer(x)
        np.testing.assert_array_equal(found[rows], first[rows])
        np.testing.assert_array_equal(found[[0, 2]], second[[0, 2]])

    def test_rows_take_values(self, kind, wrap):
        x, layer = normal(BATCH, TIME, FEATURES), stateful(kind, wrap)
        states = some_states(kind, wrap)
        layer.reset_states(states)
        expected = layer(x)
        layer.reset_states([np.zeros_like(state) for state in states])
        layer.reset_states([state[2:] for state in states], rows=[2, 3])
        np.testing.assert_array_equal(layer(x)[2:], expected[2:])

    def test_another_number_of_states_is_refused(self, kind, wrap):
        states = some_states(kind, wrap)
        with pytest.raises(ValueError, match=rf"states: expected {len(states)} arrays"):
            stateful(kind, wrap).reset_states([*states, states[0]])

    def test_a_refused_reset_changes_nothing(self, kind, wrap):
        x, layer, states = normal(BATCH, TIME, FEATURES), stateful(kind, wrap), some_states(kind, wrap)
        expected = layer(x, initial_state=states)
        layer.reset_states(states)
        with pytest.raises(ValueError, match=r"states \w+: expected shape \(4, 2\), got \(4, 3\)"):
            layer.reset_states([*states[:-1], normal(BATCH, UNITS + 1)] if len(states) > 1 else normal(BATCH, 3),
                               rows=range(BATCH))  # fmt: skip
        np.testing.assert_array_equal(layer(x), expected)

    @pytest.mark.parametrize("rows", [[4], [-1], [0.5], [[0]], [True]])
    def test_rows_outside_of_the_batch_are_refused(self, kind, wrap, rows):
        layer = stateful(kind, wrap)
        layer(normal(BATCH, TIME, FEATURES))
        with pytest.raises(ValueError, match="rows: expected"):
            layer.reset_states(rows=rows)

    def test_rows_need_a_batch(self, kind, wrap):
        with pytest.raises(ValueError, match=r"rows: expected None .* keeps no states yet"):
            stateful(kind, wrap).reset_states(rows=[0])


def test_one_array_is_the_state_of_a_layer_with_one():
    layer, h = stateful("GRU", False), normal(BATCH, UNITS)
    x = normal(BATCH, TIME, FEATURES)
    layer.reset_states(h)
    np.testing.assert_array_equal(layer(x), layer(x, initial_state=h))


def test_directions_have_one_batch_size():
    h = normal(BATCH, UNITS)
    with pytest.raises(ValueError, match=r"states: expected one batch size .* got 4 and 3"):
        stateful("GRU", True).reset_states([h, h[1:]])
