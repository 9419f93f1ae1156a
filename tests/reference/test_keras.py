"""The reference against what Keras computed, forward and gradients, in float64."""

import numpy as np
import pytest
from helpers.recurrent import gradients_by_name
from keras_parity.archive import load

from fastmask import reference

CASES = load("recurrent")["cases"]
FUNCTIONS = {"SimpleRNN": "simple_rnn", "LSTM": "lstm", "GRU": "gru"}
OPTIONS = (
    "activation",
    "recurrent_activation",
    "reset_after",
    "go_backwards",
    "zero_output_for_mask",
)


@pytest.mark.parametrize("name", CASES)
def test_recurrent_layer(name):
    case = CASES[name]
    config = case["config"]
    options = {option: config[option] for option in OPTIONS if option in config}
    kernel, recurrent_kernel, *bias = case["weights"]
    arguments = (kernel, recurrent_kernel, bias[0] if bias else None)
    initial_state = tuple(case["initial_state"]) or None
    function = getattr(reference, FUNCTIONS[case["layer"]] + "_vjp")
    (y, states), pullback = function(case["inputs"], *arguments, initial_state, mask=case["mask"], **options)
    outputs, d_outputs = [y], case["cotangents"]
    dy = d_outputs[0]
    if not config.get("return_sequences"):
        outputs = [y[:, -1]]
        dy = np.zeros_like(y)
        dy[:, -1] = d_outputs[0]
    if config.get("return_state"):
        outputs += states
    for actual, expected in zip(outputs, case["outputs"], strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)
    gradients = pullback(dy, tuple(d_outputs[1:]) or None)
    expected = case["gradients"]
    expected = expected["inputs"] + expected["weights"] + expected["initial_state"]
    actual = gradients_by_name(gradients).values()
    for array, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(array, other, rtol=1e-12, atol=1e-12)
