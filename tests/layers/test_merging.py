"""Merging layers: gradients and masks for inputs of one plan, of different masks, and without."""

import numpy as np
import pytest
from helpers.layers import BATCH, FEATURES, TIME, normal
from helpers.masks import MASK_KINDS, make_mask
from helpers.merging import assert_gradients

from fastmask import Input, Model, PackedSequence, layers, ops

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


def entry(name, mode, values, counted):
    """One step of the output in Keras, and whether it counts; `counted` holds None for an input without a mask."""
    own = [flag for flag in counted if flag is not None]
    every = name != "Concatenate" and mode == "or" and len(own) < len(counted)
    unmasked = [True if flag is None else flag for flag in counted]
    counts = every or not own or (all if mode == "and" else any)(unmasked)
    if name in ("Multiply", "Maximum", "Minimum") and mode == "or":
        values = [value for value, flag in zip(values, unmasked, strict=True) if flag]
    arithmetic = {
        "Add": sum, "Subtract": lambda v: v[0] - v[1], "Average": lambda v: sum(v) / len(v), "Multiply": np.prod,
        "Maximum": np.max, "Minimum": np.min, "Concatenate": np.concatenate,
    }  # fmt: skip
    along = {"axis": 0} if name in ("Multiply", "Maximum", "Minimum") else {}
    return (arithmetic[name](values, **along) if counts else None), bool(counts)


@pytest.mark.parametrize("mode", ["or", "and"])
@pytest.mark.parametrize("kinds", PAIRS)
@pytest.mark.parametrize("name", [*ELEMENTWISE, "Concatenate"])
def test_entries_of_padded_arrays(name, kinds, mode):
    """An entry is read exactly where the output counts, and there the value is Keras's."""
    grids = [normal(BATCH, TIME, FEATURES, seed=i) for i in range(2)]
    masks = [None if kind == "none" else make_mask(kind, BATCH, TIME, i) for i, kind in enumerate(kinds)]
    layer = getattr(layers, name)(mask_mode=mode, dtype="float64")
    expected, seen = {}, np.zeros((BATCH, TIME), bool)
    for cell in np.ndindex(BATCH, TIME):
        counted = [None if mask is None else bool(mask[cell]) for mask in masks]
        expected[cell], seen[cell] = entry(name, mode, [grid[cell] for grid in grids], counted)
    poisoned = [np.where(seen[..., None], grid, np.nan) for grid in grids]
    y, pullback = layer.vjp(poisoned, masks)
    np.testing.assert_array_equal(y, layer(poisoned, masks))
    for cell in zip(*np.nonzero(seen), strict=True):
        np.testing.assert_allclose(y[cell], expected[cell], rtol=1e-14)
    found = layer.compute_mask(grids, masks)
    np.testing.assert_array_equal(np.ones_like(seen) if found is None else found, seen)
    for gradient in pullback(normal(*y.shape, seed=9)).inputs:
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(gradient[~seen], 0)
    assert_gradients(layer, grids, masks)


@pytest.mark.parametrize("name", [*ELEMENTWISE, "Concatenate"])
def test_entries_beside_a_packed_batch(name):
    first, grid = packed("right", FEATURES, fill=True), normal(BATCH, TIME, FEATURES, seed=1)
    mask, layer = make_mask("left", BATCH, TIME), make(name)
    y = layer([first, grid], [None, mask])
    assert isinstance(y, PackedSequence)
    seen = first.packing.mask | mask
    np.testing.assert_array_equal(y.packing.mask, seen)
    both = layer([first.pad(), grid], [first.packing.mask, mask])
    np.testing.assert_array_equal(y.pad()[seen], both[seen])
    assert_gradients(layer, [first, grid], [None, mask])
    with pytest.raises(ValueError, match="mask: expected None with a PackedSequence"):
        layer([first, grid], [mask, mask])


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_entries_of_arrays_that_broadcast(name):
    """One step that stands for all is read if the output counts anywhere in its row."""
    one, grid = normal(BATCH, 1, FEATURES), normal(BATCH, TIME, FEATURES, seed=1)
    masks = [np.zeros((BATCH, 1), bool), make_mask("empty_row", BATCH, TIME)]
    layer = make(name)
    wide = [np.repeat(one, TIME, axis=1), grid], [np.repeat(masks[0], TIME, axis=1), masks[1]]
    np.testing.assert_array_equal(layer([one, grid], masks)[masks[1]], layer(*wide)[masks[1]])
    assert_gradients(layer, [one, grid], masks)
    poisoned = np.where(masks[1].any(axis=1)[:, None, None], one, np.nan)
    assert np.isfinite(layer([poisoned, grid], masks)).all()


@pytest.mark.parametrize("name", [*ELEMENTWISE, "Concatenate"])
def test_entries_in_a_graph(name):
    """Masks passed to a call in a graph, of inputs and of results, and masks passed to the model."""
    kept = [make_mask("right", BATCH, TIME), make_mask("holes", BATCH, TIME, 1)]
    xs, layer = [normal(BATCH, TIME, FEATURES, seed=i) for i in range(2)], make(name)
    seen = kept[0] | kept[1]
    ids = [np.where(mask, 1, 0) for mask in kept]
    inputs = [*[Input((TIME, FEATURES), dtype="float64") for _ in xs], *[Input((TIME,), dtype="int32") for _ in xs]]
    given = [tensor != 0 for tensor in inputs[2:]]
    model = Model(inputs, layer(inputs[:2], mask=given))
    poisoned = [np.where(seen[..., None], x, np.nan) for x in xs]
    np.testing.assert_array_equal(model([*poisoned, *ids]), layer(xs, kept))
    dense = layers.Dense(FEATURES, dtype="float64")
    model = Model(inputs, layer([dense(inputs[0]), inputs[1]], mask=given))
    y, pullback = model.vjp([*xs, *ids])
    hidden, dense_back = dense.vjp(xs[0])
    expected, back = layer.vjp([hidden, xs[1]], kept)
    np.testing.assert_array_equal(y, expected)
    found, wanted = pullback(normal(*y.shape, seed=8)), back(normal(*y.shape, seed=8))
    np.testing.assert_array_equal(found.inputs[1], wanted.inputs[1])
    for gradient, own in zip(found.weights, dense_back(wanted.inputs[0]).weights, strict=True):
        np.testing.assert_allclose(gradient, own, rtol=1e-12)
    two = Model(inputs[:2], layer(inputs[:2]))
    half = [np.where(kept[0][..., None], x, np.nan) for x in xs]
    np.testing.assert_array_equal(two(half, mask=kept[0])[kept[0]], layer(xs)[kept[0]])


def test_a_run_of_masked_steps_may_show_two_things():
    """Joined in time, one input stops showing what it shows where another begins."""
    masks = [np.ones((2, 3), bool), np.ones((2, 3), bool), np.ones((2, 6), bool)]
    masks[0][:, 2] = masks[1][:, 0] = masks[2][:, 2:4] = False
    values = [PackedSequence.from_padded(normal(*m.shape, FEATURES, seed=i), m) for i, m in enumerate(masks)]
    xs = [x.with_values(x.values, fill=normal(FEATURES, seed=5 + i)) for i, x in enumerate(values)]
    joined = make("Concatenate", 1)(xs[:2])
    merged = make("DropMask")(make("Add")([joined, xs[2]]))
    np.testing.assert_allclose(merged.pad(), joined.pad() + xs[2].pad(), rtol=1e-14)


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
    expected = {"Multiply": [5, 2, 0], "Maximum": [5, 2, 0], "Minimum": [1, 2, 0], "Add": [6, -4, 0]}
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
    with pytest.raises(ValueError, match="expected"):
        layer([np.zeros(shape) for shape in shapes])


def test_bad_arguments():
    with pytest.raises(TypeError, match="x: expected a list"):
        make("Add")(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="axis: expected"):
        make("Concatenate", 0)([np.zeros((2, 3))] * 2)
    with pytest.raises(TypeError, match="axes: expected"):
        layers.Dot("first")
    with pytest.raises(ValueError, match="axes: expected"):
        layers.Dot((1, 2, 3))
    with pytest.raises(ValueError, match="axes: expected"):
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


def test_models_keep_what_masked_places_show():
    """Also of a packed batch whose plan equals that of another input."""
    masks = np.array([[[1, 0, 0]], [[0, 1, 0]]], bool)
    values = [PackedSequence.from_padded(normal(1, 3, FEATURES, seed=i), mask) for i, mask in enumerate(masks)]
    merged = make("Add")([x.with_values(x.values, fill=normal(FEATURES, seed=9)) for x in values])
    inputs = [Input((None, FEATURES), dtype="float64") for _ in range(2)]
    model = Model(inputs, layers.DropMask(dtype="float64")(make("Add")(inputs)))
    plain = PackedSequence.from_padded(normal(1, 3, FEATURES), masks[0] | masks[1])
    np.testing.assert_array_equal(model([plain, merged]).pad(), plain.pad() + merged.pad())
