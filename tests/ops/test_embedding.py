"""The embedding lookup and its sparse gradient against the reference."""

import numpy as np
import pytest
from helpers.masks import MASK_KINDS, full_mask, make_mask
from helpers.numeric import assert_close, assert_same_bits

from fastmask import PackedSequence, ops, reference
from fastmask.kernels import packing

pytestmark = pytest.mark.usefixtures("instruction_set")

DTYPES = [np.float32, np.float64]
ID_TYPES = [np.int8, np.uint8, np.int32, np.int64, np.uint64]


def make_table(vocabulary, dimension, dtype):
    return np.random.default_rng(0).standard_normal((vocabulary, dimension)).astype(dtype)


def make_ids(shape, vocabulary, dtype=np.int64):
    """Ids with many repetitions of the small ones."""
    draws = np.random.default_rng(1).zipf(1.5, shape)
    return ((draws - 1) % vocabulary).astype(dtype)


def check_sparse(gradient, expected, table):
    """A gradient with each id once equals the dense ``expected``."""
    assert gradient.shape == table.shape
    assert gradient.ids.dtype == np.int64
    assert gradient.rows.dtype == table.dtype
    assert gradient.rows.shape == (len(gradient.ids), table.shape[1])
    assert len(np.unique(gradient.ids)) == len(gradient.ids)
    dense = gradient.dense()
    assert dense.dtype == table.dtype
    assert_close(dense, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dimension", [1, 3, 4, 5, 8, 9, 16, 17, 53])
def test_dimensions(dimension, dtype):
    table, ids = make_table(11, dimension, dtype), make_ids((6, 7), 11)
    y, pullback = ops.embedding_vjp(ids, table)
    assert_same_bits(y, table[ids])
    assert_same_bits(ops.embedding(ids, table), y)
    dy = np.random.default_rng(2).standard_normal(y.shape).astype(dtype)
    _, reference_pullback = reference.embedding_vjp(ids, table.astype(np.float64))
    check_sparse(pullback(dy), reference_pullback(dy.astype(np.float64)), table)


@pytest.mark.parametrize("dtype", ID_TYPES)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 3, 4), (0,), (3, 0)])
def test_ids_of_any_shape_and_type(shape, dtype):
    table, ids = make_table(7, 5, np.float32), make_ids(shape, 7, dtype)
    y, pullback = ops.embedding_vjp(np.asarray(ids), table)
    assert_same_bits(y, table[ids].reshape(*shape, 5))
    dy = np.ones_like(y)
    counts = np.bincount(np.ravel(ids).astype(np.int64), minlength=7).astype(float)
    check_sparse(pullback(dy), np.repeat(counts[:, None], 5, axis=1), table)


@pytest.mark.parametrize("tokens", [0, 1, 8, 9, 40, 1000])
@pytest.mark.parametrize("bound", [1, 16, 17, 10**6, 2**63 - 1])
def test_distinct_ids(bound, tokens):
    rng = np.random.default_rng(tokens)
    ids = rng.choice(rng.integers(0, bound, 100), tokens)
    unique, index, bad = packing.distinct(ids, bound)
    assert bad == -1
    assert_same_bits(unique, ids[np.sort(np.unique(ids, return_index=True)[1])])
    assert_same_bits(unique[index], ids)
    if tokens:
        ids[tokens // 2] = -1
        assert packing.distinct(ids, bound)[2] == tokens // 2


def test_ids_that_meet_in_one_slot():
    """Multiples of the number that undoes the spreading are all sent to the first slots."""
    step = pow(0x9E3779B97F4A7C15, -1, 2**64) % 2**61
    ids = np.array([n * step % 2**62 for n in range(200)] * 2)
    unique, index, bad = packing.distinct(ids, 2**62)
    assert bad == -1
    assert_same_bits(unique, ids[:200])
    assert_same_bits(unique[index], ids)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask", MASK_KINDS)
def test_packed_ids(mask, dtype):
    table, ids = make_table(9, 6, dtype), make_ids((5, 7), 9)
    grid_mask = make_mask(mask, 5, 7)
    valid = full_mask(grid_mask, 5, 7)
    packed = PackedSequence.from_padded(ids, grid_mask)
    y, pullback = ops.embedding_vjp(packed, table)
    distinct = np.unique(ids[valid])
    assert y.packing is packed.packing
    assert len(y.values) == len(distinct)
    assert_same_bits(y.data, reference.pack(table[ids], valid))
    assert_same_bits(ops.embedding(packed, table).values, y.values)
    id_of_value = np.zeros(len(y.values), np.int64)
    id_of_value[y.index] = reference.pack(ids, valid)
    np.testing.assert_array_equal(np.sort(id_of_value), distinct)
    dy = np.random.default_rng(2).standard_normal(y.values.shape).astype(dtype)
    expected = np.zeros(table.shape)
    expected[id_of_value] = dy
    gradient = pullback(dy)
    np.testing.assert_array_equal(np.sort(gradient.ids), distinct)
    check_sparse(gradient, expected, table)


@pytest.mark.parametrize("mask", MASK_KINDS)
def test_gradient_of_tokens_is_summed_by_id(mask):
    """The sum holds for gradients that come through expand and unpack, as from layers on the padded grid."""
    table, ids = make_table(9, 6, np.float64), make_ids((5, 7), 9)
    grid_mask = make_mask(mask, 5, 7)
    sequence, embedding_pullback = ops.embedding_vjp(PackedSequence.from_padded(ids, grid_mask), table)
    padded, unpack_pullback = ops.unpack_vjp(sequence)
    dy = np.random.default_rng(2).standard_normal(padded.shape)
    gradient = embedding_pullback(unpack_pullback(dy)).dense()
    valid = full_mask(grid_mask, 5, 7)
    _, reference_pullback = reference.embedding_vjp(ids, table)
    assert_close(gradient, reference_pullback(np.where(valid[:, :, None], dy, 0)))


def test_large_vocabulary():
    table, ids = make_table(50_000, 4, np.float32), make_ids((40, 50), 50_000)
    ids[3, 4] = 49_999
    packed = PackedSequence.from_padded(ids, make_mask("right", 40, 50))
    y, pullback = ops.embedding_vjp(packed, table)
    assert_same_bits(y.data, table[packed.values])
    assert len(y.values) == len(np.unique(packed.values))
    assert pullback(y.values).shape == (50_000, 4)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bad", [5, 6, 2**40, -1, -6, -(2**40)])
def test_ids_out_of_range(bad, packed):
    table, ids = make_table(5, 3, np.float32), np.array([[0, 1], [bad, 4]])
    with pytest.raises(IndexError, match=rf"\bids\b.*{bad}"):
        ops.embedding(PackedSequence.from_padded(ids) if packed else ids, table)


def test_ids_in_padding_are_not_read():
    table, ids = make_table(5, 3, np.float32), np.array([[0, 1], [10**6, 4]])
    packed = PackedSequence.from_padded(ids, np.array([[True, True], [False, True]]))
    np.testing.assert_array_equal(ops.embedding(packed, table).pad()[1, 1], table[4])


@pytest.mark.parametrize(
    ("ids", "table", "error", "name"),
    [
        (np.full((2, 3), 0.5), np.ones((5, 3), np.float32), TypeError, "ids"),
        (np.ones((2, 3), int), np.ones((5, 3), int), TypeError, "embeddings"),
        (np.ones((2, 3), int), np.ones(5, np.float32), ValueError, "embeddings"),
        (PackedSequence.from_padded(np.full((2, 3), np.nan)), np.ones((5, 3)), TypeError, "ids"),
    ],
)
def test_bad_input_is_named(ids, table, error, name):
    with pytest.raises(error, match=rf"\b{name}\b"):
        ops.embedding(ids, table)
