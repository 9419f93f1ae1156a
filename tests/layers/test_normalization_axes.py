"""Normalization along other axes than that of the features."""

import numpy as np
import pytest
from helpers.layers import normal
from helpers.masks import make_mask
from helpers.merging import assert_gradients

import fastmask as fm
from fastmask import PackedSequence, layers, ops, reference

BATCH, TIME, ROWS, FEATURES = 4, 5, 3, 2


def layer_norm(**options):
    return layers.LayerNormalization(dtype="float64", **options)


def batch_norm(**options):
    return layers.BatchNormalization(dtype="float64", **options)


@pytest.mark.parametrize("axis", [1, [1, 2], [2, 1], [3, 1], -3, (-1, -2)])
@pytest.mark.parametrize("rms_scaling", [False, True])
def test_layer_normalization_is_that_of_the_reference(axis, rms_scaling):
    x = normal(BATCH, TIME, ROWS, FEATURES)
    layer = layer_norm(axis=axis, rms_scaling=rms_scaling)
    layer.build((None, *x.shape[1:]))
    layer.set_weights([normal(*w.shape, seed=i) for i, w in enumerate(layer.weights)])
    expected = reference.layer_normalization(x, *layer.get_weights(), axis=axis, rms_scaling=rms_scaling)
    np.testing.assert_allclose(layer(x), expected, atol=1e-12)


@pytest.mark.parametrize("axis", [1, [1, 3], [2, 3], -2])
@pytest.mark.parametrize("rms_scaling", [False, True])
def test_gradients_of_layer_normalization(axis, rms_scaling):
    layer = layer_norm(axis=axis, rms_scaling=rms_scaling)
    layer.build((None, TIME, ROWS, FEATURES))
    assert_gradients(layer, normal(BATCH, TIME, ROWS, FEATURES))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layer", [layer_norm(axis=2), layer_norm(axis=[2, 3], rms_scaling=True), batch_norm(axis=2)])
def test_gradients_under_a_mask_of_other_axes(layer, packed):
    x, mask = normal(BATCH, TIME, ROWS, FEATURES), make_mask("holes", BATCH, TIME)
    x, mask = (PackedSequence.from_padded(x, mask), None) if packed else (x, mask)
    assert_gradients(layer, x, mask, training=True, prepare=lambda _: None)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("axis", [1, 2, -2])
def test_gradients_of_batch_normalization(axis, training):
    layer = batch_norm(axis=axis)
    layer.build((None, TIME, ROWS, FEATURES))
    assert_gradients(layer, normal(BATCH, TIME, ROWS, FEATURES), training=training, prepare=lambda _: None)


@pytest.mark.parametrize("make", [layer_norm, batch_norm])
def test_a_packed_batch_without_padding(make):
    x, layer = normal(BATCH, TIME, FEATURES), make(axis=1)
    layer.build((None, TIME, FEATURES))
    packed = PackedSequence.from_padded(x)
    y, pullback = layer.vjp(x, training=True)
    found, packed_pullback = layer.vjp(packed, training=True)
    np.testing.assert_array_equal(found.pad(), y)
    gradients, dy = packed_pullback(np.cos(found.values)), np.cos(y)
    expected = pullback(dy)
    rows = expected.inputs.reshape(-1, FEATURES)[packed.packing.positions]
    np.testing.assert_allclose(gradients.inputs, rows, atol=1e-12)
    trained = len(layer.trainable_weights)
    for own, wanted in zip(gradients.weights[:trained], expected.weights, strict=False):
        np.testing.assert_allclose(own, wanted, atol=1e-12)


@pytest.mark.parametrize("make", [layer_norm, batch_norm])
class TestMasksAlongTheAxis:
    def test_a_graph_is_refused_when_it_is_built(self, make):
        x = layers.Masking()(fm.Input((TIME, FEATURES), dtype="float64"))
        with pytest.raises(TypeError, match=r"axis: expected axes behind those of the mask .* got 1; drop the mask"):
            make(axis=1)(x)

    def test_a_sequential_model_is_refused_when_it_is_built(self, make):
        model = fm.Sequential([layers.Masking(dtype="float64"), make(axis=1)])
        with pytest.raises(TypeError, match="drop the mask with DropMask"):
            model.build((None, TIME, FEATURES))

    @pytest.mark.parametrize("packed", [False, True])
    def test_a_call_is_refused(self, make, packed):
        x, mask, layer = normal(BATCH, TIME, FEATURES), make_mask("holes", BATCH, TIME), make(axis=1)
        layer.build((None, TIME, FEATURES))
        with pytest.raises(TypeError, match="drop the mask with DropMask"):
            layer(PackedSequence.from_padded(x, mask)) if packed else layer(x, mask)

    def test_without_its_mask_the_input_is_taken(self, make):
        x, mask = normal(BATCH, TIME, FEATURES), make_mask("right", BATCH, TIME)
        tensor = fm.Input((TIME, FEATURES), dtype="float64")
        masked = layers.Masking(dtype="float64")(tensor)
        model = fm.Model(tensor, make(axis=1)(layers.DropMask(dtype="float64")(masked)))
        x = np.where(mask[..., None], x, 0)
        np.testing.assert_array_equal(model.predict(x), make(axis=1)(x))


@pytest.mark.parametrize("make", [layer_norm, batch_norm])
@pytest.mark.parametrize("axis", [0, 3, -4, -3])
def test_axes_that_are_refused(make, axis):
    with pytest.raises(ValueError, match="axis: expected different axes behind that of the batch"):
        make(axis=axis).build((None, TIME, FEATURES))


@pytest.mark.parametrize("axis", [[], [1, 1], [1, -2], [-1, 1]])
def test_lists_of_axes_that_are_refused(axis):
    with pytest.raises(ValueError, match="axis: expected different axes behind that of the batch"):
        layer_norm(axis=axis).build((None, TIME, FEATURES))
    if len(axis) != len({*axis}) or not axis:
        with pytest.raises(ValueError, match="axis: expected different axes among the 3 of x"):
            ops.layer_normalization(normal(2, 3, 4), axis=axis)


@pytest.mark.parametrize("make", [layer_norm, batch_norm])
def test_lengths_of_the_axes_are_held(make):
    with pytest.raises(ValueError, match="input_shape: expected known lengths"):
        make(axis=1).build((None, None, FEATURES))
    layer = make(axis=1)
    layer.build((None, TIME, FEATURES))
    for shape in ((BATCH, TIME + 1, FEATURES), (BATCH, TIME)):
        with pytest.raises(ValueError, match=r"x: expected shape \(None, 5, 2\)"):
            layer(normal(*shape))


def test_weights_are_those_of_keras():
    layer = layer_norm(axis=[2, 1])
    layer.build((None, TIME, FEATURES))
    assert [(w.name, w.shape) for w in layer.weights] == [("gamma", (TIME, FEATURES)), ("beta", (TIME, FEATURES))]
    layer = layer_norm(rms_scaling=True, scale=False)
    layer.build((None, TIME, FEATURES))
    assert [(w.name, w.shape) for w in layer.weights] == [("gamma", (FEATURES,))]


@pytest.mark.parametrize("make", [layer_norm, batch_norm])
@pytest.mark.parametrize("shape", [(0, TIME, FEATURES), (BATCH, TIME, 0)])
def test_nothing_to_normalize(make, shape):
    layer = make(axis=1)
    layer.build((None, *shape[1:]))
    y, pullback = layer.vjp(normal(*shape), training=True)
    assert y.shape == pullback(np.ones(shape)).inputs.shape == shape


@pytest.mark.parametrize("axis", [2, -1])
def test_no_tokens_move_no_statistics(axis):
    layer = batch_norm(axis=axis)
    x = PackedSequence.from_padded(normal(BATCH, TIME, ROWS, FEATURES), np.zeros((BATCH, TIME), bool))
    layer(x, training=True)
    assert not layer.moving_mean.value.any()
    assert (layer.moving_variance.value == 1).all()


@pytest.mark.parametrize("masked", [False, True])
def test_steps_of_a_time_distributed_layer(masked):
    x, mask = normal(BATCH, TIME, ROWS, FEATURES), make_mask("holes", BATCH, TIME) if masked else None
    layer = layers.TimeDistributed(layer_norm(axis=1))
    y = layer(x, mask)
    expected = layer_norm(axis=2)(x)
    seen = slice(None) if mask is None else mask
    np.testing.assert_allclose(y[seen], expected[seen], atol=1e-12)
