"""Layers with Keras's names, arguments and results; their arithmetic is in `fastmask.ops`."""

from typing import TYPE_CHECKING

from fastmask.core.objects import missing
from fastmask.layers.attention import Attention
from fastmask.layers.base.arguments import reset_names
from fastmask.layers.base.layer import Gradients, Layer
from fastmask.layers.base.serialization import deserialize, register, serialize
from fastmask.layers.base.support import require_mask_support
from fastmask.layers.base.variable import Variable
from fastmask.layers.core import Activation, Dense, Dropout, Identity, SpatialDropout1D
from fastmask.layers.embedding import Embedding
from fastmask.layers.input import Input, InputLayer
from fastmask.layers.joining import Concatenate, Dot, concatenate, dot
from fastmask.layers.logic import AnyFeature as AnyFeature
from fastmask.layers.logic import LogicalAnd as LogicalAnd
from fastmask.layers.logic import LogicalNot as LogicalNot
from fastmask.layers.logic import LogicalOr as LogicalOr
from fastmask.layers.logic import NotEqual as NotEqual
from fastmask.layers.masking import Masking
from fastmask.layers.merging import (
    Add,
    Average,
    Maximum,
    Minimum,
    Multiply,
    Subtract,
    add,
    average,
    maximum,
    minimum,
    multiply,
    subtract,
)
from fastmask.layers.normalization import BatchNormalization, LayerNormalization
from fastmask.layers.pooling import GlobalAveragePooling1D, GlobalMaxPooling1D
from fastmask.layers.reshaping import DropMask, Flatten, RepeatVector, Reshape
from fastmask.layers.rnn.bidirectional import Bidirectional
from fastmask.layers.rnn.layers import GRU, LSTM, SimpleRNN
from fastmask.layers.rnn.time_distributed import TimeDistributed

GlobalAvgPool1D, GlobalMaxPool1D = GlobalAveragePooling1D, GlobalMaxPooling1D

__all__ = [
    "GRU",
    "LSTM",
    "Activation",
    "Add",
    "Attention",
    "Average",
    "BatchNormalization",
    "Bidirectional",
    "Concatenate",
    "Dense",
    "Dot",
    "DropMask",
    "Dropout",
    "Embedding",
    "Flatten",
    "GlobalAveragePooling1D",
    "GlobalAvgPool1D",
    "GlobalMaxPool1D",
    "GlobalMaxPooling1D",
    "Gradients",
    "Identity",
    "Input",
    "InputLayer",
    "Layer",
    "LayerNormalization",
    "Masking",
    "Maximum",
    "Minimum",
    "Multiply",
    "RepeatVector",
    "Reshape",
    "SimpleRNN",
    "SpatialDropout1D",
    "Subtract",
    "TimeDistributed",
    "Variable",
    "add",
    "average",
    "concatenate",
    "deserialize",
    "dot",
    "maximum",
    "minimum",
    "multiply",
    "require_mask_support",
    "reset_names",
    "serialize",
    "subtract",
]


# By every name that `fastmask.layers` has, mask operations and Keras's aliases among them.
_named = dict(globals())
register({name: found for name, found in _named.items() if isinstance(found, type) and issubclass(found, Layer)})

if not TYPE_CHECKING:
    __getattr__ = missing(__name__)
