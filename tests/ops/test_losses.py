"""Softmax and the compiled cross-entropy: against the reference, central differences, hard rows, errors."""

import numpy as np
import pytest
from helpers.numeric import assert_close, assert_gradient, assert_same_bits

from fastmask import ops, reference

pytestmark = pytest.mark.usefixtures("instruction_set")

DTYPES = [np.float32, np.float64]
CLASSES = [1, 2, 7, 16, 20, 133]


def case(columns, from_logits, dtype=np.float64, rows=9):
    rng = np.random.default_rng(columns)
    x = rng.normal(size=(rows, columns)) if from_logits else rng.uniform(0.5, 2, (rows, columns))
    return x.astype(dtype), rng.integers(0, columns, rows), rng.normal(size=rows).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", CLASSES)
@pytest.mark.parametrize("shift", [0, -1000, 1000])
def test_softmax(shift, columns, dtype):
    rng = np.random.default_rng(columns)
    x, dy = 4 * rng.normal(size=(5, columns)) + shift, rng.normal(size=(5, columns))
    x = x.astype(dtype)
    y, pullback = ops.activation_vjp(x, "softmax")
    expected, expected_pullback = reference.activation_vjp(x.astype(np.float64), "softmax")
    assert_close(y, expected)
    assert_close(pullback(dy.astype(dtype)), expected_pullback(dy))
    assert_same_bits(ops.activation(x[2:3], "softmax"), y[2:3])


@pytest.mark.parametrize("place", [0, 3, 19, 31])
def test_softmax_of_a_row_with_nan_is_nan(place):
    x = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)
    x[1, place] = np.nan
    y = ops.activation(x, "softmax")
    assert np.isnan(y[1]).all()
    assert not np.isnan(y[0]).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", CLASSES)
@pytest.mark.parametrize("from_logits", [False, True])
def test_crossentropy(from_logits, columns, dtype):
    x, labels, scale = case(columns, from_logits, dtype)
    found = ops.sparse_crossentropy(x, labels, scale, from_logits)
    expected = reference.sparse_crossentropy(x.astype(np.float64), labels, scale.astype(np.float64), from_logits)
    if columns == 1 and not from_logits:  # q = 1 is clipped, to another number in float32
        assert_close(found[0], np.full(len(x), -np.log(1 - dtype(1e-7)), np.float64))
        expected = found[0], expected[1]
    for array, other in zip(found, expected, strict=True):
        assert array.dtype == dtype
        assert_close(array, other)
    alone = ops.sparse_crossentropy(x[4:5], labels[4:5], scale[4:5], from_logits)
    assert_same_bits(alone[1], found[1][4:5])
    assert_same_bits(ops.sparse_crossentropy(x, labels, None, from_logits)[0], found[0])


@pytest.mark.parametrize("columns", CLASSES[1:])
@pytest.mark.parametrize("from_logits", [False, True])
def test_gradient_of_the_crossentropy(from_logits, columns):
    x, labels, scale = case(columns, from_logits)
    gradient = ops.sparse_crossentropy(x, labels, scale, from_logits)[1]
    assert_gradient(gradient, lambda: scale @ ops.sparse_crossentropy(x, labels, None, from_logits)[0], x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_clipped_probabilities_have_no_gradient(dtype):
    p = np.array([[0, 1, 0], [0.5, 0.25, 0.25], [1, 0, 0]], dtype)
    values, gradient = ops.sparse_crossentropy(p, [0, 0, 0])
    np.testing.assert_allclose(values, [-np.log(1e-7), np.log(2), 1e-7], rtol=1e-6, atol=5e-8)
    assert (gradient[[0, 2]] == 0).all()
    np.testing.assert_allclose(gradient[1], [-1, 1, 1])
    looser = ops.sparse_crossentropy(p, [0, 0, 0], epsilon=0.25)[0]
    np.testing.assert_allclose(looser, -np.log([0.25, 0.5, 0.75]), rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_logits(dtype):
    x = np.array([[1e4, 0, -1e4], [-1e4, -1e4, -1e4]], dtype)
    values, gradient = ops.sparse_crossentropy(x, [1, 2], from_logits=True)
    np.testing.assert_allclose(values, [1e4, np.log(3)], rtol=1e-6)
    np.testing.assert_allclose(gradient, [[1, -1, 0], [1 / 3, 1 / 3, -2 / 3]], rtol=1e-6)


@pytest.mark.parametrize("from_logits", [False, True])
def test_threads_give_the_same_bits(from_logits, set_threads):
    x, labels, scale = case(50, from_logits, np.float32, rows=40)
    found = []
    for count in (1, 3):
        set_threads(count)
        found.append(ops.sparse_crossentropy(x, labels, scale, from_logits))
    for one, three in zip(*found, strict=True):
        assert_same_bits(one, three)


def test_no_rows():
    values, gradient = ops.sparse_crossentropy(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    assert values.shape == (0,)
    assert gradient.shape == (0, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.ones(3), [0]), ValueError, "prediction"),
        ((np.ones((2, 3)), [0]), ValueError, "labels"),
        ((np.ones((2, 3)), [0, 3]), IndexError, "labels"),
        ((np.ones((2, 3)), [0, -1]), IndexError, "labels"),
        ((np.ones((2, 3)), [0.5, 1.0]), TypeError, "labels"),
        ((np.ones((2, 0)), [0, 0]), IndexError, "labels"),
        ((np.ones((2, 3)), [0, 1], np.ones(3)), ValueError, "scale"),
        ((np.ones((2, 3)), [0, 1], np.ones(2, np.float32)), TypeError, "scale"),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=rf"\b{message}\b"):
        ops.sparse_crossentropy(*arguments)
