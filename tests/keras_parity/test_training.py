"""Training against Keras: the loss of every step, the weights afterwards, fit() and its History."""

import pytest

import fastmask as fm

from .archive import load
from .compare import assert_close
from .specs import make_layers, make_named

FLOAT64 = load("training")["cases"]
FLOAT32 = load("training_float32")["cases"]
TRAJECTORIES = [name for name in FLOAT64 if not name.startswith("fit")]
FITS = [name for name in FLOAT64 if name.startswith("fit")]


def make(case, x, dtype="float64", **arguments):
    """The recorded model, compiled."""
    model = fm.Sequential(make_layers(fm.layers, case["layers"], dtype))
    model.build((None, None, *x.shape[2:]))
    model.set_weights(case["weights"])
    model.compile(make_named(fm.optimizers, case["optimizer"]), case["loss"], **arguments)
    return model


def check_trajectory(case, dtype, rtol, atol):
    """Compare the loss of each step, then the weights."""
    model = make(case, case["batches"][0][0], dtype)
    losses = [model.train_on_batch(x, y) for x, y in case["batches"]]
    assert losses == pytest.approx(case["losses"], rel=rtol)
    for index, expected in enumerate(case["trained_weights"]):
        assert_close(model.get_weights()[index], expected, atol, f"weight {index}")


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_trajectory(name):
    check_trajectory(FLOAT64[name], "float64", 1e-11, 1e-11)


@pytest.mark.parametrize("name", FLOAT32)
def test_trajectory_float32(name):
    check_trajectory(FLOAT32[name], "float32", 1e-5, 2e-5)


@pytest.mark.parametrize("name", FITS)
def test_fit(name, capsys):
    case = FLOAT64[name]
    model = make(case, case["inputs"], metrics=case["metrics"])
    arguments = dict(case["arguments"])
    if case["class_weight"] is not None:
        arguments["class_weight"] = dict(case["class_weight"])
    if "callbacks" in arguments:
        specs = arguments["callbacks"]
        arguments["callbacks"] = [make_named(fm.callbacks, spec) for spec in specs]
    history = model.fit(case["inputs"], case["targets"], shuffle=False, verbose=0, **arguments)
    assert capsys.readouterr().out == case["printed"]
    assert list(history.history) == list(case["history"])
    assert history.epoch == case["epoch"]
    for key, expected in case["history"].items():
        assert history.history[key] == pytest.approx(expected, rel=1e-11), key
    for index, expected in enumerate(case["trained_weights"]):
        assert_close(model.get_weights()[index], expected, 1e-11, f"weight {index}")
