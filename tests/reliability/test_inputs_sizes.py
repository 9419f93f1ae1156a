"""Sizes that overflow or exceed the memory."""

import numpy as np
import pytest

import fastmask as fm
from fastmask import PackedSequence, Packing, layers, ops

HUGE = [2**31, 2**40, 2**62, 2**63 - 1, 2**63, 2**70]


def refused(function, *arguments, **keywords):
    """The call is a MemoryError, ValueError or TypeError (a number that is no index)."""
    with pytest.raises((MemoryError, ValueError, TypeError)):
        function(*arguments, **keywords)


@pytest.mark.parametrize("size", HUGE[1:])
def test_plans(size):
    refused(Packing.full, size, 1)
    refused(Packing.full, 1, size)
    refused(Packing.full, size, size)
    refused(Packing.full, 2, size)
    refused(Packing.from_lengths, [size, 1])
    refused(Packing.from_lengths, np.array([2**62, 2**62, 2**62, 2**62]), None)


def test_a_grid_too_large_to_number():
    """Places in the grid are int64."""
    plan = Packing.from_lengths([1, 1], 2**62 - 1)
    assert plan.positions.tolist() == [0, 2**62 - 1]
    with pytest.raises(ValueError, match="total_length: expected a grid of at most"):
        Packing.from_lengths([1, 1, 1], 2**62)
    refused(lambda: plan.mask)
    refused(plan.grid)
    refused(PackedSequence(np.zeros((2, 3)), plan).pad)


@pytest.mark.parametrize("rows", HUGE[1:2])
def test_views_larger_than_the_memory(rows):
    """Arrays with a stride of zero: their size is not in memory, but that of a result would be."""
    wide = np.broadcast_to(np.float32(1), (rows, 2**10))
    refused(ops.dense, wide, np.ones((2**10, 2**10), np.float32))
    refused(ops.pack, wide[:, :, None])
    refused(ops.activation, wide, "tanh")
    refused(ops.embedding, np.zeros((1, 1), int), np.broadcast_to(np.float32(1), (rows, 2**20)))


@pytest.mark.parametrize("size", HUGE[1:])
def test_layers(size):
    x = np.ones((2, 3, 4), np.float32)
    refused(lambda: layers.Dense(size)(x))
    refused(lambda: layers.Embedding(size, 2**10)(np.ones((2, 3), int)))
    for layer in (layers.LSTM, layers.GRU, layers.SimpleRNN):
        refused(lambda layer=layer: layer(size)(x))
    refused(lambda: layers.RepeatVector(size)(x[:, 0]))


@pytest.mark.parametrize("size", HUGE[1:])
def test_initializers(size):
    refused(fm.initializers.Zeros(), (size, 2**10))
    refused(fm.initializers.GlorotUniform(0), (size, 2**10))
    refused(fm.initializers.Orthogonal(0), (size, 2**10))


def test_utilities():
    refused(fm.utils.pad_sequences, [[1]], maxlen=2**60)
    refused(fm.utils.to_categorical, [2**60])


@pytest.mark.parametrize("shape", [(3, 0), (3, 4, 0), (0, 4), (0, 4, 0), (3, 0, 2)])
@pytest.mark.parametrize("layer", [layers.Dense, layers.BatchNormalization, layers.LayerNormalization])
def test_arrays_without_numbers(layer, shape):
    made = layer(2) if layer is layers.Dense else layer()
    for training in (False, True):
        y, pullback = made.vjp(np.zeros(shape), training=training)
        assert y.shape == (*shape[:-1], 2 if layer is layers.Dense else shape[-1])
        assert pullback(y).inputs.shape == shape


@pytest.mark.parametrize("layer", [layers.Dense, layers.BatchNormalization, layers.LayerNormalization])
def test_packed_numbers_have_no_features(layer):
    """Their steps are no features, however many there are."""
    made = layer(2) if layer is layers.Dense else layer()
    made(np.zeros((3, 4, 2)))
    with pytest.raises(ValueError, match="x: expected 2 features"):
        made(PackedSequence.from_padded(np.zeros((1, 2))))
