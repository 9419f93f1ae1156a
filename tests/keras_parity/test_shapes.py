"""Losses and metrics on targets, predictions and weights of every shape, against Keras.

Of 1-D predictions with weights Keras's losses weigh what was averaged before, and most of its metrics raise; weights
(B,) with predictions (B, T, C) are refused by some. The expected values are then those of the same numbers as columns,
and those of weights (B, T).
"""

import numpy as np
import pytest

import fastmask as fm

from .archive import load
from .compare import assert_close

CASES = load("shapes")["cases"]
LOSSES = [name for name, case in CASES.items() if case["kind"] == "losses"]
METRICS = [name for name, case in CASES.items() if case["kind"] == "metrics"]
COLUMNS = [name for name, case in CASES.items() if case["y_pred"].shape[1:] == (1,)]
VECTORS = {
    "CosineSimilarity", "CategoricalHinge", "KLDivergence", "CategoricalCrossentropy", "CategoricalAccuracy",
    "TopKCategoricalAccuracy",
}  # fmt: skip
BY_OUTPUT = {
    "BinaryAccuracy", "RootMeanSquaredError", "Precision", "Recall", "AUC", "TruePositives", "FalsePositives",
    "TrueNegatives", "FalseNegatives",
}  # fmt: skip


def tolerance(case):
    """How far numbers may be off; TensorFlow rounds the log of 2 in LogCosh to float32."""
    return 3e-8 if case["name"].startswith("LogCosh") else 1e-12


def by_row(case, weight):
    """Whether the weights have an entry for each of some 1-D predictions."""
    return case["y_pred"].ndim == 1 and np.ndim(weight) > 0


def refused(case, weight):
    """Whether the weights are finer than the values: of outputs that a token's value is made of."""
    if case["name"] in BY_OUTPUT:
        return False
    if by_row(case, weight):
        return case["name"] in VECTORS
    return np.ndim(weight) == case["y_pred"].ndim and np.shape(weight)[-1:] != (1,) and np.ndim(weight) > 0


def explained(case, weight):
    """Targets, predictions and weights of another shape that say the same."""
    if by_row(case, weight):
        return case["y_true"][:, None], case["y_pred"][:, None], weight
    return case["y_true"], case["y_pred"], np.repeat(weight[:, None], case["y_pred"].shape[1], axis=1)


def updated(case, found, *arrays):
    """The result of a metric after one update."""
    metric = getattr(fm.metrics, case["name"])(**found["options"])
    metric.update_state(*arrays)
    return np.asarray(metric.result())


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    case = CASES[name]
    loss = getattr(fm.losses, case["name"])
    for found in case["found"]:
        weight = found["weight"]
        arrays = (case["y_true"], case["y_pred"], weight)
        if refused(case, weight):
            with pytest.raises(ValueError, match="sample_weight: expected shape"):
                loss()(*arrays)
            continue
        value, gradient = loss().value_and_gradient(*arrays)
        if by_row(case, weight) or found["values"]["sum"] is None:
            other = explained(case, weight)
            values = {reduction: loss(reduction=reduction)(*other) for reduction in found["values"]}
            slope = loss().value_and_gradient(*other)[1]
        else:
            values, slope = found["values"], found["gradient"]
        assert_close(np.asarray(value), np.asarray(values["sum_over_batch_size"]), tolerance(case), "mean")
        assert_close(gradient, slope.reshape(gradient.shape), 1e-12, "gradient")
        for reduction, expected in values.items():
            result = np.asarray(loss(reduction=reduction)(*arrays))
            assert_close(result, np.asarray(expected).reshape(result.shape), tolerance(case), reduction)


@pytest.mark.parametrize("name", METRICS)
def test_metrics(name):
    case = CASES[name]
    for found in case["found"]:
        weight, expected = found["weight"], found["result"]
        arrays = (case["y_true"], case["y_pred"], weight)
        if refused(case, weight):
            assert expected is None
            with pytest.raises(ValueError, match="sample_weight, mask: expected one entry per token"):
                updated(case, found, *arrays)
            continue
        if expected is None and weight is not None and np.ndim(weight):
            expected = updated(case, found, *explained(case, weight))
        if expected is not None:
            assert_close(updated(case, found, *arrays), expected, tolerance(case), str(np.shape(weight)))


@pytest.mark.parametrize("name", COLUMNS)
def test_one_of_targets_and_predictions_may_be_a_column(name):
    """In Keras some of them take the mean over all pairs of rows then."""
    case = CASES[name]
    y_true, y_pred = case["y_true"], case["y_pred"]
    for weight in (None, case["found"][2]["weight"]):
        for arrays in ((y_true[:, 0], y_pred, weight), (y_true, y_pred[:, 0], weight)):
            if name in METRICS:
                found = updated(case, case["found"][0], *arrays)
                assert_close(found, updated(case, case["found"][0], y_true, y_pred, weight), 1e-15, "result")
            else:
                loss = getattr(fm.losses, case["name"])(reduction="none")
                assert_close(loss(*arrays), loss(y_true, y_pred, weight), 1e-15, "entries")
                gradient = loss.value_and_gradient(*arrays)[1]
                expected = loss.value_and_gradient(y_true, y_pred, weight)[1]
                assert_close(gradient, expected.reshape(arrays[1].shape), 1e-15, "gradient")
