"""Normalization, pooling, merging and attention against the reference, and their pullbacks."""

import numpy as np
import pytest
from helpers.layers import normal
from helpers.masks import MASK_KINDS, make_mask
from helpers.numeric import assert_close, assert_gradient, assert_same_bits

from fastmask import PackedSequence, ops, reference

DTYPES = [np.float32, np.float64]
BATCH, TIME, FEATURES = 5, 6, 9


def make(kind, dtype=np.float64, seed=0):
    mask = make_mask(kind, BATCH, TIME, seed)
    return normal(BATCH, TIME, FEATURES, seed=seed).astype(dtype), mask


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("affine", [False, True])
def test_normalization(dtype, affine):
    x, mask = make("holes", dtype)
    gamma, beta = (normal(FEATURES, seed=i) if affine else None for i in (1, 2))
    own = [None if w is None else w.astype(dtype) for w in (gamma, beta)]
    wide = x.astype(float)
    assert_close(ops.layer_normalization(x, *own), reference.layer_normalization(wide, gamma, beta))
    tokens = PackedSequence.from_padded(x, mask).values
    mean, variance = reference.batch_moments(wide, mask, 1e-7)
    for found, expected in zip(ops.batch_moments(tokens, guard=1e-7), (mean, variance), strict=True):
        assert_close(found, expected)
    expected = reference.batch_normalization(wide, mean, variance, gamma, beta, 0.5)
    y = ops.batch_training(tokens, None, *own, 0.5, 1e-7)[0]
    assert_close(y, reference.pack(expected, mask))


@pytest.mark.parametrize("guard", [0.0, 0.5])
def test_batch_training_counts_rows(guard):
    """A row counted twice is two rows; the pullback is right for any guard, also for rows not counted."""
    x, counts, gamma = normal(6, 3), np.array([1, 2, 0, 1, 3, 0]), normal(3, seed=1)
    repeated = np.repeat(x, counts, axis=0)
    moments = ops.batch_moments(x, counts, guard)
    for found, expected in zip(moments, ops.batch_moments(repeated, None, guard), strict=True):
        np.testing.assert_allclose(found, expected)
    (y, _, _), pullback = ops.batch_training_vjp(x, counts, gamma, None, 1e-3, guard)
    dy = normal(*y.shape, seed=2)
    gradients = pullback(dy)
    assert_gradient(gradients.x, lambda: (dy * ops.batch_training(x, counts, gamma, None, 1e-3, guard)[0]).sum(), x)
    assert_gradient(
        gradients.gamma, lambda: (dy * ops.batch_training(x, counts, gamma, None, 1e-3, guard)[0]).sum(), gamma
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", MASK_KINDS)
def test_pooling(kind, dtype):
    x, mask = make(kind, dtype)
    packed = PackedSequence.from_padded(x if mask is None else np.where(mask[..., None], x, np.nan), mask)
    assert_close(ops.average_pool(packed), reference.average_pool(x.astype(float), mask))
    assert_same_bits(ops.max_pool(packed), reference.max_pool(x, mask))


@pytest.mark.parametrize("kinds", [("none",) * 3, ("holes", "right", "left"), ("holes", "none", "empty_row")])
@pytest.mark.parametrize("mode", ops.MERGES)
def test_merge(mode, kinds):
    pairs = [make(kind, seed=i) for i, kind in enumerate(kinds[: 2 if mode == "subtract" else 3])]
    arrays, masks = [x for x, _ in pairs], [mask for _, mask in pairs]
    y = ops.merge_vjp(arrays, mode, masks)[0]
    assert_close(y, reference.merge(arrays, mode, masks))
    np.testing.assert_array_equal(ops.merge(arrays, mode, masks), y)
    dy = normal(*y.shape, seed=7)
    small = [np.ascontiguousarray(a[:2, :3, :2]) for a in arrays]
    cut = [None if m is None else m[:2, :3] for m in masks]
    small[-1] = np.ascontiguousarray(small[-1][..., :1])
    gradients = ops.merge_vjp(small, mode, cut)[1](dy[:2, :3, :2])
    for gradient, array in zip(gradients, small, strict=True):
        assert_gradient(gradient, lambda: (dy[:2, :3, :2] * ops.merge(small, mode, cut)).sum(), array)


def test_merge_of_nan():
    for mode in ("maximum", "minimum"):
        found = ops.merge([np.array([1.0, np.nan]), np.array([np.nan, 1.0])], mode)
        assert np.isnan(found).all()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("axes", [(2, 2), (1, 1)])
def test_batch_dot(axes, normalize):
    x, y = normal(3, 4, 5), normal(3, 4, 5, seed=1)
    assert_close(ops.batch_dot(x, y, axes, normalize), reference.batch_dot(x, y, axes, normalize))
    flat = [normal(3, 5), normal(3, 5, seed=1)]
    assert_close(ops.batch_dot(*flat, (1, 1), normalize), reference.batch_dot(*flat, (1, 1), normalize))


@pytest.mark.parametrize("concat", [None, 0.7])
@pytest.mark.parametrize("masked", [False, True])
def test_attention(masked, concat):
    query, key, value = normal(3, 4, 5), normal(3, 6, 5, seed=1), normal(3, 6, 2, seed=2)
    mask = make_mask("holes", 3, 6)[:, None] if masked else None
    weight = None if concat is None else np.array(concat)
    found = ops.attention(query, key, value, mask, np.array(1.5), weight)
    expected = reference.attention(query, key, value, mask, 1.5, concat)
    for own, other in zip(found, expected, strict=True):
        assert_close(own, other)


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_gather(kind):
    x, mask = make(kind)
    packed = PackedSequence.from_padded(x, mask)
    packed = PackedSequence(packed.values, packed.packing, None, normal(FEATURES, seed=4))
    cells = np.array([3, 0, 29, 3, 11])
    rows, pullback = ops.gather_vjp(packed, cells)
    np.testing.assert_array_equal(rows, packed.pad().reshape(-1, FEATURES)[cells])
    dy = normal(*rows.shape, seed=5)
    d_values, d_fill = pullback(dy)
    assert_gradient(d_values, lambda: (dy * ops.gather(packed, cells)).sum(), packed.values)
    assert_gradient(d_fill, lambda: (dy * ops.gather(packed, cells)).sum(), packed.fill)


def test_arguments():
    x = normal(2, 3)
    with pytest.raises(ValueError, match="mode: expected"):
        ops.merge([x], "divide")
    with pytest.raises(ValueError, match="arrays: expected two"):
        ops.merge([x], "subtract")
    with pytest.raises(ValueError, match="gamma: expected shape"):
        ops.layer_normalization(x, np.ones(2))
    with pytest.raises(TypeError, match="float64"):
        ops.layer_normalization(x, np.ones(3, np.float32))
    with pytest.raises(ValueError, match="axes: expected"):
        ops.batch_dot(x, x, (0, 1))
    with pytest.raises(ValueError, match="key: expected shape"):
        ops.attention(x[None], normal(1, 3, 4), x[None])
