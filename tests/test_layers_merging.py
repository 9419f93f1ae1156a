"""Merging layers: gradients and masks for inputs of one plan, of different masks, and without."""

import numpy as np
import pytest
from helpers.layers import BATCH, FEATURES, TIME, normal
from helpers.masks import MASK_KINDS, make_mask
from helpers.merging import assert_gradients

from fastmask import PackedSequence, layers, ops

ELEMENTWISE = ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"]
PAIRS = [("none", "none"), ("holes", "none"), ("right", "left"), ("holes", "empty_row"), ("all_empty", "holes")]


def make(name, *arguments):
    return getattr(layers, name)(*arguments, dtype="float64")


def packed(kind, *token, seed=0, mask_seed=0, fill=False, repeat=False):
    """A random packed batch; masked places may show random numbers."""
    x = PackedSequence.from_padded(normal(BATCH, TIME, *token, seed=seed), make_mask(kind, BATCH, TIME, mask_seed))
    shown = normal(*token, seed=seed + 50) if fill and x.packing.masked else None
    return PackedSequence(x.values, x.packing, None, shown, repeat)


def one_plan(kind, count=2, *token):
    first = packed(kind, *(token or (FEATURES,)))
    others = [normal(*first.values.shape, seed=i) for i in range(1, count)]
    return [first, *[PackedSequence(values, first.packing) for values in others]]


@pytest.mark.parametrize("mask", MASK_KINDS)
@pytest.mark.parametrize("name", [*ELEMENTWISE, "Concatenate"])
def test_one_plan(name, mask):
    xs = one_plan(mask, 2 if name == "Subtract" else 3)
    layer = make(name)
    assert_gradients(layer, xs)
    y = layer(xs)
    assert y.packing is xs[0].packing
    on_grid = ops.pack(layer([x.pad() for x in xs]), xs[0].packing.mask)
    np.testing.assert_array_equal(y.values, on_grid.values)


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("kinds", PAIRS)
@pytest.mark.parametrize("name", [*ELEMENTWISE, "Concatenate"])
def test_different_masks(name, kinds, repeat, fill):
    xs = [packed(kind, FEATURES, seed=i, mask_seed=i, fill=fill, repeat=repeat) for i, kind in enumerate(kinds)]
    layer = make(name)
    assert_gradients(layer, xs)
    y = layer(xs)
    masks = [x.packing.mask if x.packing.masked else None for x in xs]
    expected = layer.compute_mask([x.pad() for x in xs], masks)
    assert y.packing.masked == (expected is not None) == layer.mask_flow([m is not None for m in masks], 1)[0]
    if expected is not None:
        np.testing.assert_array_equal(y.packing.mask, expected)


@pytest.mark.parametrize("kinds", PAIRS)
@pytest.mark.parametrize("name", [*ELEMENTWISE, "Concatenate"])
def test_padded(name, kinds):
    """Padded arrays with masks are what their packed forms are; nothing reads the padding."""
    xs = [packed(kind, FEATURES, seed=i, mask_seed=i) for i, kind in enumerate(kinds)]
    masks = [x.packing.mask if x.packing.masked else None for x in xs]
    grids = [x.pad() for x in xs]
    layer = make(name)
    assert_gradients(layer, grids, masks)
    poisoned = [g if m is None else np.where(m[..., None], g, np.nan) for g, m in zip(grids, masks, strict=True)]
    np.testing.assert_array_equal(layer(poisoned, masks), layer(xs).pad())


@pytest.mark.parametrize("kinds", PAIRS)
def test_concatenate_in_time(kinds):
    xs = [packed(kind, FEATURES, seed=i, mask_seed=i) for i, kind in enumerate(kinds)]
    layer = make("Concatenate", 1)
    assert_gradients(layer, xs)
    y = layer(xs)
    np.testing.assert_array_equal(y.pad(), np.concatenate([x.pad() for x in xs], axis=1))
    assert y.shape == (BATCH, 2 * TIME, FEATURES)
    assert_gradients(layer, [xs[0], normal(BATCH, 2, FEATURES)])
    assert_gradients(layer, [x.pad() for x in xs])


def test_repeated_tokens():
    plan = packed("holes", FEATURES).packing
    index = np.random.default_rng(3).integers(0, 4, plan.tokens)
    shared = [PackedSequence(normal(5, FEATURES, seed=i), plan, index) for i in range(2)]
    mixed = [shared[0], packed("holes", FEATURES)]
    for name in ("Add", "Multiply", "Concatenate"):
        assert_gradients(make(name), shared)
        assert_gradients(make(name), mixed)
        assert make(name)(shared).index is index
    assert_gradients(make("Concatenate", 1), mixed)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_shapes_that_broadcast(name):
    layer = make(name)
    assert_gradients(layer, [normal(BATCH, FEATURES), normal(BATCH, TIME, FEATURES)])
    assert_gradients(layer, [packed("holes", FEATURES), normal(BATCH, 1, FEATURES)])
    assert_gradients(layer, [packed("none", FEATURES), normal(BATCH, FEATURES)])
    assert_gradients(layer, [*one_plan("left", 1), packed("left", 1, seed=4)])
    assert layer.compute_output_shape([(None, 3), (None, None, 3)]) == (None, None, 3)
    assert layer.compute_output_shape([(2, 1, 3), (None, 5, 1)]) in ((2, 5, 3), (None, 5, 3))


def test_values_under_masks():
    """The numbers of Keras 3: masked factors are 1, masked extremes do not take part."""
    a, b = np.array([[[1.0], [2.0], [3.0]]]), np.array([[[5.0], [-6.0], [7.0]]])
    masks = [np.array([[True, True, False]]), np.array([[True, False, False]])]
    expected = {"Multiply": [5, 2, 0], "Maximum": [5, 2, 0], "Minimum": [1, 2, 0], "Add": [6, 2, 0]}
    for name, numbers in expected.items():
        np.testing.assert_array_equal(make(name)([a, b], masks)[0, :, 0], numbers)
    np.testing.assert_array_equal(make("Multiply")([a, b], [masks[0], None])[0, :, 0], [5, -12, 7])
    np.testing.assert_array_equal(make("Maximum")([a, b], [masks[0], None])[0, :, 0], [5, 2, 7])


def test_gradient_of_equal_extremes_goes_to_the_first():
    x = np.ones((1, 2, 1))
    for name in ("Maximum", "Minimum"):
        first, second = make(name).vjp([x, x.copy()])[1](x).inputs
        np.testing.assert_array_equal(first, x)
        np.testing.assert_array_equal(second, 0 * x)


DOTS = [((3, 4), (3, 4), 1), ((3, 4), (3, 4), -1), ((3, 4, 5), (3, 2, 5), 2), ((3, 4, 5), (3, 4), 1),
        ((3, 4, 5), (3, 5, 2), (2, 1)), ((3, 2, 4, 5), (3, 4, 2), (2, 1)), ((0, 4), (0, 4), 1)]  # fmt: skip


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("case", DOTS)
def test_dot(case, normalize):
    first, second, axes = case
    layer = make("Dot", axes, normalize)
    xs = [normal(*first), normal(*second, seed=1)]
    y = layer(xs)
    assert y.shape == layer.compute_output_shape([first, second])
    assert_gradients(layer, xs)


@pytest.mark.parametrize("kinds", PAIRS)
def test_dot_over_masked(kinds):
    xs = [packed(kind, FEATURES, seed=i, mask_seed=i, fill=True) for i, kind in enumerate(kinds)]
    layer = make("Dot", 2)
    assert_gradients(layer, xs)
    np.testing.assert_array_equal(layer(xs), layer([x.pad() for x in xs]))
    assert not layer.passes_mask


@pytest.mark.parametrize("name", [*ELEMENTWISE, "Concatenate"])
def test_no_rows_or_steps(name):
    for shape in ((0, 4, 3), (2, 0, 3)):
        xs = [np.zeros(shape), np.zeros(shape)]
        y, pullback = make(name).vjp(xs)
        assert y.shape[:2] == shape[:2]
        assert pullback(y).inputs[0].shape == shape
        assert make(name)([PackedSequence.from_padded(x) for x in xs]).shape[:2] == shape[:2]


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("Add", [(2, 3, 4), (3, 3, 4)]),
        ("Add", [(2, 3, 4), (2, 3, 5)]),
        ("Multiply", [(2, 3, 4), (2, 2, 4)]),
        ("Subtract", [(2, 3)] * 3),
        ("Concatenate", [(2, 3, 4), (2, 4, 4)]),
        ("Concatenate", [(2, 3, 4), (2, 4)]),
        ("Dot", [(2, 3), (2, 4)]),
        ("Dot", [(2, 3)] * 3),
    ],
)
def test_inputs_that_do_not_fit(name, shapes):
    layer = make(name, 1) if name == "Dot" else make(name)
    with pytest.raises(ValueError, match="must"):
        layer([np.zeros(shape) for shape in shapes])


def test_bad_arguments():
    with pytest.raises(TypeError, match="x must be a list"):
        make("Add")(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="axis must be"):
        make("Concatenate", 0)([np.zeros((2, 3))] * 2)
    with pytest.raises(TypeError, match="axes must be"):
        layers.Dot("first")
    with pytest.raises(ValueError, match="axes must be"):
        layers.Dot((1, 2, 3))
    with pytest.raises(ValueError, match="axes must be"):
        make("Dot", 0)([np.zeros((2, 3))] * 2)


def test_functions():
    xs = [normal(2, 3), normal(2, 3, seed=1)]
    for name in ELEMENTWISE:
        np.testing.assert_array_equal(getattr(layers, name.lower())(xs, dtype="float64"), make(name)(xs))
    assert layers.concatenate(xs, axis=1).shape == (2, 6)
    assert layers.dot(xs, axes=1).shape == (2, 1)


@pytest.mark.parametrize("name", ["Dropout", "SpatialDropout1D", "Dense", "LayerNormalization", "GRU", "Masking"])
def test_layers_after_a_merge_of_different_masks(name):
    """What masked places show after a merge goes through other layers, training or not."""
    xs = [packed(kind, FEATURES, seed=i, mask_seed=i, repeat=True) for i, kind in enumerate(["right", "right"])]
    merged = make("Add")(xs)
    merged = make("Maximum")([merged, packed("right", FEATURES, seed=5, mask_seed=2, fill=True)])
    assert merged.shown is not None
    options = {"Dropout": (0.5, None, 1), "SpatialDropout1D": (0.5, 1), "Dense": (2,), "GRU": (2,)}
    layer = make(name, *options.get(name, ()))
    layer.return_sequences = True
    drop = make("DropMask")
    for training in (False, True):
        y = layer(merged, training=training)
        assert drop(y).shape[:2] == (BATCH, TIME)
        if name != "Masking":
            assert_gradients(layer, merged, training=training)
            np.testing.assert_array_equal(y.packing.mask, merged.packing.mask)
