"""Gradients of whole models, and what training must not depend on."""

import numpy as np
import pytest
from helpers.numeric import assert_weight_gradient

import fastmask as fm
from fastmask import layers

VOCABULARY, FEATURES, CLASSES = 9, 3, 4


def embedding_tagger(dtype="float64"):
    kw = {"dtype": dtype}
    return [
        layers.Embedding(VOCABULARY, 3, mask_zero=True, **kw),
        layers.Bidirectional(layers.LSTM(2, return_sequences=True, **kw), **kw),
        layers.TimeDistributed(layers.Dense(CLASSES, "softmax", **kw), **kw),
    ]


def embedding_classifier(dtype="float64"):
    kw = {"dtype": dtype}
    return [
        layers.Embedding(VOCABULARY, 3, mask_zero=True, **kw),
        layers.GRU(3, return_sequences=True, **kw),
        layers.SimpleRNN(2, **kw),
        layers.Dense(1, "sigmoid", **kw),
    ]


def masked_regression(dtype="float64"):
    kw = {"dtype": dtype}
    return [
        layers.Masking(input_shape=(None, FEATURES), **kw),
        layers.LSTM(3, return_sequences=True, **kw),
        layers.Bidirectional(layers.GRU(2, return_sequences=True, **kw), merge_mode="sum", **kw),
        layers.Dense(2, **kw),
    ]


def unmasked_classifier(dtype="float64"):
    kw = {"dtype": dtype}
    return [
        layers.Embedding(VOCABULARY, 3, input_length=6, **kw),
        layers.GRU(2, return_sequences=True, **kw),
        layers.Flatten(**kw),
        layers.Dense(CLASSES, "softmax", **kw),
    ]


MODELS = {
    "tagger": (embedding_tagger, "sparse_categorical_crossentropy"),
    "classifier": (embedding_classifier, "binary_crossentropy"),
    "regression": (masked_regression, "mse"),
    "unmasked": (unmasked_classifier, "sparse_categorical_crossentropy"),
}


def make(name, optimizer="sgd", dtype="float64", **options):
    fm.utils.set_random_seed(7)
    stack, loss = MODELS[name]
    model = fm.Sequential(stack(dtype))
    model.compile(optimizer, loss, **options)
    return model


def make_rows(name, count=5, longest=6, seed=0):
    """Inputs and targets of rows of different lengths, one of them empty."""
    rng = np.random.default_rng(seed)
    lengths = [longest, 0, 1, *rng.integers(1, longest, size=count - 3)]
    if name == "regression":
        x = [rng.normal(size=(n, FEATURES)) for n in lengths]
        return x, [rng.normal(size=(n, 2)) for n in lengths]
    x = [rng.integers(1, VOCABULARY, size=n) for n in lengths]
    if name == "tagger":
        return x, [rng.integers(0, CLASSES, size=n) for n in lengths]
    return x, rng.integers(0, 2 if name == "classifier" else CLASSES, size=count)


def pad(rows, **options):
    floats = any(row.dtype.kind == "f" for row in rows)
    options = {"padding": "post", "dtype": "float64" if floats else "int64"} | options
    return fm.utils.pad_sequences(rows, **options)


def make_arrays(name, **options):
    x, y = make_rows(name)
    return pad(x, **options), y if isinstance(y, np.ndarray) else pad(y, **options)


def assert_same_weights(first, second):
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_of_the_whole_model(name, weighted):
    model = make(name)
    x, y = make_arrays(name)
    weights = np.random.default_rng(1).uniform(0.5, 2, size=len(x)) if weighted else None
    loss, grads = model.loss_and_gradients(x, y, weights)
    assert loss == pytest.approx(model.evaluate(x, y, sample_weight=weights, verbose=0), rel=1e-12)
    assert len(grads) == len(model.trainable_weights)
    for grad, variable in zip(grads, model.trainable_weights, strict=True):
        dense = grad.dense() if isinstance(grad, fm.ops.SparseRows) else grad
        assert_weight_gradient(dense, lambda: model.loss_and_gradients(x, y, weights)[0], variable)


@pytest.mark.parametrize("name", ["tagger", "classifier", "regression"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_has_the_same_bits_for_any_padding_and_none(name, dtype):
    def train(x, y):
        model = make(name, "adam", dtype, metrics=["accuracy"])
        model.fit(x, y, batch_size=2, epochs=2, verbose=0)
        return model

    rows, y = make_rows(name)
    expected = train(rows, y)
    for options in ({}, {"padding": "pre"}, {"maxlen": 11}):
        assert_same_weights(train(*make_arrays(name, **options)), expected)


def test_what_stands_in_the_padding_does_not_matter():
    x, y = make_arrays("regression")
    valid = (x != 0).any(axis=-1)
    weights = np.random.default_rng(2).uniform(0.5, 2, size=valid.shape)
    models = []
    for filler in (0.0, np.nan):
        model = make("regression", "rmsprop", weighted_metrics=["mse"])
        targets, own = np.where(valid[..., None], y, filler), np.where(valid, weights, filler)
        model.fit(x, targets, sample_weight=own, epochs=2, verbose=0)
        models.append(model)
        assert np.isfinite(model.history.history["loss"]).all()
    assert_same_weights(*models)
    assert models[0].history.history == models[1].history.history


def test_a_step_of_sgd_goes_down_the_gradient():
    model = make("tagger", fm.optimizers.SGD(0.5))
    x, y = make_rows("tagger")
    _, grads = model.loss_and_gradients(x, y)
    before = model.get_weights()
    model.train_on_batch(x, y)
    for old, grad, new in zip(before, grads, model.get_weights(), strict=True):
        dense = grad.dense() if isinstance(grad, fm.ops.SparseRows) else grad
        np.testing.assert_allclose(new, old - 0.5 * dense, rtol=1e-12, atol=1e-15)


def test_a_batch_of_padding_changes_nothing():
    model = make("tagger", metrics=["accuracy"])
    before = model.get_weights()
    found = model.train_on_batch(np.zeros((3, 4), int), np.zeros((3, 4), int))
    assert found == [0.0, 0.0]
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_frozen_layers_stay():
    x, y = make_rows("classifier")
    model = make("classifier", "adam")
    all_grads = model.loss_and_gradients(x, y)[1]
    model.layers[0].trainable = model.layers[2].trainable = False
    grads = model.loss_and_gradients(x, y)[1]
    assert len(grads) == len(model.trainable_weights) == 5
    for grad, expected in zip(grads, [*all_grads[1:4], *all_grads[7:]], strict=True):
        np.testing.assert_array_equal(grad, expected)
    before = model.get_weights()
    model.fit(x, y, verbose=0)
    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert changed == [False, *[True] * 3, *[False] * 3, True, True]


def test_row_weights_are_token_weights_also_when_square():
    x, y = make_arrays("tagger", maxlen=5)  # five rows of five steps
    weights = np.arange(1.0, 6.0)
    model = make("tagger")
    expected = model.loss_and_gradients(x, y, np.repeat(weights[:, None], 5, axis=1))
    rows, labels = make_rows("tagger")
    rows, labels = [r[-5:] for r in rows], [r[-5:] for r in labels]
    for inputs, targets, own in (
        (x, y, weights),
        (x, y, weights[:, None]),
        (rows, labels, weights),
        (rows, labels, [np.full(len(r), w) for r, w in zip(rows, weights, strict=True)]),
    ):
        loss, grads = model.loss_and_gradients(inputs, targets, own)
        assert loss == expected[0]
        for found, grad in zip(grads[1:], expected[1][1:], strict=True):
            np.testing.assert_array_equal(found, grad)


@pytest.mark.parametrize("name", ["tagger", "classifier"])
def test_class_weights_are_sample_weights(name):
    class_weight = {0: 0.5, 1: 3.0}  # others weigh 1
    x, y = make_arrays(name)
    weights = np.select([y == 0, y == 1], [0.5, 3.0], 1.0)
    by_class, by_sample = (make(name, weighted_metrics=["accuracy"]) for _ in range(2))
    by_class.fit(x, y, class_weight=class_weight, shuffle=False, verbose=0)
    by_sample.fit(x, y, sample_weight=weights, shuffle=False, verbose=0)
    assert_same_weights(by_class, by_sample)
    assert by_class.history.history == by_sample.history.history
    one_hot = make("unmasked")
    one_hot.compile("sgd", "categorical_crossentropy")
    x, y = np.ones((5, 6), int), np.array([0, 1, 2, 1, 3])
    weights = np.select([y == 0, y == 1], [0.5, 3.0], 1.0)
    targets = fm.utils.to_categorical(y, CLASSES)
    found = one_hot.train_on_batch(x, targets, class_weight=class_weight)
    again = make("unmasked")
    assert found == pytest.approx(again.train_on_batch(x, y, sample_weight=weights))


def test_class_weights_of_targets_that_are_nearly_classes():
    x, y = make_arrays("classifier")
    exact, nearly = make("classifier"), make("classifier")
    expected = exact.train_on_batch(x, y, class_weight={1: 3.0})
    assert nearly.train_on_batch(x, y * (1 - 1e-9), class_weight={1: 3.0}) == pytest.approx(expected)


def test_loss_and_metrics_of_an_epoch():
    """Loss: batches weighted by rows. Metrics: sum(v m) / T and sum(m) / T of each batch."""
    model = make("tagger", metrics=["accuracy"], weighted_metrics=["acc"])
    x, y = make_arrays("tagger")
    p, mask = model.predict(x), x != 0
    entry = -np.log(np.take_along_axis(p, y[..., None], -1)[..., 0])
    hits = p.argmax(axis=-1) == y
    batches = [slice(0, 2), slice(2, 4), slice(4, 5)]
    loss = sum(len(x[b]) * entry[b][mask[b]].mean() for b in batches) / len(x)
    found = model.evaluate(x, y, batch_size=2, verbose=0)
    assert model.metrics_names == ["loss", "accuracy", "acc"]
    assert found == pytest.approx([loss, hits[mask].mean(), hits[mask].mean()])
    named = model.evaluate(x, y, batch_size=2, verbose=0, return_dict=True)
    assert list(named) == ["acc", "accuracy", "loss"]
    weights = np.arange(1.0, 6.0)
    found = model.test_on_batch(x, y, weights)
    share = (hits * mask * weights[:, None]).sum() / (mask * weights[:, None]).sum()
    assert found[0] == pytest.approx((entry * mask * weights[:, None]).sum() / mask.sum())
    assert found[1:] == pytest.approx([hits[mask].mean(), share])


def test_loss_weights_scale_the_loss_and_the_gradient():
    x, y = make_rows("regression")
    plain, doubled = make("regression"), make("regression", loss_weights=2.0)
    loss, grads = plain.loss_and_gradients(x, y)
    twice, twice_grads = doubled.loss_and_gradients(x, y)
    assert twice == pytest.approx(2 * loss)
    for grad, other in zip(grads, twice_grads, strict=True):
        np.testing.assert_allclose(other, 2 * grad, rtol=1e-12)
    assert doubled.evaluate(x, y, verbose=0) == pytest.approx(twice)


def test_a_tagger_learns():
    """Label of a token: whether the token before it was odd; padding has no label."""
    rng = np.random.default_rng(0)
    x = [rng.integers(1, VOCABULARY, size=n) for n in rng.integers(1, 12, size=160)]
    y = [np.concatenate([[0], row[:-1] % 2]) for row in x]
    fm.utils.set_random_seed(1)
    model = fm.Sequential(
        [
            layers.Embedding(VOCABULARY, 8, mask_zero=True),
            layers.LSTM(16, return_sequences=True),
            layers.Dense(2, "softmax"),
        ]
    )
    model.compile(
        fm.optimizers.Adam(0.02), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    history = model.fit(x, y, batch_size=16, epochs=12, verbose=0, validation_split=0.2).history
    assert history["loss"][-1] < 0.1 * history["loss"][0]
    assert history["val_accuracy"][-1] > 0.97


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam"])
def test_a_classifier_learns(optimizer):
    """Class of a row: the sign of its first valid step, with padding on the left."""
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(n, 2)) for n in rng.integers(1, 8, size=128)]
    y = np.array([row[0, 0] > 0 for row in rows])
    x = fm.utils.pad_sequences(rows, dtype="float32")
    fm.utils.set_random_seed(2)
    model = fm.Sequential(
        [layers.Masking(input_shape=(None, 2)), layers.GRU(12), layers.Dense(1, "sigmoid")]
    )
    rate = {"sgd": 0.5, "rmsprop": 0.02, "adam": 0.02}[optimizer]
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"])
    model.optimizer.learning_rate = rate
    history = model.fit(x, y, batch_size=16, epochs=15, verbose=0).history
    assert history["accuracy"][-1] > 0.9


def test_losses_of_sequences_need_their_outputs_on_the_last_axis():
    model = make("tagger")
    model.compile("sgd", fm.losses.SparseCategoricalCrossentropy(axis=1))
    with pytest.raises(ValueError, match="axis: expected -1 for a loss of sequences"):
        model.train_on_batch(*make_rows("tagger"))


def test_a_function_as_loss_and_as_metric():
    def squares(y_true, y_pred):
        difference = y_pred - y_true
        return np.mean(difference**2, axis=-1), 2 / y_pred.shape[-1] * difference

    x, y = make_rows("regression")
    plain, own = make("regression"), make("regression")
    own.compile("sgd", squares, metrics=[squares])
    expected = plain.train_on_batch(x, y)
    assert own.train_on_batch(x, y) == pytest.approx([expected, expected])
    for a, b in zip(own.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
