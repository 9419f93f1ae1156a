"""Layers with Keras's names, arguments and results; their arithmetic is in `fastmask.ops`."""

from fastmask.layers.arguments import reset_names
from fastmask.layers.base import Gradients, Layer, require_mask_support
from fastmask.layers.core import Activation, Dense, Dropout, Flatten
from fastmask.layers.embedding import Embedding
from fastmask.layers.masking import Masking
from fastmask.layers.recurrent import GRU, LSTM, SimpleRNN
from fastmask.layers.serialization import deserialize, serialize
from fastmask.layers.variable import Variable
from fastmask.layers.wrappers import Bidirectional, TimeDistributed

__all__ = [
    "GRU",
    "LSTM",
    "Activation",
    "Bidirectional",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "Gradients",
    "Layer",
    "Masking",
    "SimpleRNN",
    "TimeDistributed",
    "Variable",
    "deserialize",
    "require_mask_support",
    "reset_names",
    "serialize",
]
