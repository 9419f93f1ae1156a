"""Rows out of objects that hold them in ways of their own, known by their attributes alone."""

from collections.abc import Sequence

import numpy as np
import pytest

from fastmask.batch.rows import as_rows, axes

ROWS = [[1, 2, 3], [4], [], [5, 6]]
FLAT = np.arange(1, 7)


class Ragged:
    """As TensorFlow has it: values, and where each row begins."""

    def __init__(self, values, splits):
        self.values, self.row_splits = values, splits

    def __getitem__(self, index):
        raise NotImplementedError


class Lists:
    """As pyarrow has it: an array of lists."""

    null_count = 0

    def __init__(self, values, lengths):
        self.values, self.lengths = values, lengths

    def __len__(self):
        return len(self.lengths)

    def value_lengths(self):
        return Scalars(self.lengths)

    def flatten(self):
        return self.values


class Scalars:
    def __init__(self, values):
        self.values = values

    def to_pylist(self):
        return self.values


class Chunks:
    def __init__(self, *chunks):
        self.chunks = chunks

    def combine_chunks(self):
        raise NotImplementedError


class Column(Sequence):
    """As datasets have it: rows that are read when they are asked for."""

    column_name = "tokens"

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


class Tensor:
    """As PyTorch has it: an array that may be on another device and in a graph of gradients."""

    is_nested = False

    def __init__(self, array, detached=False):
        self.array, self.detached = np.asarray(array), detached

    def detach(self):
        return Tensor(self.array, True)

    def cpu(self):
        return self

    def __array__(self, dtype=None, copy=None):
        assert self.detached
        return self.array


class Nested:
    is_nested = True

    def __init__(self, rows):
        self.rows = rows

    def unbind(self):
        return tuple(map(Tensor, self.rows))


def objects(rows):
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


@pytest.mark.parametrize(
    "values",
    [
        ROWS,
        tuple(map(np.array, ROWS)),
        objects(ROWS),
        Ragged(FLAT, [0, 3, 4, 4, 6]),
        Ragged(Tensor(FLAT), np.array([0, 3, 4, 4, 6])),
        Lists(FLAT, [3, 1, 0, 2]),
        Chunks(Lists(FLAT[:4], [3, 1]), Lists(FLAT[4:], [0, 2])),
        Column(ROWS),
        Nested(ROWS),
        list(map(Tensor, ROWS)),
    ],
    ids=["lists", "arrays", "objects", "ragged", "tensors", "arrow", "chunks", "column", "nested", "list of tensors"],
)
def test_rows_of_different_length(values):
    rows = as_rows("x", values)
    assert isinstance(rows, list)
    assert [row.tolist() for row in rows] == ROWS
    assert {row.dtype.kind for row in rows} == {"i"}  # those of an empty row are those of the others


@pytest.mark.parametrize("values", [np.arange(3), Tensor(np.arange(3)), Column(np.arange(3)), memoryview(b"\0\1\2")])
def test_numbers_become_an_array(values):
    np.testing.assert_array_equal(as_rows("x", values), np.arange(3))


@pytest.mark.parametrize(
    "values",
    [
        [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]]],
        objects([objects([np.array([1.0, 2]), np.array([3.0, 4])]), objects([np.array([5.0, 6])])]),
        Lists(np.arange(1.0, 7).reshape(3, 2), [2, 1]),
        Lists(Lists(np.arange(1.0, 7), [2, 2, 2]), [2, 1]),
        Ragged(np.arange(1.0, 7).reshape(3, 2), [0, 2, 3]),
        Ragged(Ragged(np.arange(1.0, 7), [0, 2, 4, 6]), [0, 2, 3]),
    ],
)
def test_features_of_each_step(values):
    assert [row.tolist() for row in as_rows("x", values)] == [[[1, 2], [3, 4]], [[5, 6]]]


def test_rows_are_views():
    for values in (Ragged(FLAT, [0, 3, 6]), Lists(FLAT, [2, 4]), [FLAT[:2], FLAT[2:]]):
        assert all(np.shares_memory(row, FLAT) for row in as_rows("x", values))


def test_an_array_is_not_copied():
    assert as_rows("x", FLAT) is FLAT
    assert all(row is FLAT for row in as_rows("x", [FLAT, FLAT]))


def test_no_rows():
    for values in ([], objects([]), Column([]), Chunks()):
        assert as_rows("x", values) == []


NUMBERED = "; words and classes must be numbered first"


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ("good film", TypeError, f"x: expected numbers, got text such as 'good film'{NUMBERED}"),
        (b"film", TypeError, f"x: expected numbers, got text such as b'film'{NUMBERED}"),
        (["good film", "bad"], TypeError, rf"x\[0\]: expected numbers, got text such as 'good film'{NUMBERED}"),
        ([[1], ["a", "b"]], TypeError, rf"x\[1\]: expected numbers, got text such as 'a'{NUMBERED}"),
        (np.array([["a"]]), TypeError, f"x: expected numbers, got text such as 'a'{NUMBERED}"),
        (objects([["a", None]]), TypeError, rf"x\[0\]: expected numbers, got text such as 'a'{NUMBERED}"),
        ([[1], None], TypeError, r"x\[1\]: expected numbers, got NoneType"),
        ([[1], [None]], TypeError, r"x\[1\]: expected numbers, got dtype object"),
        (object(), TypeError, "x: expected numbers, got object"),
        (Tensor(None), TypeError, "x: expected numbers, got Tensor"),
        ([[1, [2, 3]], [1]], ValueError, r"x\[0\]: expected an array, got sequences of different lengths"),
        (Lists(Lists(FLAT, [4, 2]), [1, 1]), ValueError, r"x: expected lists of one length .*, got \[2, 4\]"),
        (Ragged(Ragged(FLAT, [0, 4, 6]), [0, 1, 2]), ValueError, "x: expected an array, got sequences of different"),
    ],
)
def test_errors(values, error, message):
    with pytest.raises(error, match=message):
        as_rows("x", values)


def test_a_dataset_of_single_rows_is_no_array():
    class Dataset:
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return FLAT, index

    with pytest.raises(TypeError, match="x: expected an array, rows or an iterable of batches, got Dataset"):
        as_rows("x", Dataset())


@pytest.mark.parametrize(
    ("values", "count"), [(FLAT, 1), (FLAT[None], 2), ([FLAT, FLAT], 2), ([[1], [2, 3]], 2), ([], 1), (3, 0)]
)
def test_axes(values, count):
    assert axes(values) == count
