"""Masks that are computed in a graph."""

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers


@pytest.mark.parametrize("value", [0, 2])
def test_nothing_differs_where_a_row_of_a_list_has_ended(value):
    """Rows in a list give what they give in an array that is padded with the number that does not count."""
    ids = fm.Input((None,), dtype="int32")
    model = fm.Model(ids, layers.GRU(3)(layers.Embedding(9, 4)(ids), mask=ids != value))
    rows = [np.array([3, 5, 4]), np.array([4, 7, 8, 6, 5]), np.array([1])]
    padded = np.array([[*row, *[value] * (5 - len(row))] for row in rows])
    np.testing.assert_array_equal(model.predict(rows), model.predict(padded))
