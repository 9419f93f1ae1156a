"""Embedding, Masking, Dense and Activation against Keras."""

import numpy as np
import pytest

import fastmask as fm

from .archive import load
from .compare import assert_packed_call, assert_padded_call, prepare

CASES = load("layers")["cases"]
DTYPES = ["float64", "float32"]


def make(case, dtype):
    """The recorded layer in ``dtype``."""
    return prepare(getattr(fm.layers, case["layer"])(**case["config"] | {"dtype": dtype}), case)


def named(*prefixes):
    """Cases whose names begin so."""
    return [name for name in CASES if name.startswith(prefixes)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_padded(name, dtype):
    assert_padded_call(make(CASES[name], dtype), CASES[name], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", named("activation", "dense-sequences"))
def test_packed(name, dtype):
    assert_packed_call(make(CASES[name], dtype), CASES[name], dtype)


@pytest.mark.parametrize("name", CASES)
def test_compute_mask(name):
    case = CASES[name]
    found = make(case, "float64").compute_mask(case["inputs"], case["mask"])
    np.testing.assert_equal(found, case["output_mask"][0])


@pytest.mark.parametrize("name", named("embedding-matrix-mask_zero", "masking"))
def test_packing_by_own_mask(name):
    case = CASES[name]
    layer = make(case, "float64")
    packed = layer.pack_input(case["inputs"])
    np.testing.assert_array_equal(packed.packing.mask, case["output_mask"][0])
    y = layer(packed)
    np.testing.assert_array_equal(y.packing.mask, case["output_mask"][0])
    np.testing.assert_array_equal(y.pad(), case["outputs"][0])


def test_every_activation_is_recorded():
    of_keras_3 = set(fm.ops.ACTIVATIONS) - {"hard_sigmoid_keras2"}
    assert of_keras_3 == {name.split("-")[1] for name in named("activation")}
