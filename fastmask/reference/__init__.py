"""The functions of :mod:`fastmask.ops` in plain NumPy, written to be read.

They work on padded arrays ``[B, T, ...]`` with a bool mask ``[B, T]`` (None: every step is valid), in any
float dtype, vectorised over the batch with a loop over time. They say what the compiled functions must
compute, and are the baseline that these are timed against.
"""

from .activations import ACTIVATIONS, activation, activation_vjp
from .combining import (
    attention,
    average_pool,
    batch_dot,
    batch_moments,
    batch_normalization,
    layer_normalization,
    max_pool,
    merge,
)
from .feedforward import (
    MERGE_MODES,
    dense,
    dense_vjp,
    embedding,
    embedding_vjp,
    matmul,
    merge_directions,
    merge_directions_vjp,
)
from .packing import PackPlan, pack, pack_plan, reverse_order, unpack
from .quantized import QuantizedKernel, abs_max_quantize
from .recurrent import (
    RecurrentGradients,
    gru,
    gru_vjp,
    lstm,
    lstm_vjp,
    simple_rnn,
    simple_rnn_vjp,
)
from .training import (
    adam_alpha,
    adam_step,
    lazy_adam_step,
    masked_mean,
    masked_mean_vjp,
    rmsprop_step,
    sgd_step,
    sparse_crossentropy,
)

__all__ = [
    "ACTIVATIONS",
    "MERGE_MODES",
    "PackPlan",
    "QuantizedKernel",
    "RecurrentGradients",
    "abs_max_quantize",
    "activation",
    "activation_vjp",
    "adam_alpha",
    "adam_step",
    "attention",
    "average_pool",
    "batch_dot",
    "batch_moments",
    "batch_normalization",
    "dense",
    "dense_vjp",
    "embedding",
    "embedding_vjp",
    "gru",
    "gru_vjp",
    "layer_normalization",
    "lazy_adam_step",
    "lstm",
    "lstm_vjp",
    "masked_mean",
    "masked_mean_vjp",
    "matmul",
    "max_pool",
    "merge",
    "merge_directions",
    "merge_directions_vjp",
    "pack",
    "pack_plan",
    "reverse_order",
    "rmsprop_step",
    "sgd_step",
    "simple_rnn",
    "simple_rnn_vjp",
    "sparse_crossentropy",
    "unpack",
]
