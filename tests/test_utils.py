"""pad_sequences, to_categorical, set_random_seed."""

import numpy as np
import pytest

import fastmask as fm
from fastmask.utils import pad_sequences, set_random_seed, to_categorical


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[0, 0, 1], [0, 0, 0], [2, 3, 4]]),
        ({"padding": "post"}, [[1, 0, 0], [0, 0, 0], [2, 3, 4]]),
        ({"maxlen": 2}, [[0, 1], [0, 0], [3, 4]]),
        ({"maxlen": 2, "truncating": "post"}, [[0, 1], [0, 0], [2, 3]]),
        ({"maxlen": 4, "value": 9}, [[9, 9, 9, 1], [9, 9, 9, 9], [9, 2, 3, 4]]),
        ({"maxlen": 0}, np.zeros((3, 0))),
    ],
)
def test_pad_sequences(options, expected):
    padded = pad_sequences([[1], [], [2, 3, 4]], **options)
    assert padded.dtype == np.int32
    np.testing.assert_array_equal(padded, expected)


def test_pad_sequences_of_features():
    rows = [np.ones((2, 3)), np.full((1, 3), 0.5)]
    padded = pad_sequences(rows, dtype="float32", padding="post")
    assert padded.shape == (2, 2, 3)
    np.testing.assert_array_equal(padded[1], [[0.5] * 3, [0] * 3])
    assert pad_sequences([]).shape == (0, 0)


@pytest.mark.parametrize(
    ("sequences", "options", "message"),
    [
        ([[1]], {"padding": "left"}, "padding: expected 'pre' or 'post', got 'left'"),
        ([[1]], {"maxlen": -1}, "maxlen: expected a number of at least 0, got -1"),
        ([[1]], {"truncating": "right"}, "truncating: expected"),
        ([1, 2], {}, "sequences: expected sequences"),
        ([np.ones((2, 3)), np.ones((2, 4))], {}, "sequences: expected sequences"),
    ],
)
def test_pad_sequences_errors(sequences, options, message):
    with pytest.raises(ValueError, match=message):
        pad_sequences(sequences, **options)


def test_to_categorical():
    np.testing.assert_array_equal(to_categorical([0, 2]), [[1, 0, 0], [0, 0, 1]])
    assert to_categorical([[1], [0]], 4).shape == (2, 4)
    assert to_categorical(np.zeros((2, 3), int), 2).shape == (2, 3, 2)
    assert to_categorical([0]).dtype == np.float32
    for y, classes in (([0, 3], 3), ([-1], 3)):
        with pytest.raises(ValueError, match="x: expected class numbers from 0 to 2"):
            to_categorical(y, classes)
    assert to_categorical(np.float16([1, 0])).shape == (2, 2)
    for y in (np.nan, [1.0, np.inf], 1e30, 2**64 - 1):
        with pytest.raises(ValueError, match="x: expected class numbers, got NaN or"):
            to_categorical(y)


def test_seed_repeats_weights_and_shuffling():
    def train():
        set_random_seed(3)
        model = fm.Sequential([fm.layers.Dense(2, input_shape=(3,))])
        model.compile("sgd", "mse")
        x = np.linspace(0, 1, 60).reshape(20, 3)
        model.fit(x, x[:, :2], batch_size=3, epochs=2, verbose=0)
        return model.get_weights()

    for first, second in zip(train(), train(), strict=True):
        np.testing.assert_array_equal(first, second)
