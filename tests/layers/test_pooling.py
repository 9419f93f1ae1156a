"""Pooling, reshaping, dropping the mask, SpatialDropout1D and Identity."""

import numpy as np
import pytest
from helpers.layers import BATCH, FEATURES, TIME, normal, reset_seeds
from helpers.masks import MASK_KINDS, full_mask, make_mask
from helpers.merging import assert_gradients
from helpers.numeric import assert_weight_gradient

from fastmask import PackedSequence, layers

POOLINGS = ["GlobalAveragePooling1D", "GlobalMaxPooling1D"]


def make(name, *arguments, **options):
    return getattr(layers, name)(*arguments, dtype="float64", **options)


def make_input(kind, packed, *token):
    x, mask = normal(BATCH, TIME, *(token or (FEATURES,))), make_mask(kind, BATCH, TIME)
    return (PackedSequence.from_padded(x, mask), None) if packed else (x, mask)


@pytest.fixture(params=["padded", "packed"])
def packed(request):
    return request.param == "packed"


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("mask", MASK_KINDS)
@pytest.mark.parametrize("name", POOLINGS)
def test_pooling(name, mask, keepdims, packed):
    x, mask = make_input(mask, packed)
    layer = make(name, keepdims=keepdims)
    assert_gradients(layer, x, mask)
    assert layer(x, mask).shape == ((BATCH, 1, FEATURES) if keepdims else (BATCH, FEATURES))
    assert not layer.passes_mask


@pytest.mark.parametrize("mask", MASK_KINDS)
def test_pooled_values(mask):
    x, mask = make_input(mask, False)
    rows = [row[kept] for row, kept in zip(x, full_mask(mask, BATCH, TIME), strict=True)]
    poisoned = x if mask is None else np.where(mask[..., None], x, np.nan)
    mean = [row.mean(axis=0) if len(row) else np.zeros(FEATURES) for row in rows]
    largest = [row.max(axis=0) if len(row) else np.zeros(FEATURES) for row in rows]
    np.testing.assert_allclose(make("GlobalAveragePooling1D")(poisoned, mask), mean, atol=1e-15)
    np.testing.assert_array_equal(make("GlobalMaxPooling1D")(poisoned, mask), largest)


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_of_repeated_tokens(name):
    plan = make_input("holes", True)[0].packing
    index = np.random.default_rng(3).permutation(plan.tokens)
    assert_gradients(make(name), PackedSequence(normal(plan.tokens, FEATURES), plan, index))


def test_equal_maxima_share_the_gradient():
    x = np.array([[[1.0], [2.0], [2.0], [9.0]]])
    gradient = make("GlobalMaxPooling1D").vjp(x, np.array([[1, 1, 1, 0]]))[1](np.ones((1, 1))).inputs
    np.testing.assert_array_equal(gradient[0, :, 0], [0, 0.5, 0.5, 0])


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3)])
def test_pooling_of_nothing(name, shape):
    y, pullback = make(name).vjp(np.zeros(shape))
    np.testing.assert_array_equal(y, np.zeros((shape[0], 3)))
    assert pullback(y).inputs.shape == shape


def test_pooling_a_row_does_not_depend_on_the_others():
    x, mask = make_input("holes", False)
    for name in POOLINGS:
        y = make(name)(x, mask)
        for i in range(BATCH):
            np.testing.assert_array_equal(make(name)(x[i : i + 1], mask[i : i + 1])[0], y[i])


def test_repeat_vector_and_reshape():
    assert_gradients(make("RepeatVector", 3), normal(BATCH, FEATURES))
    assert make("RepeatVector", 3).compute_output_shape((None, 2)) == (None, 3, 2)
    x = normal(BATCH, 4, 3)
    np.testing.assert_array_equal(make("Reshape", (2, -1))(x), x.reshape(BATCH, 2, 6))
    assert_gradients(make("Reshape", (2, -1)), x)
    assert_gradients(make("Reshape", (6, 2)), PackedSequence.from_padded(x))
    assert make("Reshape", (2, -1)).compute_output_shape((None, 4, 3)) == (None, 2, 6)
    assert make("Reshape", (2, -1)).compute_output_shape((None, None, 3)) == (None, 2, None)


@pytest.mark.parametrize("make_layer", [lambda: make("RepeatVector", 2), lambda: make("Reshape", (12,))])
def test_reshaping_takes_no_mask(make_layer):
    x = PackedSequence.from_padded(np.ones((2, 4, 3)), np.ones((2, 4), bool))
    with pytest.raises((TypeError, ValueError), match=r"mask|axes"):
        make_layer()(x)


def test_reshaping_arguments():
    with pytest.raises(TypeError, match="n: expected an integer"):
        make("RepeatVector", 2.0)
    with pytest.raises(ValueError, match="n: expected"):
        make("RepeatVector", 0)
    with pytest.raises(ValueError, match="target_shape: expected positive"):
        make("Reshape", (-1, -1))
    with pytest.raises(ValueError, match="target_shape: expected one for rows"):
        make("Reshape", (5,))(np.ones((2, 4)))
    with pytest.raises(ValueError, match="x: expected 2 axes"):
        make("RepeatVector", 2)(np.ones((2, 3, 4)))


@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("mask", MASK_KINDS)
def test_drop_mask(mask, repeat):
    x, _ = make_input(mask, True)
    shown = normal(FEATURES, seed=9) if x.packing.masked else None
    x = PackedSequence(x.values, x.packing, None, shown, repeat)
    layer = make("DropMask")
    assert_gradients(layer, x)
    y = layer(x)
    assert not y.packing.masked
    np.testing.assert_array_equal(y.pad(), x.pad())
    assert layer.compute_mask(x.pad(), x.packing.mask) is None
    np.testing.assert_array_equal(layer(x.pad(), x.packing.mask), x.pad())


CHAINS = {
    "dense": lambda: [make("Dense", 2, "tanh")],
    "deep": lambda: [make("Dense", 2), make("LayerNormalization"), make("Dropout", 0.5), make("Dense", 3, "sigmoid")],
    "batch": lambda: [make("Dense", 2), make("BatchNormalization"), make("Activation", "tanh"), make("Identity")],
    "recurrent": lambda: [make("Dense", 2), make("GRU", 2, return_sequences=True), make("Dense", 2)],
    "distributed": lambda: [layers.TimeDistributed(make("Dense", 2)), make("SpatialDropout1D", 0.5)],
    "embedding": lambda: [make("Embedding", 5, 3, mask_zero=True), make("Dense", 2, "tanh")],
}


def run_chain(chain, sources, keep=False):
    """Two masked branches of a chain, summed, with the mask dropped; returns output and pullbacks."""
    branches = []
    for x in sources:
        backs = []
        for layer in chain:
            x, back = layer.apply(x, training=isinstance(layer, layers.BatchNormalization), keep=keep)
            backs.append(back)
        branches.append((x, backs))
    add, drop = make("Add"), make("DropMask")
    merged, add_back = add.apply([x for x, _ in branches], keep=keep)
    y, drop_back = drop.apply(merged, keep=keep)
    return y, (drop_back, add_back, [backs for _, backs in branches])


@pytest.mark.parametrize("kinds", [("right", "left"), ("holes", "none"), ("holes", "holes"), ("empty_row", "right")])
@pytest.mark.parametrize("name", CHAINS)
def test_gradients_through_masked_places(name, kinds):
    """What masked places show depends on weights, and counts once the mask is dropped."""
    chain = CHAINS[name]()
    if name == "embedding":
        ids = np.random.default_rng(0).integers(0, 5, (2, BATCH, TIME))
        sources = [chain[0].pack_input(grid) for grid in ids]
    else:
        masks = [make_mask(kind, BATCH, TIME, i) for i, kind in enumerate(kinds)]
        sources = [PackedSequence.from_padded(normal(BATCH, TIME, 3, seed=i), m) for i, m in enumerate(masks)]
    run_chain(chain, sources)
    for layer in chain:
        for i, w in enumerate(layer.weights):
            w.assign(np.abs(normal(*w.shape, seed=i)) if "variance" in w.name else normal(*w.shape, seed=i))
    kept = [layer.get_weights() for layer in chain]
    y, (drop_back, add_back, branch_backs) = run_chain(chain, sources, keep=True)
    dy = normal(*y.values.shape, seed=7)
    found = [[0.0] * len(layer.weights) for layer in chain]
    for d, backs in zip(add_back(drop_back(dy).inputs).inputs, branch_backs, strict=True):
        for i in reversed(range(len(chain))):
            gradients = backs[i](d)
            d = gradients.inputs
            found[i] = [a if g is None else a + dense(g) for a, g in zip(found[i], gradients.weights, strict=True)]
    for layer, weights in zip(chain, kept, strict=True):
        layer.set_weights(weights)
    for layer, gradients in zip(chain, found, strict=True):
        for gradient, variable in zip(gradients, layer.weights, strict=True):
            if variable.trainable:
                assert_weight_gradient(gradient, lambda: (dy * run_chain(chain, sources)[0].values).sum(), variable)


def dense(gradient):
    return gradient if isinstance(gradient, np.ndarray) else gradient.dense()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mask", MASK_KINDS)
def test_spatial_dropout(mask, training, packed):
    x, mask = make_input(mask, packed)
    assert_gradients(make("SpatialDropout1D", 0.5, seed=4), x, mask, training=training)
    assert_gradients(make("Identity"), x, mask)


def test_spatial_dropout_takes_whole_features():
    layer = make("SpatialDropout1D", 0.5, seed=1)
    y = layer(np.ones((3, 6, 8)), training=True)
    assert np.isin(y, (0, 2)).all()
    assert (y == y[:, :1]).all()
    assert 0 < y[:, 0].mean() < 2
    assert layer.get_config() == {"name": layer.name, "rate": 0.5, "seed": 1, "dtype": "float64"}
    reset_seeds(layer)
    np.testing.assert_array_equal(layer(PackedSequence.from_padded(np.ones((3, 6, 8))), training=True).pad(), y)


@pytest.mark.parametrize(
    "layer",
    [
        layers.GlobalAveragePooling1D(keepdims=True), layers.GlobalMaxPooling1D(), layers.RepeatVector(3),
        layers.Reshape((2, 3)), layers.DropMask(), layers.Identity(), layers.SpatialDropout1D(0.3), layers.Add(),
        layers.Concatenate(1), layers.Dot((1, 2), True), layers.Attention(True, "concat", 0.1),
    ],
    ids=lambda layer: layer.name,
)  # fmt: skip
def test_config_round_trip(layer):
    again = layers.deserialize(layers.serialize(layer))
    assert again.get_config() == layer.get_config()
