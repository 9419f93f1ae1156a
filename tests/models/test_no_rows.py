"""Batches of no rows through layers of several inputs, and through every operation."""

import numpy as np
import pytest

import fastmask as fm
from fastmask import PackedSequence, layers, ops

X = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
MASK = np.array([[True, False, True, True, False], [False] * 5])


def pair(make):
    one, two = fm.Input((5, 4)), fm.Input((5, 4))
    masked = layers.Masking()
    return fm.Model([one, two], make(masked(one), masked(two)))


PAIRS = {
    "add": lambda a, b: layers.Add()([a, b]),
    "multiply": lambda a, b: layers.Multiply()([a, b]),
    "maximum": lambda a, b: layers.Maximum()([a, b]),
    "concatenate": lambda a, b: layers.Concatenate()([a, b]),
    "concatenate in time": lambda a, b: layers.Concatenate(axis=1)([a, b]),
    "dot": lambda a, b: layers.Dot(2)([layers.DropMask()(a), layers.DropMask()(b)]),
    "attention": lambda a, b: layers.Attention(use_scale=True)([a, b]),
    "states": lambda a, b: layers.GRU(3)(a, initial_state=[layers.LSTM(3)(b)]),
    "outputs": lambda a, b: [layers.Bidirectional(layers.LSTM(3, return_sequences=True))(a), layers.LSTM(2)(b)],
    "repeated": lambda a, b: layers.RepeatVector(3)(layers.Add()([layers.LSTM(2)(a), layers.LSTM(2)(b)])),
}


@pytest.mark.parametrize("make", PAIRS.values(), ids=PAIRS)
def test_models_of_two_inputs(make):
    model = pair(make)
    wanted = model.predict([X, X])
    for found in (model.predict([X[:0], X[:0]]), model([X[:0], X[:0]]), model([X[:0], X[:0]], training=True)):
        pairs = zip(found, wanted, strict=True) if isinstance(wanted, list) else [(found, wanted)]
        for output, other in pairs:
            assert output.shape == (0, *other.shape[1:])


def test_stateful_layers():
    model = fm.Sequential([fm.Input((None, 4)), layers.LSTM(3, stateful=True)])
    assert model.predict(X[:0]).shape == (0, 3)


def packed(rows, masked):
    return PackedSequence.from_padded(X[:rows], MASK[:rows] if masked else None)


def matrix(*shape):
    return np.ones(shape, np.float32)


LSTM = matrix(4, 12), matrix(3, 12), matrix(12)
OPERATIONS = {
    "lstm": lambda p: ops.lstm_vjp(p, *LSTM),
    "gru": lambda p: ops.gru_vjp(p, matrix(4, 9), matrix(3, 9), matrix(2, 9)),
    "simple_rnn": lambda p: ops.simple_rnn_vjp(p, matrix(4, 3), matrix(3, 3), matrix(3)),
    "dense": lambda p: ops.dense_vjp(p.data, matrix(4, 3), matrix(3)),
    "pack": lambda p: ops.pack_vjp(p.pad()),
    "unpack": lambda p: ops.unpack_vjp(p),
    "average_pool": lambda p: ops.average_pool_vjp(p),
    "max_pool": lambda p: ops.max_pool_vjp(p),
    "layer_normalization": lambda p: ops.layer_normalization_vjp(p.data, matrix(4), matrix(4), 1e-3),
    "activation": lambda p: ops.activation_vjp(p.data, "tanh"),
    "softmax": lambda p: ops.activation_vjp(p.data, "softmax"),
    "attention": lambda p: ops.attention_vjp(p.pad(), p.pad(), p.pad()),
    "batch_dot": lambda p: ops.batch_dot_vjp(p.pad(), p.pad(), (2, 2)),
    "merge": lambda p: ops.merge_vjp([p.pad(), p.pad()], "maximum"),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_operations(operation, masked):
    (found, _), (wanted, _) = operation(packed(0, masked)), operation(packed(2, masked))
    first, other = (y[0] if isinstance(y, tuple) else y for y in (found, wanted))
    arrays = [y.values if isinstance(y, PackedSequence) else y for y in (first, other)]
    assert arrays[0].shape == (0, *arrays[1].shape[1:])
