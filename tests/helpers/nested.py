"""Documents of sentences of words, padded with zeros, and models of them."""

import numpy as np

import fastmask as fm
from fastmask import layers

from .layers import randomize

RNG = np.random.default_rng(11)
DOCUMENTS, SENTENCES, WORDS, UNITS, VOCABULARY = 4, 3, 5, 2, 9
IDS = RNG.integers(1, VOCABULARY, (DOCUMENTS, SENTENCES, WORDS))
IDS[0, 0, 2:] = IDS[1, 1, 4:] = IDS[1, 2, 1:] = 0
IDS[2, 0, :2] = IDS[2, 1, 1] = 0  # before and between the words
IDS[3, 1:] = IDS[0, 1] = 0  # sentences without any
LABELS = RNG.integers(0, 3, IDS.shape)
INNER = {
    "lstm": lambda **options: layers.LSTM(UNITS, **options),
    "gru": lambda **options: layers.GRU(UNITS, **options),
    "simple_rnn": lambda **options: layers.SimpleRNN(UNITS, **options),
    "bidirectional": lambda **options: layers.Bidirectional(layers.LSTM(UNITS, **options)),
    "backwards": lambda **options: layers.GRU(UNITS, go_backwards=True, **options),
}


def model_of(make, shape=(SENTENCES, WORDS)):
    x = fm.Input(shape, dtype="int32")
    model = fm.Model(x, make(layers.Embedding(VOCABULARY, 3, mask_zero=True)(x)))
    return randomize(model)


def hierarchy(e):
    return layers.Dense(2)(layers.GRU(UNITS)(layers.TimeDistributed(layers.LSTM(UNITS))(e)))


def tagger(e):
    return layers.Dense(3, activation="softmax")(layers.TimeDistributed(layers.LSTM(UNITS, return_sequences=True))(e))
