"""LayerNormalization and BatchNormalization: gradients under every mask, statistics, arguments."""

import numpy as np
import pytest
from helpers.layers import BATCH, FEATURES, TIME, normal, randomize
from helpers.masks import MASK_KINDS, make_mask
from helpers.merging import assert_gradients

from fastmask import PackedSequence, layers


def make_input(kind, packed):
    x, mask = normal(BATCH, TIME, FEATURES), make_mask(kind, BATCH, TIME)
    return (PackedSequence.from_padded(x, mask), None) if packed else (x, mask)


def positive_variance(layer):
    """Weights of ordinary size, but for a variance above zero."""
    randomize(layer)
    if isinstance(layer, layers.BatchNormalization):
        layer.moving_variance.assign(np.abs(layer.moving_variance.value) + 0.5)


LAYERS = {
    "layer": lambda **k: layers.LayerNormalization(dtype="float64", **k),
    "batch": lambda **k: layers.BatchNormalization(dtype="float64", **k),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mask", MASK_KINDS)
@pytest.mark.parametrize("name", LAYERS)
def test_gradients(name, mask, training, packed):
    x, mask = make_input(mask, packed)
    assert_gradients(LAYERS[name](), x, mask, training=training, prepare=positive_variance)


@pytest.mark.parametrize("options", [{"center": False}, {"scale": False}, {"center": False, "scale": False}])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_parts(name, options):
    x, _ = make_input("holes", True)
    assert_gradients(LAYERS[name](**options), x, training=True, prepare=positive_variance)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_repeated_tokens(name, training):
    plan = make_input("holes", True)[0].packing
    index = np.random.default_rng(3).integers(0, 4, plan.tokens)
    x = PackedSequence(normal(5, FEATURES), plan, index)
    layer = LAYERS[name]()
    assert_gradients(layer, x, training=training, prepare=positive_variance)
    np.testing.assert_allclose(layer(x, training=training).data, layer(x.expand(), training=training).data)


@pytest.mark.parametrize("name", LAYERS)
def test_padded_as_packed(name):
    x, mask = make_input("holes", False)
    poisoned = np.where(mask[..., None], x, np.nan)
    layer = LAYERS[name]()
    packed = layer(PackedSequence.from_padded(x, mask), training=True)
    np.testing.assert_array_equal(layer(poisoned, mask, training=True), packed.pad())


def test_moving_statistics_are_of_valid_tokens():
    x, mask = make_input("holes", False)
    layer = layers.BatchNormalization(momentum=0.75, dtype="float64")
    layer(np.where(mask[..., None], x, np.nan), mask, training=True)
    tokens = x[mask]
    np.testing.assert_allclose(layer.moving_mean.value, 0.25 * tokens.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance.value, 0.75 + 0.25 * tokens.var(axis=0), rtol=1e-6)
    kept = layer.get_weights()
    layer(x, mask)
    layer.trainable = False
    layer(x, mask, training=True)
    for before, after in zip(kept, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_trainable_weights():
    layer = layers.BatchNormalization()
    layer.build((None, 3))
    assert [w.name for w in layer.weights] == ["gamma", "beta", "moving_mean", "moving_variance"]
    assert [w.name for w in layer.trainable_weights] == ["gamma", "beta"]
    assert [w.name for w in layer.non_trainable_weights] == ["moving_mean", "moving_variance"]


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 2, 3), (0, 3), (0, 4, 3), (3, 0, 3)])
@pytest.mark.parametrize("name", LAYERS)
def test_any_rank_and_no_rows(name, shape):
    layer = LAYERS[name]()
    layer.build((None, FEATURES))
    before = layer.get_weights()
    y, pullback = layer.vjp(normal(*shape), training=True)
    assert y.shape == shape
    assert pullback(np.ones(shape)).inputs.shape == shape
    if 0 in shape:
        for old, new in zip(before, layer.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


def test_masks_are_passed_on():
    x, _ = make_input("left", True)
    for make in LAYERS.values():
        layer = make()
        assert layer.passes_mask
        assert layer(x).packing is x.packing


@pytest.mark.parametrize("name", LAYERS)
def test_bad_arguments(name):
    LAYERS[name](axis=2).build((None, 4, 3))
    layer = LAYERS[name]()
    layer.build((None, 3))
    with pytest.raises(ValueError, match="features"):
        layer(np.ones((2, 4)))
    with pytest.raises(ValueError, match="renorm"):
        layers.BatchNormalization(renorm=True)


@pytest.mark.parametrize("name", LAYERS)
def test_config_round_trip(name):
    layer = LAYERS[name](center=False, gamma_regularizer="l2", gamma_constraint="non_neg", epsilon=0.5)
    again = layers.deserialize(layers.serialize(layer))
    assert again.get_config() == layer.get_config()
    assert again.gamma_regularizer.l2 == 0.01
