"""Bidirectional and TimeDistributed against Keras, padded and packed."""

import numpy as np
import pytest

import fastmask as fm

from .archive import load
from .compare import assert_packed_call, assert_padded_call, prepare

CASES = load("wrappers")["cases"]


def make(case, dtype):
    """The recorded wrapper in ``dtype``."""
    inner = getattr(fm.layers, case["layer"])(**case["config"] | {"dtype": dtype})
    if case["layer"] == "Dense":
        return prepare(fm.layers.TimeDistributed(inner, dtype=dtype), case)
    wrapper = fm.layers.Bidirectional(inner, merge_mode=case["merge_mode"], dtype=dtype)
    return prepare(wrapper, case)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_padded(name, dtype):
    assert_padded_call(make(CASES[name], dtype), CASES[name], dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_packed(name, dtype):
    assert_packed_call(make(CASES[name], dtype), CASES[name], dtype)


@pytest.mark.parametrize("name", CASES)
def test_compute_mask(name):
    case = CASES[name]
    found = make(case, "float64").compute_mask(case["inputs"], case["mask"])
    found = found[0] if isinstance(found, (list, tuple)) else found
    np.testing.assert_equal(found, case["output_mask"][0])
