"""Functional models against Keras: order of layers, outputs, losses, metrics, training."""

import numpy as np
import pytest

import fastmask as fm
from fastmask.core.structure import flatten

from .archive import load
from .compare import assert_close
from .graphs import GRAPHS, Maker

CASES = load("graphs")["cases"]


def make(name, dtype="float64"):
    """The recorded model, compiled."""
    fm.layers.reset_names()
    model = GRAPHS[name](Maker(fm, dtype))
    model.set_weights(CASES[name]["weights"])
    model.compile(fm.optimizers.SGD(0.25), **CASES[name]["compiled"])
    return model


@pytest.mark.parametrize("name", GRAPHS)
def test_layers_and_weights_are_in_the_order_of_keras(name):
    model = make(name)
    assert [layer.name for layer in model.layers] == CASES[name]["layers"]
    assert [weight.path for weight in model.weights] == CASES[name]["paths"]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", GRAPHS)
def test_predict(name, dtype):
    case = CASES[name]
    outputs = make(name, dtype).predict(case["inputs"], batch_size=5, verbose=0)
    assert type(outputs) is type(case["outputs"])
    for i, (actual, expected) in enumerate(zip(flatten(outputs), flatten(case["outputs"]), strict=True)):
        assert actual.dtype == dtype
        assert_close(actual, expected, 1e-11 if dtype == "float64" else 1e-5, f"output {i}")


@pytest.mark.parametrize("name", GRAPHS)
def test_evaluate_and_fit(name):
    case = CASES[name]
    model = make(name)
    data = {"sample_weight": case["sample_weight"], "batch_size": 5, "verbose": 0}
    found = model.evaluate(case["inputs"], case["targets"], **data)
    assert np.atleast_1d(found) == pytest.approx(np.atleast_1d(case["evaluated"]), rel=1e-11)
    history = model.fit(case["inputs"], case["targets"], epochs=3, shuffle=False, **data).history
    assert list(history) == list(case["history"])
    for key, expected in case["history"].items():
        assert history[key] == pytest.approx(expected, rel=1e-11), key
    for i, expected in enumerate(case["trained_weights"]):
        assert_close(model.get_weights()[i], expected, 1e-11, f"weight {i}")


@pytest.mark.parametrize("name", GRAPHS)
def test_rebuilt_from_its_config(name):
    case = CASES[name]
    model = make(name)
    again = fm.Model.from_config(model.get_config())
    assert [layer.name for layer in again.layers] == CASES[name]["layers"]
    again.set_weights(model.get_weights())
    pairs = zip(flatten(again.predict(case["inputs"])), flatten(model.predict(case["inputs"])), strict=True)
    for actual, expected in pairs:
        np.testing.assert_array_equal(actual, expected)
