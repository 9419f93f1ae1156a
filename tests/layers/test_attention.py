"""Attention: gradients under masks of queries and values, options, errors."""

import numpy as np
import pytest
from helpers.layers import BATCH, normal
from helpers.masks import MASK_KINDS, make_mask
from helpers.merging import assert_gradients

from fastmask import PackedSequence, layers

QUERIES, VALUES, WIDTH, OUT = 3, 4, 3, 2
KINDS = [("none", "none"), ("none", "right"), ("left", "none"), ("empty_row", "empty_row"), ("all_empty", "all_empty")]


def make(**options):
    return layers.Attention(dtype="float64", **options)


def make_inputs(query_mask, value_mask, packed, with_key=True):
    """[query, value(, key)] and their masks, packed or padded; the value is the key if there is none."""
    sizes = [(QUERIES, WIDTH), (VALUES, OUT if with_key else WIDTH), (VALUES, WIDTH)][: 3 if with_key else 2]
    xs = [normal(BATCH, *size, seed=i) for i, size in enumerate(sizes)]
    masks = [make_mask(query_mask, BATCH, QUERIES), make_mask(value_mask, BATCH, VALUES), None][: len(xs)]
    if not packed:
        return [x if m is None else np.where(m[..., None], x, 0) for x, m in zip(xs, masks, strict=True)], masks
    return [PackedSequence.from_padded(x, m) for x, m in zip(xs, masks, strict=True)], None


@pytest.fixture(params=["padded", "packed"])
def packed(request):
    return request.param == "packed"


@pytest.mark.parametrize("with_key", [False, True])
@pytest.mark.parametrize("score_mode", ["dot", "concat"])
@pytest.mark.parametrize("use_scale", [False, True])
@pytest.mark.parametrize("kinds", KINDS)
def test_gradients(kinds, use_scale, score_mode, with_key, packed):
    xs, masks = make_inputs(*kinds, packed, with_key)
    assert_gradients(make(use_scale=use_scale, score_mode=score_mode), xs, masks)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kinds", KINDS)
def test_scores_causality_and_dropout(kinds, causal, packed):
    queries, values = kinds
    if not packed and "empty" in values:
        # Scores less 1e9, those of a query that sees no value, have no digits left for differences.
        values = "right"
    xs, masks = make_inputs(queries, values, packed)
    options = {"use_causal_mask": causal, "return_attention_scores": True}
    assert_gradients(make(dropout=0.4, seed=3), xs, masks, training=True, **options)


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_masked_values_have_no_weight(kind):
    xs, masks = make_inputs("none", kind, False)
    y, scores = make()(xs, masks, return_attention_scores=True)
    np.testing.assert_allclose(scores.sum(axis=-1), 1)
    if masks[1] is not None:
        valid = masks[1].any(axis=1)
        assert not scores[valid][np.broadcast_to(~masks[1][valid, None], scores[valid].shape)].any()
    np.testing.assert_allclose(y, scores @ xs[1])


@pytest.mark.parametrize("with_key", [False, True])
def test_entries_that_are_read(with_key):
    """Masked values are read for queries that count and see no other, and keys where values are."""
    xs = [normal(2, size, WIDTH, seed=i) for i, size in enumerate((QUERIES, VALUES, VALUES))][: 3 if with_key else 2]
    masks = [np.array([[1, 1, 0], [1, 0, 1]], bool), np.array([[0, 1, 0, 1], [0, 0, 0, 0]], bool)]
    masks += [np.zeros((2, VALUES), bool)] if with_key else []
    read = [masks[0], masks[1] | [[False], [True]], masks[1] | [[False], [True]]]
    poisoned = [np.where(own[..., None], x, np.nan) for x, own in zip(xs, read, strict=False)]
    y, pullback = make().vjp(poisoned, masks)
    weights = np.exp(xs[0][0] @ xs[-1][0].T) * masks[1][0]
    weights /= weights.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(y[0][masks[0][0]], (weights @ xs[1][0])[masks[0][0]], rtol=1e-12)
    equal = make(use_scale=True)
    equal(xs, masks)
    equal.set_weights([np.float64(0)])
    for found in equal(poisoned, masks)[1][masks[0][1]]:
        np.testing.assert_allclose(found, xs[1][1].mean(axis=0), rtol=1e-12)
    assert all(np.isfinite(gradient).all() for gradient in pullback(normal(*y.shape, seed=7)).inputs)


def test_causal_mask():
    xs, _ = make_inputs("none", "none", False)
    scores = make()(xs, use_causal_mask=True, return_attention_scores=True)[1]
    assert not scores[:, ~np.tri(QUERIES, VALUES, dtype=bool)].any()


def test_the_mask_of_the_query_goes_on():
    xs, _ = make_inputs("left", "holes", True)
    y, scores = make()(xs, return_attention_scores=True)
    assert y.packing is xs[0].packing
    assert isinstance(scores, np.ndarray)
    assert not y.pad()[~xs[0].packing.mask].any()
    assert make().mask_flow([True, False], 2) == [True, False]
    assert make().mask_flow([False, True], 1) == [False]


def test_shapes_and_weights():
    layer = make(use_scale=True, score_mode="concat")
    layer.build([(None, None, 3), (None, None, 3)])
    assert [w.name for w in layer.weights] == ["scale", "concat_score_weight"]
    assert [w.shape for w in layer.weights] == [(), ()]
    shapes = [(None, 5, 3), (None, 4, 2), (None, 4, 3)]
    assert layer.compute_output_shape(shapes) == (None, 5, 2)
    assert layer.compute_output_shape(shapes, return_attention_scores=True) == ((None, 5, 2), (None, 5, 4))


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2)])
def test_no_rows_or_queries(shape):
    y, pullback = make().vjp([np.zeros(shape), np.zeros((shape[0], 4, 2))])
    assert y.shape == shape
    assert pullback(y).inputs[1].shape == (shape[0], 4, 2)


@pytest.mark.parametrize(
    ("shapes", "error"),
    [
        ([(2, 3, 4)], ValueError),
        ([(2, 3, 4), (2, 3, 5)], ValueError),
        ([(2, 3, 4), (3, 3, 4)], ValueError),
        ([(2, 3, 4), (2, 3, 4), (2, 5, 4)], ValueError),
        ([(2, 3), (2, 3)], ValueError),
    ],
)
def test_inputs_that_do_not_fit(shapes, error):
    with pytest.raises(error, match="x: expected"):
        make()([np.zeros(shape) for shape in shapes])


def test_bad_arguments():
    with pytest.raises(ValueError, match="score_mode"):
        make(score_mode="product")
    with pytest.raises(ValueError, match="dropout"):
        make(dropout=1.5)
    with pytest.raises(TypeError, match="unknown"):
        make()([np.zeros((2, 3, 4))] * 2, causal=True)
