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
    xs, masks = make_inputs(*kinds, packed)
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
    with pytest.raises(error, match="x must"):
        make()([np.zeros(shape) for shape in shapes])


def test_bad_arguments():
    with pytest.raises(ValueError, match="score_mode"):
        make(score_mode="product")
    with pytest.raises(ValueError, match="dropout"):
        make(dropout=1.5)
    with pytest.raises(TypeError, match="unknown"):
        make()([np.zeros((2, 3, 4))] * 2, causal=True)
