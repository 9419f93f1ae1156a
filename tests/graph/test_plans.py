"""A mask that hides nothing is still a mask: in one model it is not taken for none, nor none for it."""

import numpy as np
import pytest
from helpers.layers import normal
from helpers.numeric import assert_same_bits

import fastmask as fm
from fastmask import layers

STEPS, FEATURES = 4, 3


class Told(layers.Layer):
    """Zeros with a mask, ones without."""

    supports_masking = True

    def call(self, x, mask=None):
        return np.full_like(x, mask is None)


def recurrent(x):
    return layers.LSTM(2, return_sequences=True)(x)


def statistics(x):
    """Keras adds an epsilon to the number of steps of a masked batch, which float64 shows."""
    return layers.BatchNormalization(dtype="float64")(x)


HEADS = {"told": lambda x: Told()(x), "statistics": statistics, "recurrent": lambda x: statistics(recurrent(x))}
SOURCES = {
    "masking": (lambda: fm.Input((STEPS, FEATURES)), lambda x: layers.Masking()(x)),
    "embedding": (
        lambda: fm.Input((STEPS,), dtype="int32"),
        lambda x: layers.Embedding(9, FEATURES, mask_zero=True, embeddings_initializer="uniform")(x),
    ),
    "no mask": (lambda: fm.Input((STEPS, FEATURES)), recurrent),
}
PAIRS = [(first, second) for first in SOURCES for second in SOURCES if (first == "no mask") != (second == "no mask")]


def values(name):
    """A batch without a masked step."""
    return np.arange(1, 9).reshape(2, STEPS) if name == "embedding" else normal(2, STEPS, FEATURES).astype(np.float32)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_branches_side_by_side(names, head, training):
    """Each of two branches in a model gives what it gives as a model of its own."""
    inputs = [SOURCES[name][0]() for name in names]
    outputs = [HEADS[head](SOURCES[name][1](x)) for name, x in zip(names, inputs, strict=True)]
    batch = [values(name) for name in names]
    together = fm.Model(inputs, outputs)(batch, training=training)
    for source, output, x, found in zip(inputs, outputs, batch, together, strict=True):
        assert_same_bits(found, fm.Model(source, output)(x, training=training))


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_a_layer_that_takes_no_mask_beside_a_mask(names):
    inputs = [SOURCES[name][0]() for name in names]
    made = [SOURCES[name][1](x) for name, x in zip(names, inputs, strict=True)]
    outputs = [
        layers.Flatten()(x) if name == "no mask" else layers.GlobalMaxPooling1D()(x)
        for name, x in zip(names, made, strict=True)
    ]
    batch = [values(name) for name in names]
    for source, output, x, found in zip(inputs, outputs, batch, fm.Model(inputs, outputs)(batch), strict=True):
        assert_same_bits(found, fm.Model(source, output)(x))


@pytest.mark.filterwarnings("ignore:.* loses the mask")
@pytest.mark.parametrize("merge", [layers.Add, layers.Concatenate, layers.Multiply])
@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_merged_branches(names, merge):
    """Padding that another batch has does not change how a merged mask is passed on."""
    inputs = [SOURCES[name][0]() for name in names]
    outputs = [
        layers.TimeDistributed(layers.Dense(2))(SOURCES[name][1](x)) for name, x in zip(names, inputs, strict=True)
    ]
    told = fm.Model(inputs, Told()(merge()(outputs)))
    batch = [values(name) for name in names]
    padded = [x.copy() for x in batch]
    for x, name in zip(padded, names, strict=True):
        if name != "no mask":
            x[0, -1] = 0
    assert_same_bits(told(batch), told(padded))


def test_a_mask_passed_to_a_call():
    """A mask passed to a call counts although the values came without one and are packed as it says already."""
    x, mask, again, head = fm.Input((STEPS, FEATURES)), fm.Input((STEPS,), dtype="bool"), fm.Input((STEPS, 2)), Told()
    sequences = recurrent(x)
    batch = values("no mask")
    under_mask = fm.Model([x, mask], head(layers.Activation("linear")(sequences, mask=mask)))
    masked = fm.Model(again, head(layers.Masking(9.0)(again)))
    found = under_mask([batch, np.ones((2, STEPS), bool)], training=True)
    assert_same_bits(found, masked(fm.Model(x, sequences)(batch), training=True))


@pytest.mark.parametrize("shapes", [((3,), (1, 3)), ((1, 3), (3,))], ids=["rows first", "sentences first"])
def test_rows_beside_documents_of_one_sentence(shapes):
    """Rows and documents of one sentence have the same valid steps, but the mask of documents has one more axis."""
    inputs = [fm.Input(shape, dtype="int32") for shape in shapes]
    tables = [layers.Embedding(9, FEATURES, mask_zero=True)(x) for x in inputs]
    outputs = [layers.TimeDistributed(layers.LSTM(2))(x) if x.ndim == 4 else layers.LSTM(2)(x) for x in tables]
    ids = np.array([[1, 2, 0], [3, 0, 0]])
    batch = [ids.reshape(2, *shape) for shape in shapes]
    for source, output, x, found in zip(inputs, outputs, batch, fm.Model(inputs, outputs)(batch), strict=True):
        assert_same_bits(found, fm.Model(source, output)(x))


@pytest.mark.parametrize("lengths", [(3, 5), (5, 3)])
def test_one_row_beside_a_shorter_one(lengths):
    """Two inputs have the same valid steps, but more padding follows them in one of the two."""
    inputs = [fm.Input((None,), dtype="int32") for _ in lengths]
    outputs = [recurrent(layers.Embedding(9, FEATURES, mask_zero=True)(x)) for x in inputs]
    batch = [np.array([[1, 2, *[0] * (length - 2)]]) for length in lengths]
    for source, output, x, found in zip(inputs, outputs, batch, fm.Model(inputs, outputs)(batch), strict=True):
        assert_same_bits(found, fm.Model(source, output)(x))
