"""Functional operations on arrays and packed batches: check, allocate, one kernel call.

Every ``*_vjp`` function returns its result and a pullback (JAX's term), which maps gradients of the result
to gradients of the arguments. Arrays are float32 or float64, all of one dtype in a call. The plain NumPy
twins are in :mod:`fastmask.reference`.
"""

from fastmask.ops._activations import ACTIVATIONS, RECURRENT_ACTIVATIONS, activation, activation_vjp
from fastmask.ops._dense import DenseGradients, dense, dense_vjp, matmul
from fastmask.ops._embedding import SparseRows, embedding, embedding_vjp
from fastmask.ops._gru import gru, gru_vjp
from fastmask.ops._lstm import lstm, lstm_vjp
from fastmask.ops._optimizers import adam_step, rmsprop_step, sgd_step
from fastmask.ops._recurrent import RecurrentGradients
from fastmask.ops._sequences import (
    MERGE_MODES,
    expand_vjp,
    merge_directions_vjp,
    multiply_vjp,
    pack,
    pack_vjp,
    time_order,
    time_order_vjp,
    unpack,
    unpack_vjp,
)
from fastmask.ops._simple_rnn import simple_rnn, simple_rnn_vjp

__all__ = [
    "ACTIVATIONS",
    "MERGE_MODES",
    "RECURRENT_ACTIVATIONS",
    "DenseGradients",
    "RecurrentGradients",
    "SparseRows",
    "activation",
    "activation_vjp",
    "adam_step",
    "dense",
    "dense_vjp",
    "embedding",
    "embedding_vjp",
    "expand_vjp",
    "gru",
    "gru_vjp",
    "lstm",
    "lstm_vjp",
    "matmul",
    "merge_directions_vjp",
    "multiply_vjp",
    "pack",
    "pack_vjp",
    "rmsprop_step",
    "sgd_step",
    "simple_rnn",
    "simple_rnn_vjp",
    "time_order",
    "time_order_vjp",
    "unpack",
    "unpack_vjp",
]
