"""What recurrent layers show at masked places, their states, dropout and arguments."""

import numpy as np
import pytest
from helpers.layers import BATCH, FEATURES, TIME, UNITS, normal, randomize
from helpers.masks import MASK_KINDS, full_mask, make_mask

from fastmask import PackedSequence, Packing, initializers, layers, ops, reference

KINDS = {"simple_rnn": layers.SimpleRNN, "lstm": layers.LSTM, "gru": layers.GRU}


def make(kind="lstm", features=FEATURES, **options):
    layer = KINDS[kind](UNITS, dtype="float64", **options)
    layer.build((None, None, features))
    return randomize(layer)


def inputs(mask="holes"):
    return normal(BATCH, TIME, FEATURES), make_mask(mask, BATCH, TIME)


def states_for(layer, batch=BATCH):
    return tuple(normal(batch, UNITS, seed=10 + i) for i in range(len(layer.state_names)))


def as_reference(layer, x, mask, states=None, **options):
    """Outputs of all steps and final states by the reference."""
    function = getattr(reference, layer.op)
    return function(x, *layer.get_weights(), states, mask=mask, **options)


@pytest.mark.parametrize("mask", MASK_KINDS)
@pytest.mark.parametrize("kind", KINDS)
class TestValues:
    @pytest.mark.parametrize("zero_output", [False, True])
    @pytest.mark.parametrize("go_backwards", [False, True])
    def test_sequences_on_the_grid(self, kind, mask, zero_output, go_backwards):
        x, mask = inputs(mask)
        options = {"go_backwards": go_backwards, "zero_output_for_mask": zero_output}
        layer = make(kind, return_sequences=True, return_state=True, **options)
        states = states_for(layer)
        y, *final = layer(x, mask, states)
        expected, expected_final = as_reference(layer, x, mask, states, **options)
        np.testing.assert_allclose(y, expected, atol=1e-12)
        np.testing.assert_allclose(final, expected_final, atol=1e-12)

    @pytest.mark.parametrize("zero_output", [False, True])
    @pytest.mark.parametrize("go_backwards", [False, True])
    def test_last_output(self, kind, mask, zero_output, go_backwards):
        x, mask = inputs(mask)
        options = {"go_backwards": go_backwards, "zero_output_for_mask": zero_output}
        layer = make(kind, **options)
        states = states_for(layer)
        expected = as_reference(layer, x, mask, states, **options)[0][:, -1]
        np.testing.assert_allclose(layer(x, mask, states), expected, atol=1e-12)

    def test_packed_is_padded(self, kind, mask):
        x, mask = inputs(mask)
        for options in ({"return_sequences": True}, {}, {"go_backwards": True}):
            layer = make(kind, **options)
            y = layer(PackedSequence.from_padded(x, mask))
            y = y.pad() if isinstance(y, PackedSequence) else y
            np.testing.assert_array_equal(y, layer(x, mask))

    def test_backwards_keeps_the_mask_of_the_input(self, kind, mask):
        x, mask = inputs(mask)
        layer = make(kind, return_sequences=True, go_backwards=True)
        packed = PackedSequence.from_padded(x, mask)
        y = layer(packed)
        assert y.packing is packed.packing
        keep = full_mask(mask, BATCH, TIME)
        np.testing.assert_array_equal(y.pad()[keep], layer(x, mask)[keep])

    def test_padding_is_not_read(self, kind, mask):
        x, mask = inputs(mask)
        layer = make(kind, return_sequences=True)
        poisoned = np.where(full_mask(mask, BATCH, TIME)[..., None], x, np.nan)
        (y, pullback), (expected, other) = layer.vjp(poisoned, mask), layer.vjp(x, mask)
        np.testing.assert_array_equal(y, expected)
        dy = normal(*y.shape)
        np.testing.assert_equal(pullback(dy), other(dy))


def test_row_without_valid_steps_shows_zeros_and_keeps_its_states():
    x, mask = inputs("empty_row")
    row = int(np.flatnonzero(~mask.any(axis=1))[0])
    layer = make(return_state=True)
    states = states_for(layer)
    y, h, c = layer(x, mask, states)
    np.testing.assert_array_equal(y[row], 0)
    np.testing.assert_array_equal(h[row], states[0][row])
    np.testing.assert_array_equal(c[row], states[1][row])


def test_outputs_do_not_share_memory():
    layer = make(return_state=True)
    y, h, _ = layer(inputs()[0])
    y += 1
    assert not np.array_equal(y, h)


@pytest.mark.parametrize("kind", KINDS)
def test_stateful_calls_continue_each_other(kind):
    x = normal(BATCH, TIME, FEATURES)
    layer = make(kind, stateful=True, return_sequences=True)
    parts = [layer(x[:, :2]), layer(x[:, 2:])]
    layer.reset_states()
    np.testing.assert_allclose(np.concatenate(parts, axis=1), layer(x), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrap", [False, True])
class TestStateful:
    def layer(self, kind, wrap):
        inner = KINDS[kind](UNITS, dtype="float64", stateful=True)
        layer = layers.Bidirectional(inner) if wrap else inner
        layer.build((None, None, FEATURES))
        return randomize(layer)

    def test_reset_starts_again(self, kind, wrap):
        x, mask = inputs()
        layer = self.layer(kind, wrap)
        first, second = layer(x, mask), layer.vjp(x, mask)[0]
        assert not np.allclose(first, second)
        layer.reset_state()
        np.testing.assert_array_equal(layer(x, mask), first)

    def test_batch_size_must_stay(self, kind, wrap):
        layer = self.layer(kind, wrap)
        layer(normal(3, TIME, FEATURES))
        with pytest.raises(ValueError, match=r"batch size 3 of the states .* got 2"):
            layer(normal(2, TIME, FEATURES))
        layer.reset_states()
        layer(normal(2, TIME, FEATURES))

    def test_initial_state_comes_first(self, kind, wrap):
        x, mask = inputs()
        layer = self.layer(kind, wrap)
        count = sum(len(part.state_names) for part in layer.sublayers.values()) or len(layer.state_names)
        states = tuple(normal(BATCH, UNITS, seed=i) for i in range(count))
        first = layer(x, mask, states)
        layer(x, mask)
        np.testing.assert_array_equal(layer(x, mask, states), first)

    def test_gradients_stop_at_the_batch(self, kind, wrap):
        x, mask = inputs()
        layer = self.layer(kind, wrap)
        layer(x, mask)
        y, pullback = layer.vjp(x, mask)
        assert pullback(np.ones_like(y)).initial_state is None


def test_reset_needs_a_stateful_layer():
    with pytest.raises(ValueError, match="stateful"):
        make().reset_states()


class TestDropout:
    @pytest.mark.parametrize("kind", KINDS)
    def test_inference_has_none(self, kind):
        x, mask = inputs()
        layer = make(kind, dropout=0.5, recurrent_dropout=0.5)
        np.testing.assert_array_equal(layer(x, mask), make(kind)(x, mask))

    @pytest.mark.parametrize(("recurrent", "kind"), [(0, "lstm"), (0.5, "simple_rnn")])
    def test_shared_by_all_gates_and_steps(self, kind, recurrent):
        drawn = self.drawn(kind, dropout=0.5, recurrent_dropout=recurrent)
        assert drawn.inputs.shape == (1, BATCH, FEATURES)

    @pytest.mark.parametrize(("kind", "gates"), [("lstm", 4), ("gru", 3)])
    def test_each_gate_has_its_own_with_recurrent_dropout(self, kind, gates):
        drawn = self.drawn(kind, dropout=0.5, recurrent_dropout=0.5)
        assert drawn.inputs.shape == (gates, BATCH, FEATURES)
        assert drawn.states.shape == (gates, BATCH, UNITS)
        assert not np.array_equal(drawn.inputs[0], drawn.inputs[1])

    @pytest.mark.parametrize("kind", KINDS)
    def test_statistics(self, kind):
        layer = make(kind, features=20, dropout=0.3, recurrent_dropout=0.3, seed=1)
        for mask in layer.draw_dropout(Packing.full(500, 1)):
            np.testing.assert_allclose(np.unique(mask), [0, 1 / 0.7])
            assert abs((mask == 0).mean() - 0.3) < 4 * np.sqrt(0.21 / mask.size)

    @pytest.mark.parametrize("kind", KINDS)
    def test_rate_one_drops_everything_only_without_gates(self, kind):
        x, _ = inputs()
        layer = make(kind, dropout=1.0, recurrent_dropout=1.0)
        all_dropped = np.tanh(layer.get_weights()[-1])
        expected = np.tile(all_dropped, (BATCH, 1)) if kind == "simple_rnn" else layer(x)
        np.testing.assert_allclose(layer(x, training=True), expected, atol=1e-12)

    def test_same_masks_at_every_step(self):
        layer = make("simple_rnn", dropout=0.5, seed=3, return_sequences=True)
        x = np.ones((40, 6, FEATURES))
        layer.set_weights([np.ones((FEATURES, UNITS)), np.zeros((UNITS, UNITS)), np.zeros(UNITS)])
        y = layer(x, training=True)
        np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1], y.shape))
        assert len(np.unique(y)) > 1
        assert not np.array_equal(y, layer(x, training=True))

    def test_seed(self):
        x, mask = inputs()
        first, second = (make(dropout=0.5, recurrent_dropout=0.2, seed=7) for _ in range(2))
        np.testing.assert_array_equal(first(x, mask, training=True), second(x, mask, training=True))

    @staticmethod
    def drawn(kind, **rates):
        layer = make(kind, seed=2, **rates)
        return layer.draw_dropout(Packing.full(BATCH, 3))


class TestWeights:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("use_bias", [True, False])
    def test_names_and_shapes(self, kind, use_bias):
        gates = KINDS[kind].gates
        layer = KINDS[kind](UNITS, use_bias=use_bias, name="l")
        layer.build((None, None, FEATURES))
        shapes = {
            f"l/{kind}_cell/kernel": (FEATURES, gates * UNITS),
            f"l/{kind}_cell/recurrent_kernel": (UNITS, gates * UNITS),
            f"l/{kind}_cell/bias": (2, gates * UNITS) if kind == "gru" else (gates * UNITS,),
        }
        found = {w.path: w.shape for w in layer.weights}
        assert found == dict(list(shapes.items())[: 2 + use_bias])

    def test_bias_of_gru_reset_before(self):
        layer = layers.GRU(UNITS, reset_after=False)
        layer.build((None, None, FEATURES))
        assert layer.bias.shape == (3 * UNITS,)

    def test_initial_values(self):
        layer = layers.LSTM(4)
        layer.build((None, None, 3))
        kernel, recurrent, bias = layer.get_weights()
        limit = np.sqrt(6 / (3 + 16))
        assert np.abs(kernel).max() <= limit
        assert np.abs(kernel).max() > 0.8 * limit
        np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(4), atol=1e-6)
        np.testing.assert_array_equal(bias, [0] * 4 + [1] * 4 + [0] * 8)

    def test_forget_bias(self):
        for options, expected in (({"unit_forget_bias": False}, 0.5), ({}, 1.0)):
            layer = layers.LSTM(2, bias_initializer=initializers.Constant(0.5), **options)
            layer.build((None, None, 3))
            np.testing.assert_array_equal(layer.bias, [0.5, 0.5, expected, expected, 0.5, 0.5, 0.5, 0.5])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"units": 0}, ValueError, "units: expected a positive integer, got 0"),
        ({"units": 2.5}, ValueError, "units"),
        ({"units": True}, ValueError, "units"),
        ({"activation": "tan"}, ValueError, "activation: expected .*'tanh'.*got 'tan'"),
        ({"recurrent_activation": "step"}, ValueError, "recurrent_activation: expected .*'sigmoid'"),
        ({"activation": "softmax"}, ValueError, "activation"),
        ({"dropout": 1.5}, ValueError, "dropout: expected a number from 0 to 1, got 1.5"),
        ({"dropout": np.nan}, ValueError, "dropout"),
        ({"dropout": "half"}, ValueError, "dropout"),
        ({"recurrent_dropout": -0.1}, ValueError, "recurrent_dropout"),
        ({"kernel_regularizer": "l3"}, ValueError, "regularizer: expected one of"),
        ({"recurrent_constraint": object()}, TypeError, "constraint: expected"),
        ({"activity_regularizer": "l1"}, NotImplementedError, "activity_regularizer"),
        ({"use_cudnn": "maybe"}, ValueError, "use_cudnn"),
        ({"time_major": True}, ValueError, "time_major"),
        ({"unit": 3}, TypeError, "LSTM got unknown arguments: unit"),
        ({"kernel_initializer": "magic"}, ValueError, "initializer: expected one of"),
        ({"dropout": 0.5, "seed": "x"}, TypeError, "seed"),
    ],
)
def test_bad_constructor_arguments(options, error, words):
    with pytest.raises(error, match=words):
        layers.LSTM(**{"units": 3, **options})


GOOD = np.zeros((2, 3, FEATURES))
STATE = np.zeros((2, UNITS))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"x": np.zeros((2, FEATURES))}, ValueError, "x: expected 3 axes for layer 'mine' .LSTM., got shape"),
        ({"x": np.zeros((2, 3, 7))}, ValueError, "x: expected 3 features .*layer 'mine' .LSTM.* got shape"),
        ({"x": GOOD.astype(complex)}, TypeError, "x: expected real numbers, got dtype complex128"),
        ({"x": GOOD.astype(object)}, TypeError, "x: expected an array of numbers, got dtype object"),
        ({"x": GOOD.astype(str)}, TypeError, "x: expected real numbers"),
        ({"mask": np.ones((3, 2), bool)}, ValueError, r"mask: expected shape \(B, T\) = \(2, 3\), got \(3, 2\)"),
        ({"mask": np.ones((2, 3, 1), bool)}, ValueError, "mask: expected shape"),
        ({"mask": np.full((2, 3), 0.5)}, TypeError, "mask: expected bool .*got dtype float64"),
        ({"mask": np.full((2, 3), 2)}, ValueError, "mask: expected bool, or 0 and 1 alone as integers"),
        ({"mask": [["a"] * 3] * 2}, TypeError, "mask"),
        ({"initial_state": (STATE,)}, ValueError, r"initial_state: expected 2 arrays \(h, c\)"),
        ({"initial_state": STATE}, ValueError, "initial_state: expected 2 arrays"),
        ({"initial_state": 3}, ValueError, "initial_state: expected 2 arrays"),
        ({"initial_state": np.array(3.0)}, ValueError, "initial_state: expected 2 arrays"),
        ({"initial_state": (STATE, STATE[:1])}, ValueError, r"initial_state c: expected shape \(2, 2\), got \(1, 2\)"),
        ({"initial_state": (STATE, STATE * 1j)}, TypeError, "initial_state: expected real numbers"),
    ],
)
@pytest.mark.parametrize("method", ["__call__", "vjp"])
def test_bad_call_arguments(method, arguments, error, words):
    layer = layers.LSTM(UNITS, name="mine")
    layer.build((None, None, FEATURES))
    with pytest.raises(error, match=words):
        getattr(layer, method)(**{"x": GOOD, **arguments})


def test_mask_beside_a_packed_batch():
    with pytest.raises(ValueError, match="mask: expected None with a PackedSequence"):
        make()(PackedSequence.from_padded(GOOD), np.ones((2, 3), bool))


@pytest.mark.parametrize("mask", [[[1, 0, 1], [1, 1, 0]], np.array([[1, 0, 1], [1, 1, 0]], np.uint8)])
def test_integer_masks(mask):
    layer = make()
    x = normal(2, 3, FEATURES)
    np.testing.assert_array_equal(layer(x, mask), layer(x, np.array(mask, bool)))


@pytest.mark.parametrize("kind", ["simple_rnn", "gru"])
def test_single_state_needs_no_tuple(kind):
    x, _ = inputs()
    layer = make(kind)
    (state,) = states_for(layer)
    np.testing.assert_array_equal(layer(x, initial_state=state), layer(x, initial_state=[state]))
    pullback = layer.vjp(x, initial_state=state)[1]
    assert pullback(np.ones((BATCH, UNITS))).initial_state[0].shape == (BATCH, UNITS)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int64", "uint8", "bool"])
def test_real_inputs_are_cast(dtype):
    layer = layers.LSTM(UNITS)
    x = (normal(BATCH, TIME, FEATURES) > 0).astype(dtype)
    y, pullback = layer.vjp(x)
    assert y.dtype == np.float32
    assert pullback(np.ones((BATCH, UNITS))).inputs.dtype == np.float32
    packed = PackedSequence.from_padded(x, make_mask("right", BATCH, TIME))
    assert layer(packed).dtype == np.float32


@pytest.mark.parametrize(
    ("dy", "words"),
    [
        (np.zeros((BATCH, UNITS)), "dy: expected a tuple of 3 gradients, got ndarray"),
        ((None, None), "dy: expected a tuple of 3"),
        ((np.zeros((1, UNITS)), None, None), r"dy\[0\]: expected shape \(3, 2\), got \(1, 2\)"),
    ],
)
def test_bad_cotangents(dy, words):
    _, pullback = make(return_state=True).vjp(inputs()[0])
    with pytest.raises(ValueError, match=words):
        pullback(dy)


def test_missing_cotangents_are_zeros():
    x, mask = inputs()
    layer = make(return_state=True, return_sequences=True)
    zeros = (np.zeros((BATCH, TIME, UNITS)), np.zeros((BATCH, UNITS)), np.zeros((BATCH, UNITS)))
    d_c = normal(BATCH, UNITS)
    first = layer.vjp(x, mask)[1]((None, None, d_c))
    second = layer.vjp(x, mask)[1]((*zeros[:2], d_c))
    np.testing.assert_equal(first, second)
    for gradient in layer.vjp(x, mask)[1]((None, None, None)).weights:
        np.testing.assert_array_equal(gradient, 0)


def test_output_shapes():
    layer = layers.LSTM(5, return_sequences=True, return_state=True)
    layer.build((None, 7, 3))
    assert layer.output_shape == ((None, 7, 5), (None, 5), (None, 5))
    assert layers.GRU(5).compute_output_shape((2, None, 3)) == (2, 5)


@pytest.mark.parametrize("cls", [layers.SimpleRNN, layers.LSTM, layers.GRU])
def test_masks_of_outputs(cls):
    mask = np.ones((2, 3), bool)
    assert cls(2).compute_mask(GOOD, mask) is None
    assert not cls(2).passes_mask
    assert cls(2, return_sequences=True).compute_mask(GOOD, mask) is mask
    assert cls(2, return_sequences=True).passes_mask


def test_activations_are_those_of_ops():
    for name in ops.RECURRENT_ACTIVATIONS:
        assert layers.GRU(2, activation=name, recurrent_activation=name).activation == name
    assert layers.GRU(2, activation=None).activation == "linear"


@pytest.mark.parametrize("options", [{"kind": "gru", "reset_after": False}, {"kind": "gru"}, {"kind": "lstm"}], ids=str)
def test_states_may_lie_anywhere_in_memory(options):
    layer = make(**options)
    x, states = inputs()[0], states_for(layer)
    turned = tuple(np.asfortranarray(state) for state in states)
    np.testing.assert_array_equal(layer(x, initial_state=states), layer(x, initial_state=turned))
