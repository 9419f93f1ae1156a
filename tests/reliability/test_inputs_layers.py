"""Bad input for layers: an answer or a documented exception, and the layer works on."""

import numpy as np
import pytest
from helpers.layers import outputs_of, randomize
from helpers.numeric import assert_same_bits
from hypothesis import given, note
from hypothesis import strategies as st

from fastmask import PackedSequence, layers

from .arrays import DAMAGES, LAYOUTS, damaged, relaid
from .calls import DOCUMENTED, assert_names_an_argument, examples

MAKERS = {
    "Embedding": lambda: layers.Embedding(5, 3, mask_zero=True),
    "Masking": lambda: layers.Masking(),
    "SimpleRNN": lambda: layers.SimpleRNN(2, return_sequences=True, return_state=True),
    "LSTM": lambda: layers.LSTM(3, go_backwards=True, return_state=True),
    "GRU": lambda: layers.GRU(2, dropout=0.3, recurrent_dropout=0.2, return_sequences=True),
    "stateful": lambda: layers.GRU(2, stateful=True),
    "Bidirectional": lambda: layers.Bidirectional(layers.LSTM(2, return_sequences=True)),
    "TimeDistributed": lambda: layers.TimeDistributed(layers.Dense(2)),
    "Dense": lambda: layers.Dense(3, activation="tanh"),
    "Activation": lambda: layers.Activation("softmax"),
    "Dropout": lambda: layers.Dropout(0.4),
    "SpatialDropout1D": lambda: layers.SpatialDropout1D(0.4),
    "Flatten": lambda: layers.Flatten(),
    "Reshape": lambda: layers.Reshape((-1, 2)),
    "RepeatVector": lambda: layers.RepeatVector(2),
    "BatchNormalization": lambda: layers.BatchNormalization(),
    "LayerNormalization": lambda: layers.LayerNormalization(),
    "GlobalAveragePooling1D": lambda: layers.GlobalAveragePooling1D(),
    "GlobalMaxPooling1D": lambda: layers.GlobalMaxPooling1D(),
    "Attention": lambda: layers.Attention(use_scale=True),
    "Concatenate": lambda: layers.Concatenate(),
    "Multiply": lambda: layers.Multiply(),
    "Dot": lambda: layers.Dot(axes=2),
}
TWO_INPUTS = ("Attention", "Concatenate", "Multiply", "Dot")
MASKABLE = ("Embedding", "Masking", "SimpleRNN", "LSTM", "GRU", "Bidirectional", "TimeDistributed", "Dense")
WORDS = (
    "x", "mask", "initial_state", "training", "inputs", "dy", "weights", "values", "index", "axes", "ids", "y", "gamma",
    "target_shape",
)  # fmt: skip


def good_input(name, rng):
    """An input that the layer takes."""
    if name == "Embedding":
        return rng.integers(0, 5, (3, 4))
    if name == "RepeatVector":
        return rng.standard_normal((3, 4)).astype(np.float32)
    shape = (3, 4, 2)
    arrays = tuple(rng.standard_normal(shape).astype(np.float32) for _ in range(2 if name in TWO_INPUTS else 1))
    return list(arrays) if len(arrays) > 1 else arrays[0]


def answers(layer, x, **keywords):
    return [np.array(y) for y in outputs_of(layer(x, **keywords))]


def ready(name, rng):
    """A built layer with ordinary weights."""
    layer = MAKERS[name]()
    layer(good_input(name, rng))
    if layer.weights and name != "BatchNormalization":
        randomize(layer)
    return layer


@pytest.mark.parametrize("name", MAKERS)
@examples(12)
@given(st.data())
def test_any_memory(name, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 100)))
    layer, x = ready(name, rng), good_input(name, rng)
    layout = data.draw(st.sampled_from(LAYOUTS))
    other = [relaid(a, layout) for a in x] if isinstance(x, list) else relaid(x, layout)
    expected = answers(layer, x)
    if name == "stateful":
        layer.reset_states()
        expected = answers(layer, x)
        layer.reset_states()
    for actual, wanted in zip(answers(layer, other), expected, strict=True):
        assert_same_bits(actual, wanted)


@pytest.mark.parametrize("name", MAKERS)
@examples(40)
@given(st.data())
def test_answer_or_exception(name, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 100)))
    layer, x = ready(name, rng), good_input(name, rng)
    keywords = {}
    if name in MASKABLE and data.draw(st.booleans()):
        keywords["mask"] = rng.random((3, 4)) < 0.6
    if name in ("SimpleRNN", "GRU", "LSTM") and data.draw(st.booleans()):
        states = 2 if name == "LSTM" else 1
        keywords["initial_state"] = tuple(np.ones((3, layer.units), np.float32) for _ in range(states))
    targets = data.draw(st.lists(st.sampled_from(["x", *keywords]), min_size=1, max_size=2, unique=True))
    bad, bad_x = dict(keywords), x
    for target in targets:
        kind = data.draw(st.sampled_from(DAMAGES))
        if target != "x":
            bad[target] = damage(data, bad[target], kind)
        else:
            bad_x = damage(data, x, kind)
    note(f"x: {bad_x}, {bad}")
    call(layer, bad_x, bad)
    if name not in ("stateful", "BatchNormalization"):
        expected = answers(ready(name, np.random.default_rng(0)), x)
        assert [y.shape for y in answers(layer, x)] == [y.shape for y in expected]


def damage(data, value, kind):
    """Damage an array, or an entry of a tuple or list of arrays."""
    if isinstance(value, np.ndarray):
        return damaged(data, value, kind)
    i = data.draw(st.integers(-1, len(value) - 1))
    if i < 0:
        return data.draw(st.sampled_from([value[:-1], (*value, *value), *damaged_objects(data)]))
    parts = [damaged(data, v, kind) if n == i else v for n, v in enumerate(value)]
    return type(value)(parts)


def damaged_objects(data):
    return [damaged(data, np.zeros(1), "object")]


def call(layer, x, keywords):
    """A call and its pullback."""
    with np.errstate(all="ignore"):
        try:
            y, pullback = layer.vjp(x, training=True, **keywords)
        except DOCUMENTED as error:
            assert_names_an_argument(error, WORDS)
            return
        dy = tuple(outputs_of(y)) if isinstance(y, tuple) else outputs_of(y)[0]
        pullback(dy)


@pytest.mark.parametrize("name", MAKERS)
@examples(15)
@given(st.data())
def test_bad_gradients(name, data):
    rng = np.random.default_rng(0)
    layer, x = ready(name, rng), good_input(name, rng)
    y, pullback = layer.vjp(x)
    dy = [damaged(data, part, data.draw(st.sampled_from(DAMAGES))) for part in outputs_of(y)]
    with np.errstate(all="ignore"):
        try:
            pullback(tuple(dy) if isinstance(y, tuple) else dy[0])
        except DOCUMENTED as error:
            assert_names_an_argument(error, [*WORDS, "d"])


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in TWO_INPUTS])
@examples(15)
@given(st.data())
def test_packed_input(name, data):
    """A packed sequence of the wrong kind is an exception, one of the right kind is not."""
    rng = np.random.default_rng(data.draw(st.integers(0, 100)))
    layer, x = ready(name, rng), good_input(name, rng)
    values = damaged(data, x, data.draw(st.sampled_from(DAMAGES)))
    try:
        packed = PackedSequence.from_padded(values, rng.random(np.shape(values)[:2]) < 0.7)
    except DOCUMENTED:
        return
    call(layer, packed, {})


@pytest.mark.parametrize("name", [name for name, make in MAKERS.items() if make().get_config()])
@examples(15)
@given(st.data())
def test_set_weights(name, data):
    """Refused weights change nothing."""
    layer = ready(name, np.random.default_rng(0))
    before = layer.get_weights()
    weights = [damaged(data, w, data.draw(st.sampled_from(DAMAGES))) for w in before]
    weights = data.draw(st.sampled_from([weights, weights[:-1], [*weights, 1.0]]))
    try:
        with np.errstate(all="ignore"):
            layer.set_weights(weights)
    except DOCUMENTED:
        for actual, expected in zip(layer.get_weights(), before, strict=True):
            assert_same_bits(actual, expected)
