"""Loss functions against Keras: each entry, the gradient, reductions with weights."""

import pytest

import fastmask as fm

from .archive import load
from .compare import assert_close
from .specs import make_named

CASES = load("losses")["cases"]
ATOL = 1e-12


def make(case, **config):
    """The recorded loss."""
    name, recorded = case["loss"]
    return make_named(fm.losses, [name, recorded | config])


@pytest.mark.parametrize("name", CASES)
def test_entries(name):
    case = CASES[name]
    found = make(case, reduction="none")(case["y_true"], case["y_pred"])
    assert_close(found, case["entries"], ATOL, "entries")


@pytest.mark.parametrize("name", CASES)
def test_function(name):
    case = CASES[name]
    class_name, config = case["loss"]
    function = getattr(fm.losses, fm.losses.get(getattr(fm.losses, class_name)).identifier)
    found = function(case["y_true"], case["y_pred"], **config)
    assert_close(found, case["entries"], ATOL, "entries")


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient(name):
    case = CASES[name]
    value, gradient = make(case).value_and_gradient(case["y_true"], case["y_pred"])
    assert value == pytest.approx(case["mean"], rel=1e-13)
    assert_close(gradient, case["gradient"], ATOL, "gradient")


@pytest.mark.parametrize("name", CASES)
def test_sample_weight(name):
    case = CASES[name]
    for reduction, expected in case["weighted"].items():
        loss = make(case, reduction=reduction)
        value = loss(case["y_true"], case["y_pred"], case["sample_weight"])
        assert value == pytest.approx(expected, rel=1e-13), reduction
