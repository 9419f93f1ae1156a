"""SimpleRNN, LSTM and GRU against torch.nn.RNN, LSTM and GRU over packed sequences."""

import numpy as np
import pytest

import fastmask as fm

from .archive import load
from .compare import as_tuple, assert_close

CASES = load("pytorch")["cases"]
LAYERS = {
    "simple_rnn": ("SimpleRNN", {}),
    "simple_rnn_relu": ("SimpleRNN", {"activation": "relu"}),
    "lstm": ("LSTM", {}),
    "gru": ("GRU", {}),
}
ATOL = 1e-12


def packed_input(case):
    """The recorded batch without its padding."""
    rows = [row[:length] for row, length in zip(case["inputs"], case["lengths"], strict=True)]
    return fm.PackedSequence.from_list(rows)


def make(case):
    """A layer with the recorded weights that returns its states."""
    name, config = LAYERS[case["kind"]]
    config = config | {"return_sequences": True, "return_state": True, "dtype": "float64"}
    layer = getattr(fm.layers, name)(case["outputs"][1].shape[-1], **config)
    if case["bidirectional"]:
        layer = fm.layers.Bidirectional(layer, dtype="float64")
    layer.build((None, None, case["inputs"].shape[-1]))
    layer.set_weights(case["weights"])
    return layer


def by_direction(states):
    """Turn PyTorch's states [D, B, H] into Keras's: those of the first direction, then the second."""
    return [state[d] for d in range(len(states[0]) if states else 0) for state in states]


@pytest.mark.parametrize("name", CASES)
def test_packing(name):
    recorded = CASES[name]["packed"]
    packed = packed_input(CASES[name])
    np.testing.assert_array_equal(packed.data, recorded["inputs"])
    for key in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        np.testing.assert_array_equal(getattr(packed.packing, key), recorded[key])


@pytest.mark.parametrize("name", CASES)
def test_forward_and_backward(name):
    case = CASES[name]
    x = packed_input(case)
    initial = tuple(by_direction(case["initial_state"])) or None
    (y, *states), pullback = make(case).vjp(x, initial_state=initial)
    assert_close(y.data, case["packed"]["outputs"], ATOL, "packed output")
    for actual, expected in zip(states, by_direction(case["outputs"][1:]), strict=True):
        assert_close(actual, expected, ATOL, "state")
    dy = case["cotangents"][0].reshape(-1, y.shape[-1])[y.packing.positions]
    gradients = pullback((dy, *by_direction(case["cotangents"][1:])))
    expected = case["gradients"]
    inputs = expected["inputs"].reshape(-1, x.shape[-1])[x.packing.positions]
    assert_close(gradients.inputs, inputs, ATOL, "gradient by inputs")
    for actual, wanted in zip(gradients.weights, expected["weights"], strict=True):
        assert_close(actual, wanted, 10 * ATOL, "gradient by weight")
    found = as_tuple(gradients.initial_state or ())
    for actual, wanted in zip(found, by_direction(expected["initial_state"]), strict=True):
        assert_close(actual, wanted, ATOL, "gradient by state")
