"""Optimizers and learning rate schedules against Keras, step by step."""

import numpy as np
import pytest

import fastmask as fm
from fastmask.layers import Variable
from fastmask.optimizers import schedules

from .archive import load
from .specs import make_named

CASES = load("optimizers")["cases"]
OPTIMIZERS = [name for name in CASES if name.startswith("optimizer")]
SCHEDULES = [name for name in CASES if name.startswith("schedule")]
# TensorFlow rounds 0.96 in Nadam, 0.1 in Adagrad and epsilon in Adadelta to float32.
TOLERANCE = {"Nadam": 1e-6, "Adagrad": 1e-7, "Adadelta": 1e-8}


def make(case):
    """The recorded optimizer."""
    name, config = case["optimizer"]
    config = {key: value for key, value in config.items() if key != "excluded"}
    config["learning_rate"] = make_named(schedules, config["learning_rate"])
    optimizer = getattr(fm.optimizers, name)(**config)
    if "excluded" in case["optimizer"][1]:
        optimizer.exclude_from_weight_decay(var_names=[case["optimizer"][1]["excluded"]])
    return optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_trajectory(name):
    case = CASES[name]
    rtol = TOLERANCE.get(case["optimizer"][0], 1e-12)
    optimizer = make(case)
    variables = [Variable(v, key) for key, v in zip(("kernel", "bias"), case["start"], strict=True)]
    for grads, values in zip(case["gradients"], case["values"], strict=True):
        optimizer.apply(grads, variables)
        for variable, expected in zip(variables, values, strict=True):
            np.testing.assert_allclose(variable.value, expected, rtol=rtol, atol=rtol)
    assert [v.name for v in optimizer.variables] == case["names"]
    for variable, expected in zip(optimizer.variables, case["state"], strict=True):
        np.testing.assert_allclose(variable.value, expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_config(name):
    """Keras's own config is understood; ours leaves out only what is turned off."""
    case = CASES[name]
    optimizer = make(case)
    config = optimizer.get_config()
    rate = {"learning_rate": config["learning_rate"]}
    again = type(optimizer)(**case["config"] | rate | {"name": config["name"]})
    assert again.get_config() == config


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule(name):
    case = CASES[name]
    schedule = make_named(schedules, case["schedule"])
    assert [schedule(step) for step in range(14)] == pytest.approx(case["rates"], rel=1e-6, abs=1e-12)
    assert schedules.serialize(schedule) == case["serialized"]
    assert schedules.deserialize(case["serialized"]).get_config() == schedule.get_config()
