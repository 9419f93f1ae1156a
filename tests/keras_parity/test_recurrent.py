"""SimpleRNN, LSTM and GRU against Keras: every mask and option, padded and packed."""

import numpy as np
import pytest

import fastmask as fm

from .archive import load
from .compare import assert_close, assert_packed_call, assert_padded_call, prepare

CASES = load("recurrent")["cases"]
STATEFUL = load("stateful")["cases"]


def make(case, dtype):
    """The recorded layer in ``dtype``."""
    return prepare(getattr(fm.layers, case["layer"])(**case["config"] | {"dtype": dtype}), case)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_padded(name, dtype):
    assert_padded_call(make(CASES[name], dtype), CASES[name], dtype)


def misaligned(case):
    """Whether outputs in processing order come under a mask in time order."""
    config = case["config"]
    backwards = config.get("go_backwards") and config.get("return_sequences")
    return backwards and case["mask"] is not None


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", [name for name in CASES if not misaligned(CASES[name])])
def test_packed(name, dtype):
    assert_packed_call(make(CASES[name], dtype), CASES[name], dtype)


@pytest.mark.parametrize("name", [name for name in CASES if misaligned(CASES[name])])
def test_packed_backwards(name):
    case = CASES[name]
    x = fm.PackedSequence.from_padded(case["inputs"], case["mask"])
    y = make(case, "float64")(x, initial_state=tuple(case["initial_state"]) or None)
    y = y[0] if isinstance(y, tuple) else y
    # Like Keras's, the mask stays that of the input; at masked places the packed output has no value.
    np.testing.assert_array_equal(y.packing.mask, case["mask"])
    expected = case["outputs"][0] * case["mask"][..., None]
    assert_close(y.pad(), expected, 1e-12, "output")


@pytest.mark.parametrize("name", CASES)
def test_compute_mask(name):
    case = CASES[name]
    layer = make(case, "float64")
    found = layer.compute_mask(case["inputs"], case["mask"])
    # With return_state Keras lists a mask for each output.
    found = found[0] if isinstance(found, (list, tuple)) else found
    np.testing.assert_equal(found, case["output_mask"][0])


@pytest.mark.parametrize("name", CASES)
def test_config_is_understood(name):
    case = CASES[name]
    layer = make(case, "float64")
    config = layer.get_config()
    assert case["config"].items() <= config.items()
    again = prepare(type(layer).from_config(config), case)
    assert_padded_call(again, case, "float64")


@pytest.mark.parametrize("name", STATEFUL)
def test_stateful(name):
    case = STATEFUL[name]
    layer = make(case, "float64")
    for _ in range(2):
        for call in case["calls"]:
            outputs = layer(call["inputs"], mask=call["mask"])
            for actual, expected in zip(outputs, call["outputs"], strict=True):
                assert_close(actual, expected, 1e-12, "output")
        layer.reset_states()
