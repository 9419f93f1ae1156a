"""evaluate, test_on_batch and train_on_batch against Keras: masks, weights, shapes of targets."""

import numpy as np
import pytest

import fastmask as fm

from .archive import load
from .compare import assert_close
from .specs import make_layers, make_named

CASES = load("objectives")["cases"]
COLUMN_WEIGHTS = [name for name in CASES if name.endswith("column_weight")]
BINARY_MASKED = ["masked-binary", "masked-binary-step_weight"]


def make(case):
    """The recorded model, compiled with SGD of learning rate 1, so that a step shows the gradient."""
    model = fm.Sequential(make_layers(fm.layers, case["layers"], "float64"))
    model.build((None, None, case["inputs"].shape[-1]))
    model.set_weights(case["weights"])
    weighted = None if case["sample_weight"] is None else made(case["metrics"])
    model.compile(
        fm.optimizers.SGD(1.0),
        make_named(fm.losses, case["loss"]),
        metrics=made(case["metrics"]),
        weighted_metrics=weighted,
    )
    return model


def made(metrics):
    """The metrics, those that are more than a name built."""
    return [make_named(fm.metrics, metric) for metric in metrics]


def names(metrics):
    """The names of the metrics."""
    return [metric if isinstance(metric, str) else metric[1]["name"] for metric in metrics]


def check(case, targets, sample_weight):
    """Compare every way of computing loss and metrics, then the trained weights."""
    model, x = make(case), case["inputs"]
    arguments = {"sample_weight": sample_weight, "return_dict": True}
    logs = {
        "evaluate": model.evaluate(x, targets, batch_size=3, verbose=0, **arguments),
        "test_on_batch": model.test_on_batch(x, targets, **arguments),
        "train_on_batch": model.train_on_batch(x, targets, **arguments),
    }
    for call, found in logs.items():
        assert found == pytest.approx(case[call], rel=1e-12, abs=1e-14), call
    for found, expected in zip(model.get_weights(), case["trained_weights"], strict=True):
        assert_close(found, expected, 1e-12, "trained weights")


@pytest.mark.parametrize("name", CASES)
def test_recorded(name):
    case = CASES[name]
    check(case, case["targets"], case["sample_weight"])


@pytest.mark.parametrize("name", COLUMN_WEIGHTS)
def test_row_weights_hold_for_all_steps(name):
    case = CASES[name]
    check(case, case["targets"], case["sample_weight"][:, 0])


@pytest.mark.parametrize("name", BINARY_MASKED)
def test_targets_without_last_axis(name):
    case = CASES[name]
    check(case, case["targets"][..., 0], case["sample_weight"])


@pytest.mark.parametrize("name", CASES)
def test_list_of_results(name):
    case = CASES[name]
    model = make(case)
    arguments = {"sample_weight": case["sample_weight"], "batch_size": 3, "verbose": 0}
    found = np.atleast_1d(model.evaluate(case["inputs"], case["targets"], **arguments))
    keys = ["loss", *names(case["metrics"])]
    if case["sample_weight"] is not None:
        keys += [f"weighted_{key}" for key in names(case["metrics"])]
    assert list(found) == pytest.approx([case["evaluate"][key] for key in keys], rel=1e-12, abs=1e-14)
