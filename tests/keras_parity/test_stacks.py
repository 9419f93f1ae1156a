"""predict() of stacks of layers against Keras, at masked places too."""

import numpy as np
import pytest

import fastmask as fm

from .archive import load
from .compare import assert_close
from .specs import make_layers

CASES = load("stacks")["cases"]
ATOL = {"float64": 1e-12, "float32": 2e-6}
# Outputs of go_backwards run in processing order under a mask in time order; fastmask then shows
# zeros at masked places, where Keras shows whatever step stands there.
VALID_ONLY = ("backwards",)


def make(case, dtype):
    """The recorded model in ``dtype``."""
    model = fm.Sequential(make_layers(fm.layers, case["layers"], dtype))
    x = case["inputs"]
    model.build((None, None, *x.shape[2:]))
    model.set_weights(case["weights"])
    return model


@pytest.mark.parametrize("batch_size", [3, 1, 12])
@pytest.mark.parametrize("dtype", ATOL)
@pytest.mark.parametrize("name", CASES)
def test_predict(name, dtype, batch_size):
    case = CASES[name]
    y = make(case, dtype).predict(case["inputs"], batch_size=batch_size, verbose=0)
    assert y.dtype == dtype
    expected = case["outputs"]
    if name in VALID_ONLY:
        mask = case["inputs"] != 0
        y, expected = y[mask], expected[mask]
    assert_close(y, expected, ATOL[dtype], "prediction")


@pytest.mark.parametrize("name", CASES)
def test_call(name):
    case = CASES[name]
    model = make(case, "float64")
    predicted = model.predict(case["inputs"], batch_size=12, verbose=0)
    np.testing.assert_array_equal(model(case["inputs"]), predicted)
