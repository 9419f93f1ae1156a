"""Losses: known values, gradients against central differences, masks, weights, errors."""

import numpy as np
import pytest
from helpers.numeric import assert_gradient

from fastmask import losses

B, T, C = 3, 4, 5


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def targets_and_predictions(name, rng, shape=(B, T)):
    """Data that fits a loss, predictions well inside the clipping."""
    logits = rng.normal(size=(*shape, C))
    if name == "sparse":
        return rng.integers(0, C, size=shape), softmax(logits)
    if name == "categorical":
        return softmax(rng.normal(size=(*shape, C))), softmax(logits) * 1.7
    if name == "binary":
        return rng.uniform(size=(*shape, C)), 1 / (1 + np.exp(-logits))
    if name == "rates":
        return rng.poisson(2.0, size=(*shape, C)).astype(float), np.exp(logits)
    if name == "signs":
        return rng.choice([-1.0, 1.0], size=(*shape, C)), logits
    if name == "one_hot":
        return np.eye(C)[rng.integers(0, C, size=shape)], logits
    return rng.normal(size=(*shape, C)), logits


CASES = {
    "mse": ("regression", losses.MeanSquaredError()),
    "mae": ("regression", losses.MeanAbsoluteError()),
    "mean_with_sample_weight": (
        "regression",
        losses.MeanSquaredError(reduction="mean_with_sample_weight"),
    ),
    "mape": ("regression", losses.MeanAbsolutePercentageError()),
    "msle": ("rates", losses.MeanSquaredLogarithmicError()),
    "huber": ("regression", losses.Huber(0.7)),
    "log_cosh": ("regression", losses.LogCosh()),
    "cosine_similarity": ("regression", losses.CosineSimilarity()),
    "hinge": ("signs", losses.Hinge()),
    "squared_hinge": ("signs", losses.SquaredHinge()),
    "categorical_hinge": ("one_hot", losses.CategoricalHinge()),
    "kl_divergence": ("categorical", losses.KLDivergence()),
    "poisson": ("rates", losses.Poisson()),
    "sum": ("regression", losses.MeanSquaredError(reduction="sum")),
    "binary": ("binary", losses.BinaryCrossentropy()),
    "binary_smoothed": ("binary", losses.BinaryCrossentropy(label_smoothing=0.2)),
    "binary_logits": ("binary", losses.BinaryCrossentropy(from_logits=True)),
    "categorical": ("categorical", losses.CategoricalCrossentropy()),
    "categorical_smoothed": ("categorical", losses.CategoricalCrossentropy(label_smoothing=0.3)),
    "categorical_logits": ("categorical", losses.CategoricalCrossentropy(from_logits=True)),
    "sparse": ("sparse", losses.SparseCategoricalCrossentropy()),
    "sparse_logits": ("sparse", losses.SparseCategoricalCrossentropy(from_logits=True)),
    "sparse_ignore": ("sparse", losses.SparseCategoricalCrossentropy(ignore_class=2)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("masked", [False, True])
def test_gradient(name, masked):
    rng = np.random.default_rng(0)
    kind, loss = CASES[name]
    y_true, y_pred = targets_and_predictions(kind, rng)
    weights = rng.uniform(0.5, 2, size=(B, T))
    mask = rng.uniform(size=(B, T)) < 0.6 if masked else None

    def value():
        return loss(y_true, y_pred, weights, mask)

    found, gradient = loss.value_and_gradient(y_true, y_pred, weights, mask)
    assert found == pytest.approx(value(), rel=1e-14)
    assert_gradient(gradient, value, y_pred)


@pytest.mark.parametrize("name", CASES)
def test_packed_tokens_give_the_masked_loss(name):
    rng = np.random.default_rng(1)
    kind, loss = CASES[name]
    y_true, y_pred = targets_and_predictions(kind, rng)
    weights = rng.uniform(0.5, 2, size=(B, T))
    mask = rng.uniform(size=(B, T)) < 0.5
    padded = loss.value_and_gradient(y_true, y_pred, weights, mask)
    tokens = loss.value_and_gradient(y_true[mask], y_pred[mask], weights[mask])
    assert tokens[0] == pytest.approx(padded[0], rel=1e-14)
    np.testing.assert_allclose(tokens[1], padded[1][mask], rtol=1e-13)


def test_known_values():
    y_true, y_pred = np.array([[0.0, 2.0]]), np.array([[1.0, -1.0]])
    assert losses.mean_squared_error(y_true, y_pred) == pytest.approx([5.0])
    assert losses.mean_absolute_error(y_true, y_pred) == pytest.approx([2.0])
    p = np.array([[0.25, 0.75]])
    assert losses.binary_crossentropy([[0, 1]], p) == pytest.approx([-np.log(0.75)])
    assert losses.categorical_crossentropy([[0, 1]], 4 * p) == pytest.approx([-np.log(0.75)])
    assert losses.sparse_categorical_crossentropy([0], p) == pytest.approx([-np.log(0.25)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clipped_probabilities(dtype):
    """Beyond 1e-7 the loss is that of 1e-7 and the gradient is 0."""
    p = np.array([[1.0, 0.0]], dtype)
    floor = -np.log(np.asarray(1e-7, dtype))
    for name, y_true in (("sparse_categorical", [1]), ("categorical", [[0, 1]])):
        value, gradient = losses.get(f"{name}_crossentropy").value_and_gradient(y_true, p)
        assert value == pytest.approx(floor, rel=1e-6)
        assert gradient.dtype == dtype
        assert not gradient.any()
    value, gradient = losses.BinaryCrossentropy().value_and_gradient([[0, 1]], p)
    assert value == pytest.approx(floor, rel=0.03)
    assert not gradient.any()


def test_logits_are_stable():
    logits = np.array([[1000.0, -1000.0]], np.float32)
    with np.errstate(all="raise", under="ignore"):
        for loss, y_true in (
            (losses.BinaryCrossentropy(from_logits=True), [[0.0, 1.0]]),
            (losses.SparseCategoricalCrossentropy(from_logits=True), [1]),
        ):
            value, gradient = loss.value_and_gradient(y_true, logits)
            assert value == pytest.approx(1000 if loss.name.startswith("b") else 2000)
            assert np.isfinite(gradient).all()


def test_masked_mean_divides_by_valid_tokens_whatever_the_weights():
    y_true, y_pred = np.zeros((2, 3, 1)), np.array([[[1.0], [2], [3]], [[4], [5], [6]]])
    mask = [[True, True, False], [True, False, False]]
    weights = np.array([[2.0, 1, 1], [1, 1, 1]])
    loss = losses.MeanSquaredError()
    assert loss(y_true, y_pred, mask=mask) == pytest.approx((1 + 4 + 16) / 3)
    assert loss(y_true, y_pred, weights, mask) == pytest.approx((2 + 4 + 16) / 3)
    rows = losses.MeanSquaredError(reduction="mean_with_sample_weight")
    assert rows(y_true, y_pred, weights, mask) == pytest.approx((2 + 4 + 16) / 4)
    entries = losses.MeanSquaredError(reduction="none")(y_true, y_pred, weights, mask)
    np.testing.assert_allclose(entries, [[2, 4, 0], [16, 0, 0]])


def test_row_weights_hold_for_all_tokens_also_when_square():
    rng = np.random.default_rng(2)
    y_true, y_pred = rng.normal(size=(2, 4, 4, 3))
    loss, weights = losses.MeanSquaredError(), np.array([1.0, 2, 3, 4])
    expected = loss(y_true, y_pred, np.repeat(weights[:, None], 4, axis=1))
    assert loss(y_true, y_pred, weights) == expected
    assert loss(y_true, y_pred, weights[:, None]) == expected


@pytest.mark.parametrize("mask", [np.zeros((B, T), bool), None])
def test_without_valid_tokens_loss_and_gradient_are_zero(mask):
    shape = (B, T, C) if mask is not None else (0, C)
    for reduction in ("sum_over_batch_size", "mean", "sum", "mean_with_sample_weight"):
        loss = losses.MeanSquaredError(reduction=reduction)
        value, gradient = loss.value_and_gradient(np.zeros(shape), np.ones(shape), None, mask)
        assert value == 0
        assert not gradient.any()


def test_masked_places_are_not_read():
    rng = np.random.default_rng(3)
    mask = np.array([[True, True, False, False]])
    y_true, y_pred = rng.normal(size=(2, 1, 4, 2))
    expected = losses.MeanSquaredError().value_and_gradient(y_true, y_pred, None, mask)
    y_true[0, 2:], y_pred[0, 2:] = np.nan, np.nan
    found = losses.MeanSquaredError().value_and_gradient(y_true, y_pred, None, mask)
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])


def test_masked_targets_need_not_be_classes():
    p = np.full((1, 3, 2), 0.5)
    loss = losses.get("sparse_categorical_crossentropy")
    assert loss([[1, -1, 7]], p, mask=[[True, False, False]]) == pytest.approx(np.log(2))
    with pytest.raises(ValueError, match="got class -1"):
        loss([[1, -1, 1]], p)


def test_targets_may_lack_or_have_a_last_axis_of_one():
    rng = np.random.default_rng(4)
    y_pred = rng.uniform(0.1, 0.9, size=(B, T, 1))
    y_true = rng.integers(0, 2, size=(B, T))
    for name in ("mse", "binary_crossentropy"):
        loss = losses.get(name)
        assert loss(y_true, y_pred) == loss(y_true[..., None], y_pred)
    loss, p = losses.get("sparse_categorical_crossentropy"), softmax(rng.normal(size=(B, T, 2)))
    assert loss(y_true, p) == loss(y_true[..., None], p)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.get("mes"), "loss: expected one of .*mse.*, got 'mes'"),
        (lambda: losses.MeanSquaredError(reduction="avg"), "reduction: expected one of"),
        (lambda: losses.BinaryCrossentropy(label_smoothing=2), "label_smoothing: expected a number between"),
        (lambda: losses.MeanSquaredError()(np.ones((2, 3)), np.ones((2, 4))), "y: expected one"),
        (lambda: losses.get("mse")(np.ones((4, 0)), np.ones((4, 0))), "y_pred: expected a number"),
        (lambda: losses.get("mse")([[1.0]], [[1.0]], [1.0, 2.0]), "sample_weight: expected shape"),
        (lambda: losses.sparse_categorical_crossentropy([7], [[0.5, 0.5]]), "got class 7"),
        (lambda: losses.sparse_categorical_crossentropy([-1], [[0.5, 0.5]]), "got class -1"),
        (lambda: losses.sparse_categorical_crossentropy([[0, 1]], [[0.5, 0.5]]), "y: expected one"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_get():
    for name in ("mse", "MSE", "mean_squared_error", "MeanSquaredError"):
        assert isinstance(losses.get(name), losses.MeanSquaredError)
    assert isinstance(losses.get(losses.mean_absolute_error), losses.MeanAbsoluteError)
    assert isinstance(losses.get(losses.BinaryCrossentropy), losses.BinaryCrossentropy)
    with pytest.raises(TypeError, match=r"loss: expected a name.*subclass.*, got 3"):
        losses.get(3)


def test_config_makes_an_equal_loss():
    loss = losses.SparseCategoricalCrossentropy(True, 3, reduction="sum", name="own")
    again = losses.SparseCategoricalCrossentropy(**loss.get_config())
    assert again.get_config() == loss.get_config()


def test_a_loss_of_your_own():
    class Power(losses.Loss):
        def per_token(self, y_true, y_pred):
            difference = y_pred[..., 0] - y_true
            return difference**4, 4 * difference[..., None] ** 3

    y_true, y_pred = np.array([1.0, 2.0]), np.array([[2.0], [0.5]])
    value, gradient = Power().value_and_gradient(y_true, y_pred)
    assert value == pytest.approx((1 + 1.5**4) / 2)
    assert_gradient(gradient, lambda: Power()(y_true, y_pred), y_pred)


def test_a_function_as_loss():
    def power(y_true, y_pred):
        difference = y_pred[..., 0] - y_true
        return difference**4, 4 * difference[..., None] ** 3

    loss = losses.get(power)
    assert loss.name == "power"
    y_true, y_pred = np.array([1.0, 2.0, np.nan]), np.array([[2.0], [0.5], [np.nan]])
    mask = [True, True, False]
    value, gradient = loss.value_and_gradient(y_true, y_pred, None, mask)
    assert value == pytest.approx((1 + 1.5**4) / 2)
    np.testing.assert_allclose(gradient, [[2.0], [-6.75], [0.0]])


def test_a_function_without_gradient_is_an_error():
    def forgetful(y_true, y_pred):
        return np.abs(y_true - y_pred[..., 0])

    with pytest.raises(TypeError, match=r"loss .forgetful.: expected .values, gradient."):
        losses.get(forgetful)([1.0], [[2.0]])
    with pytest.raises(ValueError, match=r"values of shape \(1,\) and a gradient of shape \(1, 1\)"):
        losses.get(lambda y_true, y_pred: (y_pred, y_pred))([1.0], [[2.0]])


def test_axis():
    rng = np.random.default_rng(5)
    y_true, y_pred = targets_and_predictions("categorical", rng)
    weights, mask = rng.uniform(size=(B, T)), rng.uniform(size=(B, T)) < 0.5
    last, first = losses.CategoricalCrossentropy(), losses.CategoricalCrossentropy(axis=1)
    expected, slope = last.value_and_gradient(y_true, y_pred, weights, mask)
    moved = [np.moveaxis(values, -1, 1) for values in (y_true, y_pred)]
    found, gradient = first.value_and_gradient(*moved, weights, mask)
    assert found == expected
    np.testing.assert_array_equal(np.moveaxis(gradient, 1, -1), slope)
    with pytest.raises(ValueError, match="axis: expected an axis of y_pred, which has 3, got 3"):
        losses.CosineSimilarity(axis=3)(y_true, y_pred)
    last.require_packed_axis()
    with pytest.raises(ValueError, match="axis: expected -1 for a loss of sequences"):
        first.require_packed_axis()


def test_dtype_of_the_computation():
    y_true, y_pred = np.zeros((2, 1)), np.full((2, 1), 0.1)
    value, gradient = losses.MeanSquaredError(dtype="float32").value_and_gradient(y_true, y_pred)
    assert value == np.float32(0.1) * np.float32(0.1)
    assert gradient.dtype == np.float64
    with pytest.raises(ValueError, match="dtype: expected 'float32' or 'float64'"):
        losses.MeanSquaredError(dtype="int32")


def test_crossentropy_chooses_by_shape():
    p = np.array([[0.25, 0.75]])
    for y_true, y_pred in (([[1]], p[:, 1:]), ([1], p), ([[1]], p), ([[0, 1]], p)):
        assert losses.get("ce")(y_true, y_pred) == pytest.approx(-np.log(0.75))


def test_serialized():
    loss = losses.Huber(2.0, "sum", "own")
    written = losses.serialize(loss)
    assert written["module"] == "keras.losses"
    again = losses.get(written)
    assert isinstance(again, losses.Huber)
    assert again.get_config() == loss.get_config()

    def mine(y_true, y_pred):
        return y_true, y_pred

    function = {"module": "builtins", "class_name": "function", "config": "mine"}
    assert losses.deserialize(function, {"mine": mine}).function is mine
    with pytest.raises(ValueError, match=r"loss: expected one of .*huber.*, got 'CTC'"):
        losses.deserialize({"class_name": "CTC", "config": {}})


@pytest.mark.parametrize("loss", [losses.MeanAbsoluteError(), losses.MeanAbsolutePercentageError()])
def test_a_prediction_that_is_right_is_not_pushed(loss):
    """The slope of a difference of 0 is 0, as in Keras."""
    target = np.array([[0.0, 1.0, -2.0, 3.0]], np.float32)
    gradient = loss.value_and_gradient(target, np.array([[0.0, 1.0, -2.0, 4.0]], np.float32))[1]
    np.testing.assert_array_equal(gradient[0] > 0, [False, False, False, True])
    np.testing.assert_array_equal(gradient[0, :3], 0)
