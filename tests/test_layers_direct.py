"""The direct ways of recurrent layers: the bits of the way that all calls can go, and when they are taken."""

import numpy as np
import pytest
from helpers.layers import assert_layer_gradients, normal, randomize
from helpers.masks import MASK_KINDS, make_mask
from helpers.numeric import assert_same_bits

from fastmask import kernels, layers
from fastmask.layers import direct
from fastmask.ops import _sharing

KINDS = {"simple_rnn": layers.SimpleRNN, "lstm": layers.LSTM, "gru": layers.GRU}
# Units below, at and above the numbers of a vector, features alike or not, one row or several.
SHAPES = [(1, 10, 32, 32), (4, 9, 3, 5), (5, 7, 20, 40), (1, 3, 16, 64)]


def make(kind, features, units, dtype="float32", **options):
    layer = KINDS[kind](units, dtype=dtype, **options)
    layer.build((None, None, features))
    return randomize(layer)


def inputs(batch, steps, features, mask, dtype="float32"):
    return normal(batch, steps, features).astype(dtype), make_mask(mask, batch, steps)


@pytest.fixture
def taken(monkeypatch):
    """What the direct way has given since, None where it was not taken."""
    found = []
    way = direct.forward

    def forward(*arguments):
        found.append(way(*arguments))
        return found[-1]

    monkeypatch.setattr(direct, "forward", forward)
    return found


def in_general(monkeypatch, function):
    """The result of a function that cannot take a direct way."""
    with monkeypatch.context() as patch:
        patch.setattr(direct, "forward", lambda *arguments: None)
        patch.setattr(direct, "is_direct", lambda *arguments: False)
        return function()


def both_ways(layer, x, mask):
    y, pullback = layer.vjp(x, mask)
    return [y, *flat(pullback(normal(*y.shape, seed=5).astype(y.dtype)))]


def flat(gradients):
    assert gradients.initial_state is None
    return [gradients.inputs, *gradients.weights]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mask", MASK_KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
class TestBits:
    def test_gradients(self, kind, shape, mask, dtype, taken, monkeypatch):
        batch, steps, features, units = shape
        x, mask = inputs(batch, steps, features, mask, dtype)
        for use_bias in (True, False):
            layer = make(kind, features, units, dtype, use_bias=use_bias)
            results = both_ways(layer, x, mask)
            assert (taken[-1] is None) == (mask is not None and not mask.any())
            expected = in_general(monkeypatch, lambda layer=layer: both_ways(layer, x, mask))
            for actual, wanted in zip(results, expected, strict=True):
                assert_same_bits(actual, wanted)

    def test_outputs(self, kind, shape, mask, dtype, taken, monkeypatch):
        batch, steps, features, units = shape
        x, mask = inputs(batch, steps, features, mask, dtype)
        monkeypatch.setattr(direct, "is_short", lambda *arguments: False)
        monkeypatch.setattr("fastmask.ops._recurrent.is_small", lambda *arguments: False)
        layer = make(kind, features, units, dtype, return_state=True)
        expected = in_general(monkeypatch, lambda: layer(x, mask))
        results = layer(x, mask)
        assert (taken[-1] is None) == (mask is not None and not mask.any())
        for actual, wanted in zip(results, expected, strict=True):
            assert_same_bits(actual, wanted)
        # What a call returns is the caller's.
        results[0][:] = 7
        assert_same_bits(layer(x, mask)[1], expected[1])


@pytest.mark.parametrize("mask", MASK_KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_central_differences(kind, mask, taken):
    x, mask = inputs(3, 5, 4, mask, "float64")
    assert_layer_gradients(make(kind, 4, 6, "float64"), x, mask)
    assert any(taken) == (mask is None or bool(mask.any()))


@pytest.mark.parametrize("kind", KINDS)
def test_every_instruction_set(kind, monkeypatch):
    x, mask = inputs(6, 8, 24, "holes")
    layer = make(kind, 24, 48)
    for name in kernels.available():
        with kernels.use(name):
            results = both_ways(layer, x, mask)
            expected = in_general(monkeypatch, lambda: both_ways(layer, x, mask))
        for actual, wanted in zip(results, expected, strict=True):
            assert_same_bits(actual, wanted)


class TestRepetition:
    """Calls with weights that an earlier call has packed."""

    shape = 8, 20, 64, 96

    def layer(self, kind="lstm", **options):
        return make(kind, *self.shape[2:], **options)

    def x(self, mask="right"):
        return inputs(*self.shape[:3], mask)

    def test_the_second_call_takes_it(self, taken):
        layer, (x, mask) = self.layer(), self.x()
        first, second = layer(x, mask), layer(x, mask)
        assert [found is None for found in taken] == [True, False]
        assert_same_bits(first, second)

    @pytest.mark.parametrize("masked", [True, False])
    @pytest.mark.parametrize(("rows", "steps"), [(3, 20), (8, 12), (7, 19)])
    def test_other_batches_take_it(self, rows, steps, masked, taken, monkeypatch):
        layer, (x, mask) = self.layer("gru"), self.x()
        layer(x, mask)
        x, mask = (np.ascontiguousarray(each[:rows, :steps]) for each in (x, mask))
        given = mask if masked else None
        assert_same_bits(layer(x, given), in_general(monkeypatch, lambda: layer(x, given)))
        assert taken[-1] is not None

    def test_new_weights_count(self, monkeypatch):
        layer, (x, mask) = self.layer(), self.x()
        before = layer(x, mask), layer(x, mask)
        layer.set_weights([2 * weight for weight in layer.get_weights()])
        after = layer(x, mask), layer(x, mask)
        assert not np.array_equal(before[0], after[0])
        assert_same_bits(*after)
        assert_same_bits(after[0], in_general(monkeypatch, lambda: layer(x, mask)))

    def test_training_gives_up_the_packed_weights(self, taken):
        layer, (x, mask) = self.layer(), self.x()
        layer(x, mask)
        layer.vjp(x, mask)
        layer(x, mask)
        assert [found is None for found in taken] == [True, False, True]

    @pytest.mark.parametrize("mask", ["none", "right", "holes"])
    @pytest.mark.parametrize(("rows", "steps"), [(8, 40), (1, 300)])
    @pytest.mark.parametrize("kind", KINDS)
    def test_threads(self, kind, rows, steps, mask, taken, set_threads, monkeypatch):
        """They share the rows, or the units of a single row."""
        layer, (x, mask) = self.layer(kind), inputs(rows, steps, self.shape[2], mask)
        monkeypatch.setattr(_sharing, "_FEW_ROWS", ((0, 1),))
        set_threads(1)
        expected = layer(x, mask)
        for count in 2, 5:
            set_threads(count)
            assert_same_bits(layer(x, mask), expected)
            assert taken[-1] is not None

    @pytest.mark.skipif(len(kernels.available()) < 2, reason="needs two instruction sets")
    def test_another_instruction_set_does_not(self, taken, monkeypatch):
        layer, (x, mask) = self.layer(), self.x()
        layer(x, mask)
        other = next(name for name in kernels.available() if name != kernels.instruction_set())
        with kernels.use(other):
            assert_same_bits(layer(x, mask), in_general(monkeypatch, lambda: layer(x, mask)))
        assert not any(taken)

    @pytest.mark.parametrize(
        "options", [{"return_sequences": True}, {"go_backwards": True}, {"stateful": True}], ids=str
    )
    def test_other_layers_do_not(self, options, taken):
        layer, (x, mask) = self.layer(**options), self.x()
        layer(x, mask)
        layer(x, mask)
        assert not any(taken)

    def test_given_states_do_not(self, taken):
        layer, (x, mask) = self.layer(), self.x()
        states = [np.ones((8, 96), np.float32)] * 2
        layer(x, mask)
        y = layer(x, mask, states)
        assert not any(taken)
        assert not np.array_equal(y, layer(x, mask))

    def test_dropout_does_not(self, taken):
        layer, (x, mask) = self.layer(dropout=0.5), self.x()
        layer(x, mask)
        layer(x, mask, training=True)
        layer.vjp(x, mask, training=True)
        assert not any(taken)
        layer.vjp(x, mask)
        assert taken[-1] is not None


def test_a_pullback_serves_once():
    x, mask = inputs(1, 10, 32, "right")
    y, pullback = make("lstm", 32, 32).vjp(x, mask)
    pullback(y)
    with pytest.raises(RuntimeError, match="pullback"):
        pullback(y)


def test_a_wrong_gradient_leaves_the_pullback_unused():
    x, mask = inputs(1, 10, 32, "right")
    y, pullback = make("gru", 32, 32).vjp(x, mask)
    with pytest.raises(ValueError, match="dy must have shape"):
        pullback(y[:, 1:])
    pullback(y)
