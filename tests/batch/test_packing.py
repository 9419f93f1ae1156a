"""The plan of a packed batch against the reference's simple loops, and sequences that carry it."""

import numpy as np
import pytest
from helpers.masks import MASK_KINDS, full_mask, make_mask
from helpers.numeric import assert_same_bits

from fastmask import ops, reference
from fastmask.batch.packing import PackedSequence, Packing

SHAPES = [(1, 1), (1, 6), (2, 1), (5, 7), (33, 20), (3, 130)]


def check_plan(packing, mask):
    """Every attribute of ``packing`` equals what the loops say for ``mask``."""
    batch, total_length = mask.shape
    plan = reference.pack_plan(mask)
    for name in plan._fields:
        array = getattr(packing, name)
        assert array.dtype == np.int64, name
        np.testing.assert_array_equal(array, getattr(plan, name), err_msg=name)
    assert (packing.batch_size, packing.total_length) == (batch, total_length)
    assert packing.tokens == mask.sum()
    assert packing.mask.dtype == bool
    np.testing.assert_array_equal(packing.mask, mask)
    rows = plan.positions // max(total_length, 1)
    assert packing.rows.dtype == np.int64
    np.testing.assert_array_equal(packing.rows, rows)


def packing_of(mask, batch, time):
    return Packing.full(batch, time) if mask is None else Packing.from_mask(mask)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", MASK_KINDS)
class TestPlan:
    def test_attributes(self, kind, shape):
        mask = make_mask(kind, *shape)
        packing = packing_of(mask, *shape)
        assert packing.masked == (mask is not None)
        check_plan(packing, full_mask(mask, *shape))

    def test_reversal(self, kind, shape):
        mask = make_mask(kind, *shape)
        packing = packing_of(mask, *shape)
        valid = full_mask(mask, *shape)
        assert packing.reverse.dtype == np.int64
        np.testing.assert_array_equal(packing.reverse, reference.reverse_order(valid))
        assert packing.reversed.masked == packing.masked
        check_plan(packing.reversed, valid[:, ::-1])
        check_plan(packing.reversed.reversed, valid)

    def test_last_states(self, kind, shape):
        mask = make_mask(kind, *shape)
        packing = packing_of(mask, *shape)
        rows = np.arange(shape[0])
        of_row = np.concatenate([packing.sorted_indices, packing.rows])
        np.testing.assert_array_equal(packing.last_steps, [np.flatnonzero(of_row == row)[-1] for row in rows])

    @pytest.mark.parametrize("repeat", [False, True])
    def test_grid(self, kind, shape, repeat):
        mask = make_mask(kind, *shape)
        grid = packing_of(mask, *shape).grid(repeat)
        valid = full_mask(mask, *shape)
        numbers = np.arange(valid.sum())
        expected = reference.unpack(numbers, valid, fill=-1, repeat=repeat)
        assert grid.dtype == np.int64
        np.testing.assert_array_equal(grid, expected.reshape(-1))


@pytest.mark.parametrize("seed", range(20))
def test_random_masks(seed):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 40, 2)
    mask = rng.random(shape) < rng.random()
    check_plan(Packing.from_mask(mask), mask)


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (3, 0)])
def test_grid_without_cells(shape):
    mask = np.zeros(shape, bool)
    packing = Packing.from_mask(mask)
    check_plan(packing, mask)
    assert packing.grid(True).shape == (0,)


@pytest.mark.parametrize("steps", [1, 7, 8, 9, 64, 131])
def test_any_byte_but_zero_counts(steps):
    numbers = np.random.default_rng(steps).choice(np.array([0, 1, 2, 127, 128, 255], np.uint8), (6, steps))
    check_plan(Packing.from_mask(numbers.view(np.bool_)), numbers != 0)


def test_a_mask_in_any_memory_order():
    mask = make_mask("holes", 6, 9)
    for view in (np.asfortranarray(mask), mask[::-1, ::-1], np.repeat(mask, 2, axis=1)[:, ::2]):
        check_plan(Packing.from_mask(view), np.ascontiguousarray(view))


def test_plan_does_not_follow_later_changes_of_the_mask():
    mask = make_mask("holes", 4, 5)
    kept = mask.copy()
    packing = Packing.from_mask(mask)
    mask[:] = True
    check_plan(packing, kept)


@pytest.mark.parametrize("total_length", [None, 5, 8])
def test_from_lengths(total_length):
    lengths = [3, 0, 5, 5, 1]
    packing = Packing.from_lengths(lengths, total_length)
    mask = np.arange(total_length or 5) < np.array(lengths)[:, None]
    check_plan(packing, mask)
    assert packing.masked


@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("fill", [None, (5.0, -2.0)])
@pytest.mark.parametrize("kind", MASK_KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pad(kind, fill, repeat, dtype):
    mask = full_mask(make_mask(kind, 5, 6), 5, 6)
    values = np.random.default_rng(0).standard_normal((mask.sum(), 2)).astype(dtype)
    fill = None if fill is None else np.array(fill, dtype)
    sequence = PackedSequence(values, Packing.from_mask(mask), fill=fill, repeat=repeat)
    assert_same_bits(sequence.pad(), reference.unpack(values, mask, fill, repeat))


@pytest.mark.parametrize("kind", MASK_KINDS)
@pytest.mark.parametrize("token_shape", [(), (3,), (2, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_from_padded(kind, token_shape, dtype):
    mask = make_mask(kind, 5, 6)
    valid = full_mask(mask, 5, 6)
    x = (np.random.default_rng(0).standard_normal((5, 6, *token_shape)) * 9).astype(dtype)
    sequence = PackedSequence.from_padded(x, mask)
    assert sequence.index is None
    assert sequence.packing.masked == (mask is not None)
    assert sequence.shape == x.shape
    assert sequence.dtype == dtype
    assert_same_bits(sequence.values, reference.pack(x, valid))
    grid_mask = valid.reshape(valid.shape + (1,) * len(token_shape))
    assert_same_bits(sequence.pad(), np.where(grid_mask, x, np.zeros((), dtype)))


def test_from_list_pads_nothing():
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((length, 3)) for length in (2, 0, 5, 1)]
    sequence = PackedSequence.from_list(rows)
    assert sequence.shape == (4, 5, 3)
    padded = np.zeros((4, 5, 3))
    for row, x in enumerate(rows):
        padded[row, : len(x)] = x
    assert_same_bits(sequence.pad(), padded)
    assert_same_bits(sequence.values, reference.pack(padded, sequence.packing.mask))


def test_from_list_of_ids():
    sequence = PackedSequence.from_list([np.array([4, 1]), np.array([7]), np.array([1, 2, 3])])
    assert sequence.values.dtype.kind == "i"
    np.testing.assert_array_equal(sequence.pad(), [[4, 1, 0], [7, 0, 0], [1, 2, 3]])


class TestIndex:
    """A sequence whose tokens share rows of values."""

    mask = make_mask("holes", 4, 5)

    def sequence(self, **options):
        values = np.random.default_rng(0).standard_normal((3, 2))
        index = np.random.default_rng(1).integers(0, 3, self.mask.sum())
        return PackedSequence(values, Packing.from_mask(self.mask), index, **options)

    def test_data(self):
        sequence = self.sequence()
        assert_same_bits(sequence.data, sequence.values[sequence.index])
        assert sequence.shape == (4, 5, 2)

    def test_pad(self):
        sequence = self.sequence(fill=np.ones(2))
        expected = reference.unpack(sequence.data, self.mask, [1.0, 1.0])
        assert_same_bits(sequence.pad(), expected)

    def test_expand(self):
        sequence = self.sequence(repeat=True)
        expanded = sequence.expand()
        assert expanded.index is None
        assert_same_bits(expanded.values, sequence.data)
        assert_same_bits(expanded.pad(), sequence.pad())
        assert expanded.packing is sequence.packing

    def test_with_values(self):
        sequence = self.sequence(repeat=True)
        other = sequence.with_values(np.arange(3.0), fill=np.array(9.0))
        assert other.index is sequence.index
        assert other.packing is sequence.packing
        assert other.shape == (4, 5)
        expected = reference.unpack(np.arange(3.0)[sequence.index], self.mask, 9.0, repeat=True)
        assert_same_bits(other.pad(), expected)


def test_sequence_exposes_the_plan_under_the_names_of_torch():
    sequence = PackedSequence.from_padded(np.ones((3, 4, 2)), make_mask("right", 3, 4))
    for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        assert getattr(sequence, name) is getattr(sequence.packing, name)


def test_sequence_is_frozen():
    sequence = PackedSequence.from_padded(np.ones((3, 4, 2)))
    with pytest.raises(AttributeError):
        sequence.values = np.zeros((12, 2))


@pytest.mark.parametrize(
    ("call", "error", "name"),
    [
        (lambda: Packing.from_mask(np.full((2, 3), 0.5)), ValueError, "mask"),
        (lambda: Packing.from_mask(np.ones(3, bool)), ValueError, "mask"),
        (lambda: Packing.from_lengths([2, -1]), ValueError, "lengths"),
        (lambda: Packing.from_lengths([2, 5], 4), ValueError, "lengths"),
        (lambda: Packing.from_lengths([[2, 5]]), ValueError, "lengths"),
        (lambda: Packing.from_lengths(np.empty(0, "i4,f4")), ValueError, "lengths"),
        (lambda: Packing.from_batch_sizes(np.empty(0, "M8[s]")), ValueError, "batch_sizes"),
        (lambda: Packing.full(-1, 3), ValueError, "batch_size"),
        (lambda: PackedSequence(np.ones((5, 2)), Packing.full(2, 3)), ValueError, "values"),
        (
            lambda: PackedSequence(np.ones((5, 2)), Packing.full(2, 3), np.zeros(4, np.int64)),
            ValueError,
            "index",
        ),
        (
            lambda: PackedSequence(np.ones((5, 2)), Packing.full(2, 3), np.full(6, 5)),
            ValueError,
            "index",
        ),
        (
            lambda: PackedSequence(np.ones((6, 2)), Packing.full(2, 3), fill=np.ones(3)),
            ValueError,
            "fill",
        ),
        (
            lambda: PackedSequence(np.ones((6, 2)), Packing.full(2, 3), fill=np.zeros(2, "i4,f4")),
            TypeError,
            "fill",
        ),
        (lambda: PackedSequence.from_padded(np.ones(3)), ValueError, "x"),
        (
            lambda: PackedSequence.from_padded(np.ones((2, 3, 1)), np.ones((2, 4), bool)),
            ValueError,
            "mask",
        ),
        (lambda: PackedSequence.from_list([]), ValueError, "sequences"),
        (
            lambda: PackedSequence.from_list([np.ones((2, 3)), np.ones((2, 4))]),
            ValueError,
            "sequences",
        ),
    ],
)
def test_bad_input_is_named(call, error, name):
    with pytest.raises(error, match=rf"\b{name}\b"):
        call()


def test_masked_places_that_show_stored_values():
    mask = np.array([[True, False, True], [False, False, True]])
    plan = Packing.from_mask(mask)
    values = np.arange(10.0).reshape(5, 2)
    packed = PackedSequence(values, plan, np.arange(3), None, False, np.array([3, 4, 4]))
    expected = np.zeros((2, 3, 2))
    expected[mask] = values[[0, 2, 1]]
    expected[~mask] = values[[3, 4, 4]]
    np.testing.assert_array_equal(packed.pad(), expected)
    np.testing.assert_array_equal(packed.with_values(2 * values).pad(), 2 * expected)
    np.testing.assert_array_equal(values[packed.cells()].reshape(2, 3, 2), expected)
    gradient = ops.unpack_vjp(packed)[1](np.ones((2, 3, 2)))
    np.testing.assert_array_equal(gradient[:, 0], [1, 1, 1, 1, 2])
    with pytest.raises(ValueError, match="shown: expected"):
        PackedSequence(values[:3], plan, None, None, False, np.array([0, 0, 0]))
    with pytest.raises(ValueError, match="shown: expected"):
        PackedSequence(values, plan, np.arange(3), None, False, np.array([3]))


@pytest.mark.parametrize("shape", SHAPES)
class TestBatchSizes:
    def test_plan_of_leading_steps(self, shape):
        """The plan of lengths, made again from its own batch sizes and order."""
        lengths = np.random.default_rng(0).integers(0, shape[1] + 1, shape[0])
        plan = Packing.from_lengths(lengths)
        again = Packing.from_batch_sizes(plan.batch_sizes, plan.sorted_indices)
        assert again.batch_sizes is plan.batch_sizes
        assert again.sorted_indices is plan.sorted_indices
        assert again.masked
        mask = np.arange(plan.total_length) < lengths[:, None]
        check_plan(again, mask)
        np.testing.assert_array_equal(again.reverse, plan.reverse)
        np.testing.assert_array_equal(again.last_steps, plan.last_steps)

    def test_rows_in_any_order_of_equal_lengths(self, shape):
        rng = np.random.default_rng(1)
        lengths = np.sort(rng.integers(0, shape[1] + 1, shape[0]))[::-1]
        order = rng.permutation(shape[0])
        sizes = (lengths[:, None] > np.arange(lengths.max(initial=0))).sum(0)
        plan = Packing.from_batch_sizes(sizes, order)
        assert plan.lengths.dtype == plan.unsorted_indices.dtype == np.int64
        np.testing.assert_array_equal(plan.lengths[order], lengths)
        np.testing.assert_array_equal(plan.unsorted_indices[order], np.arange(shape[0]))
        np.testing.assert_array_equal(plan.rows, np.concatenate([order[:n] for n in sizes] or [order[:0]]))


class TestBadBatchSizes:
    def test_sorted_rows_by_default(self):
        plan = Packing.from_batch_sizes([3, 1])
        assert plan.lengths.tolist() == [2, 1, 1]
        assert Packing.from_batch_sizes([]).batch_size == 0

    @pytest.mark.parametrize("sizes", [[1, 2], [2, 0], [-1], [[2, 1]], [1.0]])
    def test_sizes(self, sizes):
        with pytest.raises(ValueError, match="batch_sizes: expected"):
            Packing.from_batch_sizes(sizes)

    @pytest.mark.parametrize("order", [[0], [0, 0], [0, 2], [-1, 0], [[0, 1]], [0.0, 1.0]])
    def test_order(self, order):
        with pytest.raises(ValueError, match="sorted_indices: expected"):
            Packing.from_batch_sizes([2, 1], order)
