"""pad_sequences and to_categorical against Keras."""

import numpy as np
import pytest

import fastmask as fm

from .archive import load
from .specs import make_layers

CASES = load("utilities")["cases"]


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("pad")])
def test_pad_sequences(name):
    case = CASES[name]
    padded = fm.utils.pad_sequences(case["sequences"], **case["options"])
    assert padded.dtype == case["padded"].dtype
    np.testing.assert_array_equal(padded, case["padded"])


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("labels")])
def test_to_categorical(name):
    case = CASES[name]
    encoded = fm.utils.to_categorical(case["labels"], case["num_classes"])
    np.testing.assert_array_equal(encoded, case["encoded"])


def test_count_params():
    case = CASES["summary"]
    layers = make_layers(fm.layers, case["layers"], "float32")
    model = fm.Sequential(layers)
    model.build((None, 5))
    assert [layer.count_params() for layer in model.layers] == case["parameters"]
