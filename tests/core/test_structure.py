"""Nested lists, tuples and dicts: their order, their leaves, and what is given for these."""

from collections import OrderedDict, namedtuple

import pytest

from fastmask.core.structure import aligned, flatten, map_structure, pack_as, paths

Pair = namedtuple("Pair", "b a")
NAMES = {"y": ("two", ["three"]), "x": "one"}


@pytest.mark.parametrize(
    ("structure", "leaves"),
    [
        (5, [5]),
        ({"b": 1, "a": 2}, [2, 1]),
        (OrderedDict(b=1, a=2), [1, 2]),
        (Pair(1, 2), [1, 2]),
        ({"b": [1, (2, {"z": 3, "y": None})], "a": ()}, [1, 2, None, 3]),
    ],
)
def test_leaves_come_in_the_order_of_keras_and_can_be_put_back(structure, leaves):
    assert flatten(structure) == leaves
    assert pack_as(structure, leaves) == structure
    assert type(pack_as(structure, leaves)) in (type(structure), dict)
    assert flatten(map_structure(lambda leaf: [leaf, leaf], structure)) == [leaf for leaf in leaves for _ in range(2)]
    assert len(paths(structure)) == len(leaves)


def test_paths():
    assert paths({"b": [1, (2,)], "a": 3}) == [("a",), ("b", 0), ("b", 1, 0)]


@pytest.mark.parametrize(
    ("values", "required", "expected"),
    [
        ({"x": 1, "y": (2, (3,))}, True, [1, 2, 3]),
        ({"x": 1, "y": [2, [3]], "z": 9}, True, [1, 2, 3]),
        ({"one": 1, "three": 3, "two": 2}, True, [1, 2, 3]),
        ([1, 2, 3], True, [1, 2, 3]),
        ({"x": 1}, False, [1, None, None]),
        ({"y": (2, None)}, False, [None, 2, None]),
        ({"three": 3}, False, [None, None, 3]),
        (None, False, [None, None, None]),
    ],
)
def test_entries_are_given_in_the_form_or_flat_or_by_name(values, required, expected):
    assert aligned("y", values, NAMES, required) == expected


@pytest.mark.parametrize(
    ("values", "required"),
    [
        ({"x": 1}, True), ({"x": 1, "y": (2, 3)}, False), ({"x": 1, "z": 2}, False), ([1, 2], False), (1, False),
        (None, True), ({}, True), ([1, 2, None], True),
    ],
)  # fmt: skip
def test_what_has_another_form_is_named(values, required):
    with pytest.raises(ValueError, match=r"y: expected an entry for each of one, two, three, in the form {'y': "):
        aligned("y", values, NAMES, required)


def test_a_single_entry_needs_no_form():
    for names in ("one", ["one"], {"key": "one"}):
        assert aligned("y", 1, names) == aligned("y", {"one": 1}, names) == [1]
    assert aligned("y", {"key": 1}, {"key": "one"}) == [1]
    with pytest.raises(ValueError, match="x: expected an entry for one, got the keys two"):
        aligned("x", {"two": 1}, "one", required=True)
