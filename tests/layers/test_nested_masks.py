"""What each layer makes of a mask of more than two axes, and the plans of such masks."""

import numpy as np
import pytest
from helpers.layers import assert_layer_gradients, normal, randomize
from helpers.merging import assert_gradients
from helpers.nested import (
    DOCUMENTS,
    IDS,
    INNER,
    RNG,
    SENTENCES,
    UNITS,
    VOCABULARY,
    WORDS,
    hierarchy,
    model_of,
)
from helpers.numeric import assert_gradient, assert_same_bits

import fastmask as fm
from fastmask import PackedSequence, Packing, layers, reference

pytestmark = pytest.mark.usefixtures("in_float64")


@pytest.mark.parametrize(
    "make",
    [
        *[lambda make=make: layers.TimeDistributed(make()) for make in INNER.values()],
        *[lambda make=make: layers.TimeDistributed(make(return_sequences=True)) for make in INNER.values()],
        lambda: layers.TimeDistributed(layers.GlobalAveragePooling1D()),
        lambda: layers.TimeDistributed(layers.Dense(2, activation="tanh")),
        lambda: layers.TimeDistributed(layers.TimeDistributed(layers.Dense(2))),
        lambda: layers.Dense(2, activation="tanh"),
        lambda: layers.LayerNormalization(),
        lambda: layers.Dropout(0.3, seed=1),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_gradients_of_layers(make, packed):
    x, mask = normal(*IDS.shape, 2), IDS > 0
    layer = make()
    if packed:
        return assert_layer_gradients(layer, PackedSequence.from_padded(x, mask), training=True)
    training = not isinstance(layer, layers.Dropout)
    return assert_layer_gradients(layer, x, mask, training=training)


def test_gradients_of_batch_normalization():
    assert_gradients(layers.BatchNormalization(), normal(*IDS.shape, 2), IDS > 0, training=True)


def test_masking_of_inputs_with_more_axes():
    features = normal(*IDS.shape, 2) * (IDS > 0)[..., None]
    x = fm.Input((SENTENCES, WORDS, 2))
    masked = randomize(fm.Model(x, hierarchy(layers.Masking()(x))))
    explicit = randomize(fm.Model(x, hierarchy(x)))
    assert layers.Masking().compute_mask(features).shape == IDS.shape
    np.testing.assert_allclose(masked.predict(features), explicit(features, mask=IDS > 0), atol=1e-12)
    rows = [row[:n] for row, n in zip(features, (3, 3, 2, 1), strict=True)]
    padded = np.stack([np.concatenate([row, np.zeros((3 - len(row), WORDS, 2))]) for row in rows])
    assert_same_bits(np.array(masked.predict(rows)), masked.predict(padded))


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Dense(2),
        layers.LayerNormalization,
        layers.BatchNormalization,
        lambda: layers.TimeDistributed(layers.LSTM(UNITS, return_sequences=True)),
        lambda: layers.TimeDistributed(layers.GlobalMaxPooling1D()),
    ],
)
def test_explicit_masks_of_calls(make):
    layer, x, mask = make(), normal(*IDS.shape, 2), IDS > 0
    y = layer(x, mask=mask)
    x[~mask] = np.nan
    found = layer(x, mask=mask)
    valid = mask if found.ndim == 4 else mask.any(axis=-1)
    assert_same_bits(found[valid], y[valid])
    packed = layer(PackedSequence.from_padded(x, mask))
    assert_same_bits(packed.pad()[valid], y[valid])


@pytest.mark.parametrize(
    "make",
    [
        layers.Flatten,
        lambda: layers.Reshape((-1, 3)),
        layers.GlobalAveragePooling1D,
        layers.GlobalMaxPooling1D,
        lambda: layers.LSTM(2),
        lambda: layers.Bidirectional(layers.GRU(2)),
        lambda: layers.SpatialDropout1D(0.1),
        lambda: layers.TimeDistributed(layers.Flatten()),
        lambda: lambda e: layers.Attention()([e, e]),
        lambda: lambda e: layers.Add()([e, fm.Input((WORDS, 3))]),
        lambda: lambda e: layers.Concatenate(axis=1)([e, e]),
        lambda: fm.Sequential([fm.Input((SENTENCES, WORDS, 3)), layers.Flatten()]),
        lambda: layers.TimeDistributed(fm.Sequential([fm.Input((WORDS, 3)), layers.Flatten()])),
    ],
)
def test_layers_that_cannot_take_it_refuse_it_when_the_model_is_built(make):
    e = layers.Embedding(VOCABULARY, 3, mask_zero=True)(fm.Input((SENTENCES, WORDS), dtype="int32"))
    with pytest.raises(TypeError, match="mask"):
        make()(e)


def test_masks_of_unlike_axes_are_not_merged():
    e = layers.Embedding(VOCABULARY, 3, mask_zero=True)(fm.Input((SENTENCES, WORDS), dtype="int32"))
    other = layers.Dense(3)(fm.Input((SENTENCES, WORDS, 3)), mask=fm.Input((SENTENCES,)))
    with pytest.raises(TypeError, match="mask: expected as many axes in all masks"):
        layers.Add()([e, other])
    x = normal(*IDS.shape, 2)
    packed = [PackedSequence.from_padded(x, mask) for mask in (IDS > 0, IDS[..., 0] > 0)]
    with pytest.raises(TypeError, match="mask: expected as many axes in all masks"):
        layers.Add()(packed)


@pytest.mark.parametrize(
    "make",
    [
        layers.Add,
        layers.Multiply,
        layers.Maximum,
        layers.Concatenate,
        lambda: layers.Concatenate(axis=2),
        lambda: layers.Concatenate(axis=-2),
    ],
)
@pytest.mark.parametrize("others", ["same", "other", "none"])
def test_merging_layers_merge_what_is_within_the_steps(make, others):
    layer = make()
    x, y = normal(*IDS.shape, 2), normal(*IDS.shape, 2, seed=1)
    mask = {"same": IDS > 0, "other": RNG.random(IDS.shape) < 0.6, "none": None}[others]
    first = PackedSequence.from_padded(x, IDS > 0)
    second = y if mask is None else PackedSequence.from_padded(y, mask)
    found = layer([first, second])
    rows = PackedSequence.from_padded(x.reshape(-1, WORDS, 2), (IDS > 0).reshape(-1, WORDS))
    flat = y.reshape(-1, WORDS, 2)
    flat = flat if mask is None else PackedSequence.from_padded(flat, mask.reshape(-1, WORDS))
    axis = getattr(layer, "axis", -1)
    joins = isinstance(layer, layers.Concatenate)
    twin = layers.Concatenate(1 if axis in (2, -2) else -1) if joins else type(layer)()
    expected = twin([rows, flat])
    assert_same_bits(found.pad().reshape(expected.shape), expected.pad())
    assert found.packing.masked == expected.packing.masked
    assert_same_bits(found.packing.mask.reshape(expected.packing.mask.shape), expected.packing.mask)
    dy = normal(*found.values.shape)
    gradients, wanted = layer.vjp([first, second])[1](dy).inputs, twin.vjp([rows, flat])[1](dy).inputs
    for a, b in zip(gradients, wanted, strict=True):
        a, b = (getattr(d, "values", d) for d in (a, b))
        np.testing.assert_array_equal(a.reshape(b.shape), b)


def test_dropped_masks_show_what_keras_shows():
    model = model_of(lambda e: layers.Flatten()(layers.DropMask()(e)))
    table = model.layers[1].embeddings.numpy()
    np.testing.assert_array_equal(model.predict(IDS), table[IDS].reshape(DOCUMENTS, -1))


def test_dropout_with_a_noise_shape():
    layer = layers.Dropout(0.5, noise_shape=(None, 1, None, 1), seed=3, dtype="float64")
    y = layer(PackedSequence.from_padded(np.ones((*IDS.shape, 2)), IDS > 0), training=True).pad()
    for document, mask in zip(y, IDS > 0, strict=True):
        for word in range(WORDS):
            assert len(np.unique(document[mask[:, word], word])) <= 1


class Scale(layers.Layer):
    """A layer of a user's that looks at masks."""

    supports_masking = True

    def call(self, x, mask=None):
        self.seen = None if mask is None else mask.shape
        return 2 * x

    def vjp(self, x, mask=None):
        return self.call(x, mask), lambda dy: 2 * dy


class Positive(Scale):
    """One that makes a mask."""

    def compute_mask(self, x, mask=None):
        return x[..., 0] > 0


def test_layers_of_users_get_the_mask():
    scale = Scale()
    model = model_of(lambda e: hierarchy(scale(e)))
    model.predict(IDS)
    assert scale.seen == IDS.shape
    x = fm.Input((SENTENCES, WORDS, 2))
    made = randomize(fm.Model(x, hierarchy(Positive()(x))))
    plain = randomize(fm.Model(x, hierarchy(Scale()(x))))
    features = normal(*IDS.shape, 2)
    np.testing.assert_allclose(made.predict(features), plain(features, mask=features[..., 0] > 0), atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 1, 3, 2), (0, 3, 2), (2, 0, 3), (2, 3, 0)])
def test_plans_and_packing(shape):
    mask = RNG.random(shape) < 0.6
    plan = Packing.from_mask(mask)
    assert plan.leading == shape[:-1]
    np.testing.assert_array_equal(plan.mask, mask)
    np.testing.assert_array_equal(plan.outer.mask, mask.any(axis=-1) if len(shape) == 3 else mask.any(axis=(-1, -2)))
    assert plan.folded.leading == (shape[0] * shape[1], *shape[2:-1])
    assert plan.folded.over(plan.leading).leading == plan.leading
    for name, expected in reference.pack_plan(mask)._asdict().items():
        np.testing.assert_array_equal(getattr(plan, name), expected, err_msg=name)
    x = normal(*shape, 2)
    packed, pullback = fm.ops.pack_vjp(x, mask)
    np.testing.assert_array_equal(packed.pad(), np.where(mask[..., None], x, 0))
    d = normal(*packed.values.shape)
    assert_gradient(pullback(d), lambda: (fm.ops.pack(x, mask).values * d).sum(), x)
