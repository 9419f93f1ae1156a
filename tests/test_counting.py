"""What counts in losses and metrics: however rows are cut into batches, and without a look at what does not count."""

import warnings

import numpy as np
import pytest

import fastmask as fm
from fastmask import losses, metrics

C = 3
LENGTHS = (1, 4, 2, 7, 3, 1)
CUTS = ([6], [1, 5], [2, 2, 2], [1, 1, 1, 1, 1, 1])
REDUCTIONS = ("sum_over_batch_size", "sum", "mean_with_sample_weight", "none")

# What targets a loss or a metric takes.
LOSSES = {
    "MeanSquaredError": "real", "MeanAbsoluteError": "real", "MeanAbsolutePercentageError": "real", "Huber": "real",
    "MeanSquaredLogarithmicError": "real", "LogCosh": "real", "CosineSimilarity": "real", "Hinge": "bits",
    "SquaredHinge": "bits", "CategoricalHinge": "one_hot", "KLDivergence": "one_hot", "Poisson": "bits",
    "BinaryCrossentropy": "bits", "CategoricalCrossentropy": "one_hot", "SparseCategoricalCrossentropy": "classes",
}  # fmt: skip
METRICS = {name: kind for name, kind in LOSSES.items() if name not in ("Huber", "LogCosh")} | {
    "RootMeanSquaredError": "real", "LogCoshError": "real", "Accuracy": "classes", "BinaryAccuracy": "bits",
    "CategoricalAccuracy": "one_hot", "SparseCategoricalAccuracy": "classes", "TopKCategoricalAccuracy": "one_hot",
    "SparseTopKCategoricalAccuracy": "classes", "Perplexity": "classes", "AUC": "bits", "Precision": "bits",
    "Recall": "bits", "TruePositives": "bits", "FalsePositives": "bits", "TrueNegatives": "bits",
    "FalseNegatives": "bits",
}  # fmt: skip
OPTIONS = {"TopKCategoricalAccuracy": {"k": 2}, "SparseTopKCategoricalAccuracy": {"k": 2}, "AUC": {"num_thresholds": 9}}


def largest_error(y_true, y_pred):
    """A metric of one's own."""
    return np.abs(y_true - y_pred).max(axis=-1)


OWN = {
    "huber": (lambda: metrics.get("huber"), "real"),
    "loss": (lambda: metrics.get(losses.Huber(0.3)), "real"),
    "ignore_class": (lambda: metrics.SparseCategoricalCrossentropy(ignore_class=1), "classes"),
    "loss_ignore_class": (lambda: metrics.get(losses.SparseCategoricalCrossentropy(ignore_class=1)), "classes"),
    "function": (lambda: metrics.get(largest_error), "bits"),
    "by_output": (lambda: metrics.MeanMetricWrapper(lambda t, p: np.abs(t - p), "error"), "bits"),
    "top": (lambda: metrics.Precision(top_k=2), "one_hot"),
    "one_class": (lambda: metrics.Recall(class_id=1), "one_hot"),
    "labels": (lambda: metrics.AUC(multi_label=True, label_weights=[1.0, 2.0, 0.5], num_thresholds=9), "bits"),
    "label_weights": (lambda: metrics.AUC(label_weights=[1.0, 2.0, 0.5], num_thresholds=9), "bits"),
    "logits": (lambda: metrics.AUC(from_logits=True, num_thresholds=9), "bits"),
}
MAKERS = OWN | {
    name: (lambda name=name: getattr(metrics, name)(**OPTIONS.get(name, {})), kind) for name, kind in METRICS.items()
}


def targets(kind, shape, rng):
    """Targets of tokens with C outputs."""
    classes = rng.integers(0, C, shape)
    return {
        "real": rng.uniform(0.1, 2.0, (*shape, C)),
        "bits": rng.integers(0, 2, (*shape, C)).astype(float),
        "one_hot": np.eye(C)[classes],
        "classes": classes.astype(float),
    }[kind]


def padded(kind, rng, dtype=np.float64):
    """Targets, predictions, weights and mask of rows of LENGTHS."""
    shape = (len(LENGTHS), max(LENGTHS))
    y_pred = rng.dirichlet(np.ones(C), shape).astype(dtype)
    mask = np.arange(shape[1]) < np.array(LENGTHS)[:, None]
    return targets(kind, shape, rng), y_pred, rng.uniform(0.2, 2, shape), mask


def test_every_class_is_here():
    for module, base, known in ((losses, losses.Loss, LOSSES), (metrics, metrics.Metric, METRICS)):
        classes = {name for name in module.__all__ if isinstance(getattr(module, name), type)}
        classes = {name for name in classes if issubclass(getattr(module, name), base)}
        bases = {"Loss", "FunctionLoss", "Metric", "Mean", "MeanMetricWrapper", "Crossentropy"}
        assert classes - bases == set(known)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_metrics_do_not_depend_on_the_cut(name, weighted):
    make, kind = MAKERS[name]
    y_true, y_pred, weights, mask = padded(kind, np.random.default_rng(0))
    whole = make()
    whole.update_tokens(y_true[mask], y_pred[mask], weights[mask] if weighted else None)
    for cut in CUTS:
        with_padding, without = make(), make()
        for rows in np.split(np.arange(len(LENGTHS)), np.cumsum(cut)[:-1]):
            steps = slice(max(LENGTHS[row] for row in rows))
            arrays = [array[rows, steps] for array in (y_true, y_pred, weights, mask)]
            with_padding.update_state(*arrays[:2], arrays[2] if weighted else None, arrays[3])
            keep = arrays[3]
            without.update_tokens(arrays[0][keep], arrays[1][keep], arrays[2][keep] if weighted else None)
        for metric in (with_padding, without):
            np.testing.assert_allclose(metric.result(), whole.result(), rtol=1e-12, err_msg=str(cut))


@pytest.mark.parametrize("name", [name for name, (make, _) in MAKERS.items() if not make().vectors])
def test_metrics_of_one_number_a_row_do_not_depend_on_the_cut(name):
    make = MAKERS[name][0]
    rng = np.random.default_rng(1)
    y_true, y_pred, weights = rng.integers(0, 2, 7).astype(float), rng.uniform(0.05, 0.95, 7), rng.uniform(0.2, 2, 7)
    for weight in (None, weights):
        whole, parts = make(), make()
        whole.update_state(y_true[:, None], y_pred[:, None], weight)
        for rows in (slice(0, 1), slice(1, 3), slice(3, 7)):
            parts.update_state(y_true[rows], y_pred[rows], None if weight is None else weight[rows])
        assert parts.result() == pytest.approx(whole.result(), rel=1e-12)


def test_binary_accuracy_of_one_number_a_row():
    y_true, y_pred = np.array([1, 1, 0, 0, 1, 0]), np.array([0.9, 0.8, 0.1, 0.2, 0.3, 0.6])
    for name in ("binary_accuracy", "accuracy"):
        assert metrics.get(name)(y_true, y_pred) == pytest.approx(4 / 6)
        assert metrics.get(name)(y_true, y_pred, [1, 1, 1, 1, 0, 0]) == 1
        assert metrics.get(name)(y_true, y_pred, mask=[0, 0, 0, 0, 1, 1]) == 0
    assert losses.get("crossentropy")(y_true, y_pred) == losses.get("binary_crossentropy")(y_true, y_pred)
    np.testing.assert_array_equal(metrics.binary_accuracy([[1, 0]], [[0.9, 0.9]]), [[1, 0]])


@pytest.mark.parametrize("name", [name for name in LOSSES if not getattr(losses, name).vectors])
def test_masks_and_weights_of_one_number_a_row(name):
    rng = np.random.default_rng(2)
    y_true, y_pred, weights = rng.integers(0, 2, 5).astype(float), rng.uniform(0.1, 0.9, 5), rng.uniform(0.2, 2, 5)
    mask = np.array([True, False, True, True, False])
    for reduction in REDUCTIONS:
        loss = getattr(losses, name)(reduction=reduction)
        value, gradient = loss.value_and_gradient(y_true, y_pred, weights, mask)
        columns = loss.value_and_gradient(y_true[:, None], y_pred[:, None], weights, mask)
        assert value == columns[0]
        np.testing.assert_array_equal(gradient, columns[1][:, 0])
        np.testing.assert_array_equal(
            loss(y_true, y_pred, weights, mask), loss(y_true[:, None], y_pred[:, None], weights, mask)
        )


def spoiled(y_true, y_pred, unread):
    """The same arrays with targets that are none, and infinite or missing predictions, at places that do not count."""
    y_true, y_pred = y_true.copy(), y_pred.copy()
    wrong = np.array([np.nan, np.inf, -np.inf, 1e9, -1.0])
    places = np.flatnonzero(unread)
    flat, predictions = y_true.reshape(unread.size, -1), y_pred.reshape(unread.size, -1)
    flat[places] = wrong[np.arange(len(places)) % 5][:, None]
    predictions[places] = wrong[np.arange(len(places)) % 3][:, None]
    return y_true, y_pred


def unread_by(weights, mask):
    """Ways of saying which tokens do not count: a mask, weights, both; then weights, mask and places."""
    zero = np.where(np.random.default_rng(3).uniform(size=mask.shape) < 0.4, 0.0, weights)
    return {
        "mask": (None, mask, ~mask),
        "weights": (zero, None, zero == 0),
        "both": (zero, mask, ~mask | (zero == 0)),
        "rows": (np.array([1.0, 0, 2, 0, 1, 1]), None, np.repeat([[0], [1], [0], [1], [0], [0]], mask.shape[1], 1) > 0),
        "nothing": (np.zeros(mask.shape), None, np.ones(mask.shape, bool)),
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_do_not_read_what_does_not_count(name, dtype):
    kind = LOSSES[name]
    y_true, y_pred, weights, mask = padded(kind, np.random.default_rng(4), dtype)
    for way, (weight, keep, unread) in unread_by(weights, mask).items():
        other = spoiled(y_true, y_pred, unread)
        for reduction in REDUCTIONS:
            loss = getattr(losses, name)(reduction=reduction)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                value, gradient = loss.value_and_gradient(*other, weight, keep)
                entries = loss(*other, weight, keep)
            expected = loss.value_and_gradient(y_true, y_pred, weight, keep)
            assert value == expected[0], (way, reduction)
            assert np.isfinite(gradient).all()
            np.testing.assert_array_equal(gradient, expected[1])
            assert not gradient[unread].any()
            np.testing.assert_array_equal(entries, loss(y_true, y_pred, weight, keep))


@pytest.mark.parametrize("name", MAKERS)
def test_metrics_do_not_read_what_does_not_count(name):
    make, kind = MAKERS[name]
    y_true, y_pred, weights, mask = padded(kind, np.random.default_rng(5))
    for way, (weight, keep, unread) in unread_by(weights, mask).items():
        found, expected = make(), make()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found.update_state(*spoiled(y_true, y_pred, unread), weight, keep)
        expected.update_state(y_true, y_pred, weight, keep)
        np.testing.assert_array_equal(found.result(), expected.result(), err_msg=way)
        assert np.isfinite(found.result()).all()


@pytest.mark.parametrize("name", ["BinaryAccuracy", "RootMeanSquaredError", "Recall", "AUC", "TrueNegatives", "labels"])
def test_metrics_do_not_read_outputs_that_do_not_count(name):
    make, kind = MAKERS[name]
    y_true, y_pred, _, _ = padded(kind, np.random.default_rng(6))
    keep = np.random.default_rng(7).uniform(size=y_pred.shape) < 0.6
    for arguments in ((keep.astype(float), None), (None, keep)):
        found, expected = make(), make()
        with np.errstate(invalid="ignore"):
            found.update_state(*spoiled(y_true, y_pred, ~keep), *arguments)
        expected.update_state(y_true, y_pred, *arguments)
        np.testing.assert_array_equal(found.result(), expected.result())


SEQUENCES = [np.random.default_rng(8).integers(1, 9, n) for n in LENGTHS]
X = fm.utils.pad_sequences(SEQUENCES, padding="post")
LAST = {"real": None, "bits": "sigmoid", "one_hot": "softmax", "classes": "softmax"}


def model(loss, kind, rate=0.5, **compiled):
    """A model with a time axis, always with the same weights."""
    fm.utils.set_random_seed(1)
    made = fm.Sequential([
        fm.layers.Embedding(9, 4, mask_zero=True),
        fm.layers.GRU(5, return_sequences=True),
        fm.layers.Dense(C, activation=LAST[kind]),
    ])  # fmt: skip
    made.compile(fm.optimizers.SGD(rate), loss, **compiled)
    return made


def rows_of(array):
    """Rows of LENGTHS of a padded array, as a list."""
    return [row[:n] for row, n in zip(array, LENGTHS, strict=True)]


@pytest.mark.parametrize("kind", LAST)
def test_evaluations_do_not_depend_on_the_batch_size(kind):
    """For lists and padded arrays, in evaluate and in the validation of fit."""
    plain, weighted = ([make() for make, own in MAKERS.values() if own == kind] for _ in range(2))
    network = model("mse" if kind != "classes" else "sparse_categorical_crossentropy", kind, rate=0.0,
                    metrics=plain, weighted_metrics=weighted)  # fmt: skip
    y, _, weights, mask = padded(kind, np.random.default_rng(9))
    outputs = network.predict(X)
    for metric, weight in [(metric, None) for metric in plain] + [(metric, weights) for metric in weighted]:
        metric.reset_state()
        metric.update_state(y, outputs, weight, mask)
    expected = {name: metric.result() for name, metric in network.scores.named[1:]}
    for size in (1, 2, 4, 6):
        for data in ((X, y, weights), (SEQUENCES, rows_of(y), rows_of(weights))):
            found = network.evaluate(*data[:2], sample_weight=data[2], batch_size=size, verbose=0, return_dict=True)
            del found["loss"]
            np.testing.assert_allclose([*found.values()], [expected[name] for name in found], rtol=1e-6)
            logs = network.fit(*data[:2], validation_data=data, validation_batch_size=size, verbose=0).history
            for name, value in expected.items():
                np.testing.assert_allclose(logs[f"val_{name}"][0], value, rtol=1e-6)


def trained(network, *data, **options):
    """Weights after an epoch in one batch or several, and what `evaluate` says then."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network.fit(*data, shuffle=False, verbose=0, **options)
        options.pop("class_weight", None)
        scores = network.evaluate(*data, verbose=0, **options)
        network.train_on_batch(*data, sample_weight=options.get("sample_weight"))
    return [*network.get_weights(), np.asarray(scores)]


def assert_equal(found, expected):
    """The same bits, none of them NaN."""
    for one, other in zip(found, expected, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("size", [2, 6])
@pytest.mark.parametrize("name", LOSSES)
def test_models_do_not_read_targets_that_do_not_count(name, size):
    """Neither those of the padding nor those of weight 0, in padded arrays and lists."""
    kind = LOSSES[name]
    chosen = [name if name != "LogCosh" else "log_cosh", "acc" if kind != "real" else "mse"]
    y, outputs, weights, mask = padded(kind, np.random.default_rng(10))
    zero = np.where(np.random.default_rng(11).uniform(size=mask.shape) < 0.4, 0.0, weights)
    rows = np.array([1.0, 0, 2, 0, 1, 1])
    for weight, unread in ((zero, ~mask | (zero == 0)), (rows, ~mask | (rows == 0)[:, None])):
        other = spoiled(y, outputs, unread)[0]
        listed = rows_of(weight) if weight.ndim == 2 else weight
        for x, own, pair in ((X, weight, (y, other)), (SEQUENCES, listed, (rows_of(y), rows_of(other)))):
            expected, found = (
                trained(model(name, kind, weighted_metrics=chosen), x, target, sample_weight=own, batch_size=size)
                for target in pair
            )
            assert_equal(found, expected)
    padding = spoiled(y, outputs, ~mask)[0]
    expected = trained(model(name, kind, metrics=chosen), X, y, batch_size=size)
    assert_equal(trained(model(name, kind, metrics=chosen), X, padding, batch_size=size), expected)


def test_classes_of_weight_zero_are_not_read():
    y, _, _, _ = padded("classes", np.random.default_rng(12))
    none = np.random.default_rng(13).uniform(size=y.shape) < 0.4
    missing = np.where(none, -1, y).astype(int)
    for dtype in ("float32", "float64"):
        networks = [model("sparse_categorical_crossentropy", "classes", metrics=["acc"]) for _ in range(2)]
        for network in networks:
            network.set_weights([value.astype(dtype) for value in network.get_weights()])
        networks[0].fit(X, missing, class_weight={-1: 0.0, 0: 2.0}, verbose=0)
        networks[1].fit(X, y, sample_weight=np.where(none, 0.0, np.where(y == 0, 2.0, 1.0)), verbose=0)
        assert_equal(networks[0].get_weights(), networks[1].get_weights())


def test_metrics_without_weights_count_missing_classes_as_wrong():
    """`metrics` see no weights, as in Keras: what weighs 0 for the loss is an entry like any other."""
    y, _, weights, mask = padded("classes", np.random.default_rng(14))
    y[weights < 1] = np.nan
    network = model("sparse_categorical_crossentropy", "classes", rate=0.0, metrics=["acc"])
    scores = network.evaluate(X, y, sample_weight=np.where(weights < 1, 0, 1), verbose=0, return_dict=True)
    hits = network.predict(X).argmax(-1) == y
    assert scores["acc"] == pytest.approx(hits[mask].mean())
    assert np.isfinite(scores["loss"])


@pytest.mark.parametrize("sequences", [False, True])
def test_models_of_one_number_a_row_or_step(sequences):
    """The same as with a last axis of one."""

    class Flat(fm.layers.Layer):
        supports_masking = True

        def call(self, x):
            return x[..., 0]

        def vjp(self, x):
            return x[..., 0], lambda gradient: gradient[..., None]

    rng = np.random.default_rng(15)
    y = [rng.integers(0, 2, n if sequences else ()).astype(float) for n in LENGTHS]
    weights = [rng.uniform(0.2, 2, n if sequences else ()) for n in LENGTHS]
    names = ["mae", "mse", "binary_accuracy", "acc", "auc", "precision", "root_mean_squared_error", "huber"]
    results = []
    for last in ([], [Flat()]):
        fm.utils.set_random_seed(2)
        network = fm.Sequential([
            fm.layers.Embedding(9, 4, mask_zero=True),
            fm.layers.GRU(3, return_sequences=sequences),
            fm.layers.Dense(1, activation="sigmoid"), *last,
        ])  # fmt: skip
        network.compile(fm.optimizers.SGD(0.5), "bce", metrics=names, weighted_metrics=names)
        results.append([
            *network.evaluate(SEQUENCES, y, sample_weight=weights, batch_size=1, verbose=0),
            *network.evaluate(SEQUENCES, y, batch_size=4, verbose=0),
            *network.train_on_batch(SEQUENCES, y, sample_weight=weights),
            *(value.sum() for value in network.get_weights()),
        ])
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5)
