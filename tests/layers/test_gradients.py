"""Every layer's pullback against central differences: all masks, padded and packed."""

import numpy as np
import pytest
from helpers.layers import BATCH, FEATURES, TIME, UNITS, assert_layer_gradients, normal, outputs_of
from helpers.masks import MASK_KINDS, make_mask

from fastmask import PackedSequence, layers

RECURRENT = {
    "simple_rnn": (layers.SimpleRNN, {}),
    "lstm": (layers.LSTM, {}),
    "gru": (layers.GRU, {}),
    "gru_reset_before": (layers.GRU, {"reset_after": False}),
}


def make(kind, **options):
    """A recurrent layer in float64."""
    cls, own = RECURRENT[kind]
    return cls(UNITS, dtype="float64", **own, **options)


def states_for(layer, count=None):
    count = len(layer.state_names) if count is None else count
    return tuple(normal(BATCH, UNITS, seed=10 + i) for i in range(count))


def make_input(mask_kind, packed, *token):
    """A random batch and its mask, packed together if asked for."""
    x, mask = normal(BATCH, TIME, *token), make_mask(mask_kind, BATCH, TIME)
    return (PackedSequence.from_padded(x, mask), None) if packed else (x, mask)


def with_index(packing, *token):
    """A packed batch that stores five rows, of which one does not occur."""
    index = np.random.default_rng(3).integers(0, 4, packing.tokens)
    return PackedSequence(normal(5, *token), packing, index)


@pytest.fixture(params=["padded", "packed"])
def packed(request):
    return request.param == "packed"


@pytest.mark.parametrize("mask", MASK_KINDS)
@pytest.mark.parametrize("kind", RECURRENT)
class TestRecurrent:
    def test_sequence_and_states(self, kind, mask, packed):
        x, mask = make_input(mask, packed, FEATURES)
        layer = make(kind, return_sequences=True, return_state=True)
        assert_layer_gradients(layer, x, mask, states_for(layer))

    def test_last_output_and_states_backwards(self, kind, mask, packed):
        x, mask = make_input(mask, packed, FEATURES)
        layer = make(kind, return_state=True, go_backwards=True, use_bias=False)
        assert_layer_gradients(layer, x, mask, states_for(layer))


@pytest.mark.parametrize("mask", MASK_KINDS)
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("go_backwards", [False, True])
def test_without_states(mask, return_sequences, go_backwards, packed):
    x, mask = make_input(mask, packed, FEATURES)
    options = {"return_sequences": return_sequences, "go_backwards": go_backwards}
    assert_layer_gradients(make("simple_rnn", **options), x, mask)


@pytest.mark.parametrize("mask", MASK_KINDS)
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("go_backwards", [False, True])
def test_zero_output_for_mask(mask, return_sequences, go_backwards, packed):
    x, mask = make_input(mask, packed, FEATURES)
    options = {"return_sequences": return_sequences, "go_backwards": go_backwards}
    layer = make("simple_rnn", zero_output_for_mask=True, **options)
    assert_layer_gradients(layer, x, mask, states_for(layer))


@pytest.mark.parametrize("rates", [(0.4, 0.0), (0.0, 0.4), (0.4, 0.4)])
@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_dropout(kind, rates, packed):
    x, mask = make_input("holes", packed, FEATURES)
    layer = make(kind, dropout=rates[0], recurrent_dropout=rates[1], seed=1, return_sequences=True)
    assert_layer_gradients(layer, x, mask, states_for(layer), training=True)


@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_over_repeated_tokens(kind):
    plan = PackedSequence.from_padded(*make_input("holes", False, 1)).packing
    assert_layer_gradients(make(kind, return_sequences=True), with_index(plan, FEATURES))


@pytest.mark.parametrize("mask", MASK_KINDS)
@pytest.mark.parametrize("mode", ["concat", "sum", "mul", "ave", None])
@pytest.mark.parametrize("return_sequences", [False, True])
def test_bidirectional(mask, mode, return_sequences, packed):
    x, mask = make_input(mask, packed, FEATURES)
    inner = make("simple_rnn", return_sequences=return_sequences)
    assert_layer_gradients(layers.Bidirectional(inner, mode), x, mask)


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize(("return_sequences", "mode"), [(True, "concat"), (False, None)])
def test_bidirectional_with_states_and_dropout(kind, return_sequences, mode, packed):
    x, mask = make_input("empty_row", packed, FEATURES)
    options = {"dropout": 0.3, "recurrent_dropout": 0.3, "seed": 2}
    inner = make(kind, return_sequences=return_sequences, return_state=True, **options)
    states = states_for(inner, 2 * len(inner.state_names))
    assert_layer_gradients(layers.Bidirectional(inner, mode), x, mask, states, training=True)


@pytest.mark.parametrize("activation", ["linear", "softmax", "gelu"])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("mask", MASK_KINDS)
def test_dense(activation, use_bias, mask, packed):
    x, mask = make_input(mask, packed, FEATURES)
    layer = layers.Dense(UNITS, activation, use_bias, dtype="float64")
    assert_layer_gradients(layer, x, mask)


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 2, 3), (0, 3)])
def test_dense_on_any_rank(shape):
    assert_layer_gradients(layers.Dense(UNITS, "tanh", dtype="float64"), normal(*shape))


ROW_LAYERS = {
    "dense": lambda: layers.Dense(UNITS, "sigmoid", dtype="float64"),
    "activation": lambda: layers.Activation("tanh", dtype="float64"),
    "softmax": lambda: layers.Activation("softmax", dtype="float64"),
    "dropout": lambda: layers.Dropout(0.4, seed=5, dtype="float64"),
    "spatial_dropout": lambda: layers.Dropout(0.4, (None, 1, None), seed=5, dtype="float64"),
    "time_distributed": lambda: layers.TimeDistributed(layers.Dense(UNITS, dtype="float64")),
    "time_distributed_dropout": lambda: layers.TimeDistributed(layers.Dropout(0.4, seed=5, dtype="float64")),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mask", MASK_KINDS)
@pytest.mark.parametrize("name", ROW_LAYERS)
def test_row_layers(name, mask, training, packed):
    x, mask = make_input(mask, packed, FEATURES)
    assert_layer_gradients(ROW_LAYERS[name](), x, mask, training=training)


@pytest.mark.parametrize("name", ROW_LAYERS)
def test_row_layers_over_repeated_tokens(name):
    plan = PackedSequence.from_padded(*make_input("holes", False, 1)).packing
    assert_layer_gradients(ROW_LAYERS[name](), with_index(plan, FEATURES), training=True)


def test_time_distributed_layers_with_steps_of_their_own(packed):
    x, mask = make_input("holes", packed, 2, FEATURES)
    assert_layer_gradients(layers.TimeDistributed(make("gru")), x, mask)
    assert_layer_gradients(layers.TimeDistributed(layers.Flatten(dtype="float64")), x, mask)


def test_flatten():
    x = normal(BATCH, TIME, FEATURES)
    assert_layer_gradients(layers.Flatten(dtype="float64"), x)
    assert_layer_gradients(layers.Flatten(dtype="float64"), PackedSequence.from_padded(x))


@pytest.mark.parametrize("mask_zero", [False, True])
def test_embedding(mask_zero, packed):
    ids = np.random.default_rng(0).integers(0, 5, (BATCH, TIME))
    layer = layers.Embedding(6, UNITS, mask_zero=mask_zero, dtype="float64")
    assert_layer_gradients(layer, layer.pack_input(ids) if packed else ids)


@pytest.mark.parametrize("shape", [(7,), (2, 3, 2)])
def test_embedding_on_any_rank(shape):
    ids = np.random.default_rng(0).integers(0, 5, shape)
    assert_layer_gradients(layers.Embedding(6, UNITS, dtype="float64"), ids)


def masked_steps():
    x = normal(BATCH, TIME, FEATURES)
    x[0, 1] = x[2, 0] = x[2, 3] = 0.5
    return x


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_masking(value):
    layer = layers.Masking(value, dtype="float64")
    x = masked_steps()
    kept = (x != value).any(axis=-1, keepdims=True)
    for source in (x, layer.pack_input(x), PackedSequence.from_padded(x)):
        y, pullback = layer.vjp(source)
        dy = normal(*outputs_of(y)[0].shape, seed=9)
        gradient = pullback(dy).inputs
        if isinstance(y, PackedSequence):
            dy = PackedSequence(dy, y.packing).pad()
            gradient = PackedSequence(gradient, source.packing).pad()
        np.testing.assert_array_equal(gradient, np.where(kept, dy, 0))
