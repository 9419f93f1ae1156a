"""Metrics: accuracy by shape, masks and weights, names, errors."""

import numpy as np
import pytest

import fastmask as fm
from fastmask import metrics

P = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])


@pytest.mark.parametrize(
    ("y_true", "y_pred", "expected"),
    [
        ([[1], [0], [1]], [[0.9], [0.6], [0.5]], 1 / 3),  # one output: threshold, exclusive
        ([1, 0, 1], [[0.9], [0.4], [0.6]], 1.0),
        ([1, 1, 1], P, 2 / 3),  # class numbers
        ([[1], [1], [1]], P, 2 / 3),
        ([[0, 1], [0, 1], [0, 1]], P, 2 / 3),  # one-hot
        ([[1, 1], [0, 0]], [P[:2], P[1:]], 1 / 2),  # class numbers of sequences
    ],
)
def test_accuracy_chooses_by_shape(y_true, y_pred, expected):
    assert metrics.get("accuracy")(y_true, y_pred) == pytest.approx(expected)


def test_the_other_accuracies():
    assert metrics.BinaryAccuracy()([[1, 0, 1]], [[0.9, 0.9, 0.9]]) == pytest.approx(2 / 3)
    assert metrics.BinaryAccuracy(threshold=0.95)([[1, 0]], [[0.9, 0.9]]) == 0.5
    assert metrics.CategoricalAccuracy()([[0, 1]], [[0.4, 0.6]]) == 1
    assert metrics.SparseCategoricalAccuracy()([0], [[0.4, 0.6]]) == 0


def test_mask_and_weights():
    """total += sum(v w m) and count += sum(w m), whatever the number of steps of a batch."""
    y_true = np.array([[1, 1, 0], [0, 1, 1]])
    y_pred = np.array([[P[0], P[1], P[1]], [P[0], P[0], P[0]]])
    hits = np.array([[1, 0, 1], [0, 1, 1]])
    mask = np.array([[True, True, False], [True, True, True]])
    weights = np.array([[1.0, 2, 3], [4, 5, 6]])
    metric = metrics.SparseCategoricalAccuracy()
    assert metric(y_true, y_pred, mask=mask) == pytest.approx((hits * mask).sum() / mask.sum())
    metric.reset_state()
    found = metric(y_true, y_pred, weights, mask)
    assert found == pytest.approx((hits * weights * mask).sum() / (weights * mask).sum())
    metric.update_state(y_true[:, :1], y_pred[:, :1])
    total = (hits * weights * mask).sum() + hits[:, 0].sum()
    assert metric.result() == pytest.approx(total / ((weights * mask).sum() + 2))


def test_tokens_equal_the_padded_batch():
    rng = np.random.default_rng(0)
    y_true, y_pred = rng.integers(0, 3, (4, 5)), rng.uniform(size=(4, 5, 3))
    mask, weights = rng.uniform(size=(4, 5)) < 0.5, rng.uniform(size=(4, 5))
    padded, tokens = metrics.get("acc"), metrics.get("acc")
    padded.update_state(y_true, y_pred, weights, mask)
    tokens.update_tokens(y_true[mask], y_pred[mask], weights[mask])
    assert tokens.total == pytest.approx(padded.total)
    assert tokens.count == pytest.approx(padded.count)


def test_losses_as_metrics():
    y_true, y_pred = np.zeros((2, 2)), np.array([[1.0, 3.0], [0.0, 2.0]])
    assert metrics.get("mse")(y_true, y_pred) == pytest.approx(3.5)
    assert metrics.MeanAbsoluteError()(y_true, y_pred) == pytest.approx(1.5)
    assert metrics.get("binary_crossentropy")([[1.0]], [[0.5]]) == pytest.approx(np.log(2))


def test_perplexity_weighs_tokens_alike():
    rng = np.random.default_rng(1)
    metric, own = metrics.Perplexity(mask_token_id=0), []
    for shape in ((3, 4), (2, 1)):
        y_true, y_pred = rng.integers(0, 3, shape), rng.dirichlet(np.ones(3), shape)
        mask, weights = rng.uniform(size=shape) < 0.7, rng.uniform(0.5, 2, shape)
        metric.update_state(y_true, y_pred, weights, mask)
        entry = -np.log(np.take_along_axis(y_pred, y_true[..., None], -1)[..., 0])
        own.append(np.stack([entry * weights, weights])[:, mask & (y_true != 0)])
    total, count = np.concatenate(own, axis=1).sum(axis=1)
    assert metric.result() == pytest.approx(np.exp(total / count))
    metric.reset_state()
    assert metric.result() == 0
    assert metrics.Perplexity()([0], [[1e-7, 1.0]]) == pytest.approx(1e7)


def test_ignored_classes_do_not_count():
    y_true, y_pred = [[1, 2, 0]], np.array([[[0.2, 0.5, 0.3]] * 3])
    metric = metrics.SparseCategoricalCrossentropy(ignore_class=2)
    assert metric(y_true, y_pred) == pytest.approx(-(np.log(0.5) + np.log(0.2)) / 2)


def test_masked_places_are_not_read():
    y_true, y_pred = np.array([[1.0, np.nan]]), np.array([[[0.9], [np.nan]]])
    for name in ("auc", "precision", "binary_accuracy", "root_mean_squared_error", "mae"):
        assert np.isfinite(metrics.get(name)(y_true, y_pred, mask=[[True, False]]))


def test_directions():
    for name, direction in (("acc", "up"), ("auc", "up"), ("mse", "down"), ("false_positives", "down")):
        assert metrics.get(name).direction == direction
    assert metrics.get(lambda y_true, y_pred: y_pred[..., 0]).direction is None


def test_names_of_counts_are_numbered():
    first, second = metrics.AUC().name, metrics.AUC().name
    assert first != second
    assert metrics.AUC(name="area").name == "area"
    assert metrics.get("AUC").name == "AUC"


def test_losses_are_metrics():
    metric = metrics.get(fm.losses.Huber(2.0))
    assert metric.name == "huber_loss"
    assert metric([[0.0]], [[1.0]]) == 0.5
    assert metrics.get(lambda t, p: (p[..., 0] - t, p))([1.0], [[3.0]]) == 2.0


def test_names():
    assert [metrics.get(n).name for n in ("acc", "accuracy", "mse")] == ["acc", "accuracy", "mse"]
    assert metrics.MeanSquaredError().name == "mean_squared_error"
    assert metrics.get(metrics.BinaryAccuracy).name == "binary_accuracy"

    def worst(y_true, y_pred):
        return np.abs(y_true - y_pred).max(axis=-1)

    metric = metrics.get(worst)
    assert metric.name == "worst"
    assert metric([[0.0, 0.0]], [[1.0, -2.0]]) == 2


def test_empty_mean_is_zero():
    metric = metrics.get("accuracy")
    assert metric.result() == 0
    metric.update_tokens(np.zeros(0, int), np.zeros((0, 3)))
    assert metric.result() == 0


def test_mean_of_numbers():
    metric = metrics.Mean()
    metric.update_state([1.0, 3.0])
    metric.update_state([[2.0, 4.0]], sample_weight=[2.0])
    assert metric.result() == pytest.approx((1 + 3 + 4 + 8) / 6)
    metric.update_state([1.0, np.nan], sample_weight=[2.0, 0.0])
    assert metric.result() == pytest.approx((1 + 3 + 4 + 8 + 2) / 8)
    metric.reset_state()
    metric.add(2.0, 5.0)
    assert metric.result() == 2


def test_errors():
    with pytest.raises(ValueError, match=r"metric: expected one of .*accuracy.*, got 'acuracy'"):
        metrics.get("acuracy")
    with pytest.raises(TypeError, match="metric: expected a name, a Metric or a function, got 3"):
        metrics.get(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.AUC(num_thresholds=1), "num_thresholds: expected a number greater than 1"),
        (lambda: metrics.AUC(curve="DET"), "curve: expected one of ROC, PR, PRGAIN, got 'DET'"),
        (lambda: metrics.AUC(summation_method="simpson"), "summation_method: expected one of"),
        (lambda: metrics.AUC(num_labels=3), "num_labels: expected None unless"),
        (lambda: metrics.AUC(thresholds=[0.5, 1.5]), r"thresholds: expected numbers between 0 and 1, got \[0.5, 1.5\]"),
        (lambda: metrics.AUC(thresholds=[float("nan")]), "thresholds: expected numbers between 0 and 1"),
        (lambda: metrics.AUC(label_weights=[1, 2])([[0, 1, 1]], [[0.5, 0.5, 0.5]]), "label_weights: expected as many"),
        (lambda: metrics.AUC(label_weights=[1, 2])([0, 1], [0.5, 0.5]), "label_weights: expected as many .* 1, got 2"),
        (lambda: metrics.AUC(multi_label=True, num_labels=2)([[0]], [[0.5]]), "num_labels: expected as many .* 1, got"),
        (lambda: metrics.Precision(thresholds=1.5), "thresholds: expected numbers between 0 and 1"),
        (lambda: metrics.CosineSimilarity(axis=1), "axis: expected -1"),
        (lambda: metrics.get(lambda t, p: p.sum())([[1.0]], [[1.0]]), "expected one value per token"),
        (lambda: metrics.Precision(class_id=1)([0, 1], [0.5, 0.5]), "y_pred: expected an axis of classes for class_id"),
        (lambda: metrics.AUC(multi_label=True)([0, 1], [0.5, 0.5]), "y_pred: expected an axis of labels"),
        (lambda: metrics.get("mse")([[1, 0]], [[1, 0]], [[1, 2]]), "one entry per token for the metric 'mse'"),
        (lambda: metrics.get("mse")([[1, 0]], [[1, 0]], mask=[[1, 0]]), "one entry per token for the metric 'mse'"),
        (lambda: metrics.get("acc")([1, 0], np.ones((3, 2)), mask=[1, 0, 1]), "y: expected one class number per token"),
        (lambda: metrics.get("auc")([[1, 0]], [[1, 0]], [1, 2]), "sample_weight: expected shape"),
        (lambda: metrics.get({"class_name": "F1Score"}), "metric: expected one of .*auc.*, got 'F1Score'"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("options", [{}, {"thresholds": [0.2, 0.7]}, {"from_logits": True}])
def test_nan_is_above_no_threshold(options):
    metric, other = metrics.AUC(**options), metrics.AUC(**options)
    metric.update_state([0, 1, 1, 0], [0.1, np.nan, 0.9, 0.8])
    other.update_state([0, 1, 1, 0], [0.1, -100, 0.9, 0.8])
    inner = slice(1, None)
    np.testing.assert_array_equal(metric.true_positives[inner], other.true_positives[inner])
    assert metrics.Precision(thresholds=[0.0, 0.5, 1.0])([1, 1], [np.nan, 0.9]).tolist() == [1, 1, 0]
