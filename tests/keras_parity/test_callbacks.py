"""Callbacks against Keras: what they print, write, save and do to the training."""

import pytest

import fastmask as fm

from .archive import load
from .recording.callbacks import run

CASES = load("callbacks")["cases"]


@pytest.mark.parametrize("name", CASES)
def test_recorded(name, tmp_path):
    case = CASES[name]
    model = fm.Sequential([fm.Input((2,)), fm.layers.Dense(1)])
    model.compile(fm.optimizers.SGD(0.5), "mse", metrics=["accuracy"])
    seen = run(fm, model, case["logs"], case["callbacks"], str(tmp_path))
    assert seen == case["seen"]
