"""Metrics against Keras over several batches: unweighted, weighted, masked and both."""

import numpy as np
import pytest

import fastmask as fm

from .archive import load
from .specs import make_named

CASES = load("metrics")["cases"]
WAYS = {"plain": (False, False), "weighted": (True, False), "masked": (False, True), "both": (True, True)}


def tolerance(case):
    """How far results may be off; TensorFlow rounds the log of 2 in LogCosh to float32."""
    return 3e-8 if case["metric"][0] == "LogCoshError" else 1e-12


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CASES)
def test_updates(name, way):
    case, (weighted, masked) = CASES[name], WAYS[way]
    metric = make_named(fm.metrics, case["metric"])
    rows = zip(case["batches"], case["weights"], case["masks"], case["results"][way], strict=True)
    for (y_true, y_pred), weight, mask, expected in rows:
        metric.update_state(y_true, y_pred, weight if weighted else None, mask if masked else None)
        np.testing.assert_allclose(metric.result(), expected, rtol=tolerance(case), atol=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_valid_tokens_and_reset(name):
    case = CASES[name]
    metric = make_named(fm.metrics, case["metric"])
    for _ in range(2):
        rows = zip(case["batches"], case["weights"], case["masks"], case["results"]["both"], strict=True)
        for (y_true, y_pred), weight, mask, expected in rows:
            metric.update_tokens(y_true[mask], y_pred[mask], weight[mask])
            np.testing.assert_allclose(metric.result(), expected, rtol=tolerance(case), atol=1e-14)
        metric.reset_state()


@pytest.mark.parametrize("name", CASES)
def test_config(name):
    case = CASES[name]
    fm.layers.reset_names()
    made = make_named(fm.metrics, case["metric"])
    config = made.get_config()
    assert config | case["config"] == config
    written = fm.metrics.serialize(made)
    assert fm.metrics.get(written).get_config() == config
