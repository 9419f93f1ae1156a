"""Loss functions against Keras: each entry, the gradient, reductions with weights."""

import numpy as np
import pytest

import fastmask as fm

from .archive import load
from .compare import assert_close
from .specs import make_named

CASES = load("losses")["cases"]
ATOL = 1e-12


def tolerance(case):
    """How far numbers may be off; TensorFlow rounds the log of 2 in LogCosh to float32."""
    return 3e-8 if case["loss"][0] == "LogCosh" else ATOL


def make(case, **config):
    """The recorded loss."""
    name, recorded = case["loss"]
    return make_named(fm.losses, [name, recorded | config])


@pytest.mark.parametrize("name", CASES)
def test_entries(name):
    case = CASES[name]
    found = make(case, reduction="none")(case["y_true"], case["y_pred"])
    assert_close(found, case["entries"], tolerance(case), "entries")


@pytest.mark.parametrize("name", CASES)
def test_function(name):
    case = CASES[name]
    class_name, config = case["loss"]
    function = getattr(fm.losses, fm.losses.get(getattr(fm.losses, class_name)).identifier)
    found = function(case["y_true"], case["y_pred"], **config)
    assert_close(found, case["entries"], tolerance(case), "entries")


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient(name):
    case = CASES[name]
    value, gradient = make(case).value_and_gradient(case["y_true"], case["y_pred"])
    assert value == pytest.approx(case["mean"], rel=tolerance(case))
    assert_close(gradient, case["gradient"], ATOL, "gradient")


@pytest.mark.parametrize("name", CASES)
def test_reductions(name):
    case = CASES[name]
    for reduced in case["reductions"]:
        loss = make(case, reduction=reduced["reduction"])
        weights = case["sample_weight"] if reduced["weighted"] else None
        arguments = (case["y_true"], case["y_pred"], weights, case["mask"] if reduced["masked"] else None)
        assert_close(loss(*arguments), np.asarray(reduced["value"]), tolerance(case), str(reduced["reduction"]))
        if reduced["gradient"] is not None:
            assert_close(loss.value_and_gradient(*arguments)[1], reduced["gradient"], ATOL, "gradient")


@pytest.mark.parametrize("name", CASES)
def test_config(name):
    """Keras leaves out arguments such as Huber's delta, which its constructors take."""
    config = CASES[name]["config"]
    made = make_named(fm.losses, [CASES[name]["loss"][0], config]).get_config()
    assert made | config == made
    own = make_named(fm.losses, CASES[name]["loss"]).get_config()
    assert own | config | CASES[name]["loss"][1] == own
