"""Masks of more than two axes as Keras has them, and models with such masks carried from Keras and back."""

import numpy as np
import pytest

pytest.importorskip("keras", exc_type=ImportError)

import keras

import fastmask as fm

pytestmark = pytest.mark.filterwarnings("default")

RNG = np.random.default_rng(7)
IDS = RNG.integers(1, 10, (4, 3, 5))
IDS[0, 0, 2:] = IDS[2, 1, 0] = IDS[2, 1, 3] = 0
IDS[1, 2] = IDS[3, 1:] = 0
SOUNDS = (RNG.standard_normal((4, 3, 5, 2)) * (IDS > 0)[..., None]).astype("float32")
TAGS = RNG.integers(0, 3, IDS.shape)


def words(layers, make_input):
    x = make_input((3, 5), dtype="int32")
    return x, layers.Embedding(10, 4, mask_zero=True)(x)


def last(layers, make_input):
    x, e = words(layers, make_input)
    return x, layers.TimeDistributed(layers.Dense(3))(layers.TimeDistributed(layers.LSTM(4))(e))


def both_ways(layers, make_input):
    x, e = words(layers, make_input)
    e = layers.TimeDistributed(layers.Bidirectional(layers.GRU(4, return_sequences=True)))(layers.Dense(4)(e))
    return x, layers.TimeDistributed(layers.SimpleRNN(3))(e)


def tags(layers, make_input):
    x, e = words(layers, make_input)
    e = layers.BatchNormalization()(layers.TimeDistributed(layers.LSTM(4, return_sequences=True))(e))
    return x, layers.Dense(3, activation="softmax")(e)


def joined(layers, make_input):
    x, e = words(layers, make_input)
    other = layers.Embedding(10, 4, mask_zero=True)(x)
    run = layers.TimeDistributed(layers.LSTM(2, return_sequences=True))(e)
    e = layers.Concatenate()([layers.Add()([e, other]), run])
    parts = [layers.TimeDistributed(layers.GRU(3))(e), layers.TimeDistributed(layers.LSTM(2))(other)]
    return x, layers.TimeDistributed(layers.Dense(2))(layers.Concatenate()(parts))


def masking(layers, make_input):
    x = make_input((3, 5, 2))
    return x, layers.TimeDistributed(layers.LSTM(4))(layers.Masking()(x))


def hierarchy(layers, make_input):
    x, e = words(layers, make_input)
    return x, layers.Dense(2)(layers.GRU(3)(layers.TimeDistributed(layers.LSTM(4))(e)))


def within(layers, make_input):
    x = make_input((3, 5), dtype="int32")
    e = layers.TimeDistributed(layers.Embedding(10, 4, mask_zero=True))(x)
    return x, layers.GRU(3)(layers.TimeDistributed(layers.LSTM(4))(e))


AS_KERAS = [last, both_ways, tags, joined, masking]


def data(make):
    return SOUNDS if make is masking else IDS


def of_keras(make):
    keras.utils.set_random_seed(3)
    return keras.Model(*make(keras.layers, keras.Input))


@pytest.mark.parametrize("make", AS_KERAS)
def test_predictions_are_those_of_keras(make):
    model = of_keras(make)
    own = fm.Model(*make(fm.layers, fm.Input))
    own.set_weights(model.get_weights())
    found, expected = own.predict(data(make)), model.predict(data(make), verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("make", AS_KERAS)
def test_models_of_keras(make, tmp_path):
    model = of_keras(make)
    expected = model.predict(data(make), verbose=0)
    own = fm.Model.from_keras(model)
    np.testing.assert_allclose(own.predict(data(make)), expected, atol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = fm.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(data(make)), own.predict(data(make)))


@pytest.mark.parametrize("make", [*AS_KERAS, hierarchy, within])
def test_models_of_fastmask_in_keras(make):
    own = fm.Model(*make(fm.layers, fm.Input))
    there = own.to_keras()
    np.testing.assert_allclose(there.predict(data(make), verbose=0), own.predict(data(make)), atol=1e-6)
    back = fm.Model.from_keras(there)
    assert len(back.operations) == len(own.operations)
    np.testing.assert_array_equal(back.predict(data(make)), own.predict(data(make)))


@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_metrics_are_those_of_keras(weighted):
    model = of_keras(tags)
    own = fm.Model.from_keras(model)
    weights = RNG.random(IDS.shape).astype("float32") if weighted else None
    results = []
    for one in (model, own):
        one.compile("sgd", "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
        results.append(one.evaluate(IDS, TAGS, sample_weight=weights, batch_size=4, verbose=0))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5)


def test_a_mask_that_keras_would_drop_is_not_written():
    x = fm.Input((5,), dtype="int32")
    e = fm.layers.Embedding(10, 4, mask_zero=True)(x)
    inner = fm.Model(x, fm.layers.LSTM(4, return_sequences=True)(e))
    ids = fm.Input((3, 5), dtype="int32")
    model = fm.Model(ids, fm.layers.TimeDistributed(fm.layers.LSTM(4))(fm.layers.TimeDistributed(inner)(ids)))
    with pytest.raises(ValueError, match="which Keras drops"):
        model.to_keras()
