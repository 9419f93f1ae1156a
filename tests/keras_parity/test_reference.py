"""The NumPy reference against Keras: outputs, states and gradients under every mask and option."""

import numpy as np
import pytest

from fastmask import reference

from .archive import load

CASES = load("recurrent")["cases"]
FUNCTIONS = {"SimpleRNN": "simple_rnn", "LSTM": "lstm", "GRU": "gru"}
GELU_TOLERANCE = 1e-6  # TensorFlow rounds the root of 2 in it to float32
OPTIONS = ("activation", "recurrent_activation", "reset_after", "go_backwards", "zero_output_for_mask")


def last_cotangent(dy, config):
    """Cotangent of the sequence whose last step is the output."""
    if config.get("return_sequences"):
        return dy
    return np.concatenate([np.zeros((len(dy), 4, dy.shape[-1])), dy[:, None]], axis=1)


@pytest.mark.parametrize("name", CASES)
def test_recurrent(name):
    case, config = CASES[name], CASES[name]["config"]
    vjp = getattr(reference, f"{FUNCTIONS[case['layer']]}_vjp")
    options = {key: config[key] for key in OPTIONS if key in config}
    weights = [*case["weights"], None][:3]
    given = tuple(case["initial_state"]) or None
    (y, states), pullback = vjp(case["inputs"], *weights, given, mask=case["mask"], **options)
    outputs = [y if config.get("return_sequences") else y[:, -1], *states]
    tolerance = GELU_TOLERANCE if config.get("activation") == "gelu" else 1e-12
    for actual, expected in zip(outputs, case["outputs"], strict=False):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)
    dy, *d_states = case["cotangents"]
    gradients = pullback(last_cotangent(dy, config), d_states or None)
    actual = [gradients.inputs, gradients.kernel, gradients.recurrent_kernel, gradients.bias]
    recorded = case["gradients"]
    expected = [*recorded["inputs"], *[*recorded["weights"], None][:3], *recorded["initial_state"]]
    for found, wanted in zip([*actual, *(gradients.initial_state or ())], expected, strict=True):
        if wanted is not None:
            np.testing.assert_allclose(found, wanted, rtol=0, atol=10 * tolerance)
