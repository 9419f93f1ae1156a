"""Functional operations on arrays and packed batches: check, allocate, one kernel call.

Every ``*_vjp`` function returns its result and a pullback (JAX's term), which maps gradients of the result
to gradients of the arguments. Arrays are float32 or float64, all of one dtype in a call. The plain NumPy
twins are in :mod:`fastmask.reference`.
"""

from fastmask.ops import tuning
from fastmask.ops._activations import ACTIVATIONS, RECURRENT_ACTIVATIONS, activation, activation_vjp
from fastmask.ops._arrays import check_float
from fastmask.ops._attention import AttentionGradients, attention, attention_vjp
from fastmask.ops._dense import DenseGradients, DenseProgram, dense, dense_vjp, matmul
from fastmask.ops._embedding import SparseRows, embedding, embedding_vjp, rows_of
from fastmask.ops._losses import sparse_crossentropy
from fastmask.ops._merging import MERGES, batch_dot, batch_dot_vjp, merge, merge_vjp
from fastmask.ops._normalization import (
    NormalizationGradients,
    batch_moments,
    batch_normalization,
    batch_normalization_vjp,
    batch_training,
    batch_training_vjp,
    layer_normalization,
    layer_normalization_vjp,
)
from fastmask.ops._optimizers import UpdateProgram, adam_step, lazy_adam_step, rmsprop_step, sgd_step
from fastmask.ops._pooling import average_pool, average_pool_vjp, max_pool, max_pool_vjp
from fastmask.ops._quantized import DEEPEST, Quantized, abs_max_quantize
from fastmask.ops._sequences import (
    MERGE_MODES,
    expand_vjp,
    gather,
    gather_vjp,
    merge_directions_vjp,
    merge_rows_vjp,
    multiply_vjp,
    pack,
    pack_vjp,
    time_order,
    time_order_vjp,
    unpack,
    unpack_vjp,
)
from fastmask.ops.rnn import (
    Cell,
    Dropout,
    RecurrentGradients,
    RNNProgram,
    RNNSpec,
    Tokens,
    gru,
    gru_vjp,
    lstm,
    lstm_vjp,
    simple_rnn,
    simple_rnn_vjp,
)

__all__ = [
    "ACTIVATIONS",
    "DEEPEST",
    "MERGES",
    "MERGE_MODES",
    "RECURRENT_ACTIVATIONS",
    "AttentionGradients",
    "Cell",
    "DenseGradients",
    "DenseProgram",
    "Dropout",
    "NormalizationGradients",
    "Quantized",
    "RNNProgram",
    "RNNSpec",
    "RecurrentGradients",
    "SparseRows",
    "Tokens",
    "UpdateProgram",
    "abs_max_quantize",
    "activation",
    "activation_vjp",
    "adam_step",
    "attention",
    "attention_vjp",
    "average_pool",
    "average_pool_vjp",
    "batch_dot",
    "batch_dot_vjp",
    "batch_moments",
    "batch_normalization",
    "batch_normalization_vjp",
    "batch_training",
    "batch_training_vjp",
    "check_float",
    "dense",
    "dense_vjp",
    "embedding",
    "embedding_vjp",
    "expand_vjp",
    "gather",
    "gather_vjp",
    "gru",
    "gru_vjp",
    "layer_normalization",
    "layer_normalization_vjp",
    "lazy_adam_step",
    "lstm",
    "lstm_vjp",
    "matmul",
    "max_pool",
    "max_pool_vjp",
    "merge",
    "merge_directions_vjp",
    "merge_rows_vjp",
    "merge_vjp",
    "multiply_vjp",
    "pack",
    "pack_vjp",
    "rmsprop_step",
    "rows_of",
    "sgd_step",
    "simple_rnn",
    "simple_rnn_vjp",
    "sparse_crossentropy",
    "time_order",
    "time_order_vjp",
    "tuning",
    "unpack",
    "unpack_vjp",
]
