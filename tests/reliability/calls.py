"""Calls of public functions, first as they should be, then with arguments that were tampered with.

The rule: a call gives the reference's answer or raises a documented exception that names an argument.
"""

import functools
import os
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from helpers.examples import PASSED
from helpers.numeric import assert_same_bits
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st

from .arrays import DAMAGES, LAYOUTS, damaged, relaid

# The same examples every time, unless a number of them is asked for.
EXAMPLES = int(os.environ.get("FASTMASK_EXAMPLES", "0"))
DOCUMENTED = (TypeError, ValueError, IndexError, MemoryError)
TOLERANCE = {"float16": 1e-2, "float32": 2e-4, "float64": 1e-9, "int8": 0, "int32": 0, "int64": 0}


def examples(usual):
    """Make a test try `usual` examples, or as many as the environment asks for, and count those that pass."""
    chosen = settings(
        max_examples=EXAMPLES or usual, derandomize=not EXAMPLES, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), print_blob=False,
    )  # fmt: skip

    def decorate(test):
        check = test.hypothesis.inner_test

        @functools.wraps(check)
        def counted(*arguments, **keywords):
            check(*arguments, **keywords)
            PASSED[check.__module__] += 1

        test.hypothesis.inner_test = counted
        return chosen(test)

    return decorate


@dataclass
class Call:
    """A call that works.

    ``run`` and ``reference`` take the arguments by name and return arrays by name; the reference gets plain
    arrays, floats in float64. The results have ``dtype``, or that of some argument if it is None.
    """

    arguments: dict[str, Any]
    run: Any
    reference: Any
    dtype: Any


def _plain(value, good):
    """What the reference gets for `value`, which stands in the place of `good`: arrays, also for lists and floats."""
    if isinstance(good, tuple) and isinstance(value, (tuple, list)):
        return type(value)(_plain(part, None) for part in value)
    if isinstance(value, (tuple, list, float)):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray):
        return value
    value = np.array(value, value.dtype.newbyteorder("="), order="C", subok=False)
    return value.astype(np.float64) if value.dtype == np.float32 else value


def _reference(call, arguments):
    """The reference's answer to the call with these arguments."""
    return call.reference(**{name: _plain(value, call.arguments[name]) for name, value in arguments.items()})


def _places(arguments):
    """Where arrays stand: (name, None), or (name, i) in a tuple of arrays."""
    for name, value in arguments.items():
        yield name, None
        if isinstance(value, tuple):
            yield from ((name, i) for i in range(len(value)))


def _replace(arguments, place, change):
    name, i = place
    old = arguments[name]
    new = change(old) if i is None else (*old[:i], change(old[i]), *old[i + 1 :])
    return arguments | {name: new}


def _ordinary(value):
    """Whether sums and products of these numbers neither overflow nor are NaN."""
    if isinstance(value, tuple):
        return all(map(_ordinary, value))
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return True
    return bool((np.abs(value) < 1e15).all())


def assert_agree(actual, expected, dtype, numbers=True):
    """The results have the shapes and dtype of the reference's, and its `numbers`."""
    assert actual.keys() == expected.keys()
    for name, wanted in expected.items():
        got = actual[name]
        assert got.shape == np.shape(wanted), name
        assert dtype is None or got.dtype == dtype, name
        if not numbers or got.dtype.name not in TOLERANCE:
            continue
        limit = TOLERANCE[got.dtype.name] * max(1.0, np.abs(wanted).max(initial=0))
        np.testing.assert_allclose(got, wanted, rtol=0, atol=limit, err_msg=name)


def check_layouts(data, call):
    """Other memory, same bits."""
    expected = call.run(**call.arguments)
    assert_agree(expected, _reference(call, call.arguments), call.dtype)
    places = [p for p in _places(call.arguments) if isinstance(_at(call.arguments, p), np.ndarray)]
    arguments = call.arguments
    for place in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=4, unique=True)):
        layout = data.draw(st.sampled_from(LAYOUTS))
        arguments = _replace(arguments, place, lambda array, layout=layout: relaid(array, layout))
    actual = call.run(**arguments)
    for name, array in expected.items():
        assert_same_bits(actual[name].astype(array.dtype), array, name)


def _at(arguments, place):
    value = arguments[place[0]]
    return value if place[1] is None else value[place[1]]


def check_damages(data, call):
    """The reference's answer or a documented exception."""
    places = list(_places(call.arguments))
    arguments = call.arguments
    for place in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=3)):
        name, i = place
        if i is not None and not (isinstance(arguments[name], tuple) and len(arguments[name]) > i):
            continue
        kind = data.draw(st.sampled_from(DAMAGES))
        arguments = _replace(arguments, place, lambda array, kind=kind: damaged(data, array, kind))
    note(f"arguments: {arguments}")
    with np.errstate(all="ignore"):
        try:
            actual = call.run(**arguments)
        except DOCUMENTED as error:
            assert_names_an_argument(error, arguments)
            return
        expected = _reference(call, arguments)
        numbers = all(_ordinary(value) for value in arguments.values())
        # Lists are float64 where no array says otherwise.
        given = [_at(arguments, place) for place in _places(arguments)]
        dtype = call.dtype if any(getattr(value, "dtype", None) == call.dtype for value in given) else None
        assert_agree(actual, expected, dtype, numbers)


def assert_names_an_argument(error, arguments):
    """The message of an exception holds the name of an argument; NumPy's about memory say how much."""
    if isinstance(error, MemoryError) or "array is too big" in str(error):
        return
    words = set(re.findall(r"\w+", str(error)))
    if not words & {*arguments, "bias", "state", "values", "sequences", "x", "axis"}:
        pytest.fail(f"{type(error).__name__} names no argument: {error}")
