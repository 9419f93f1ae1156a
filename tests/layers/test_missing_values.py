"""NaN for missing readings: `Masking(nan)` masks the steps of which every feature is missing."""

import json

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers

NAN = float("nan")
ROWS, STEPS, FEATURES = 4, 6, 3


def batch():
    x = np.random.default_rng(0).normal(size=(ROWS, STEPS, FEATURES)).astype("float32")
    x[0, 2] = x[1, 3:] = x[2] = NAN
    return x


def sequential():
    return fm.Sequential([fm.Input((None, FEATURES)), layers.Masking(NAN), layers.LSTM(4), layers.Dense(1)])


def functional():
    inputs = fm.Input((None, FEATURES))
    masking = layers.Masking(NAN)
    x = layers.LSTM(4, return_sequences=True)(masking(inputs))
    return fm.Model(inputs, layers.Dense(1)(layers.LSTM(3)(x, mask=masking.compute_mask(inputs))))


@pytest.fixture(params=[sequential, functional])
def model(request):
    fm.utils.set_random_seed(1)
    return request.param()


def test_steps_without_a_reading_do_not_count(model):
    x = batch()
    kept = [row[~np.isnan(row).all(axis=1)] for row in x]
    outputs = model.predict(x)
    np.testing.assert_array_equal(model.predict(kept), outputs)
    np.testing.assert_array_equal(model.predict(list(x)), outputs)
    np.testing.assert_array_equal(model(x), outputs)


def test_training(model):
    x, y = batch(), np.ones((ROWS, 1))
    kept = [row[~np.isnan(row).all(axis=1)] for row in x]
    model.compile("sgd", "mse")
    gradients = [model.loss_and_gradients(data, y)[1] for data in (x, kept)]
    for padded, listed in zip(*gradients, strict=True):
        np.testing.assert_array_equal(padded, listed)
    model.fit(x, y, epochs=2, verbose=0)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_gradient_of_the_input():
    x, layer = batch(), layers.Masking(NAN)
    y, pullback = layer.vjp(x)
    mask = ~np.isnan(x).all(axis=2)
    np.testing.assert_array_equal(pullback(np.ones_like(y)).inputs, np.repeat(mask[..., None], FEATURES, axis=2))
    packed, pullback = layer.vjp(layer.pack_input(x))
    np.testing.assert_array_equal(pullback(np.ones_like(packed.values)).inputs, 1)


def test_one_feature_that_is_missing_masks_nothing():
    x = batch()
    x[3, 0, 1] = NAN
    assert layers.Masking(NAN).compute_mask(x)[3].all()


def test_files(model, tmp_path):
    x = batch()
    model.save(tmp_path / "model.keras")
    again = fm.models.load_model(tmp_path / "model.keras")
    assert [type(layer) for layer in again.layers] == [type(layer) for layer in model.layers]
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    from_json = type(model).from_config(json.loads(json.dumps(model.get_config())))
    from_json.set_weights(model.get_weights())
    np.testing.assert_array_equal(from_json.predict(x), model.predict(x))
