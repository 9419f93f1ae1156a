"""Weights in PyTorch's form as the operations take them, and gradients back.

PyTorch stores (gates * units, features) and two biases; the operations take Keras's (features, gates * units) and
one bias, two for a GRU. PyTorch's GRU has its gates in the order r, z, n and Keras's in the order z, r, n; those of
the LSTM agree. For both cells: ``torch.nn.GRU`` and ``torch.nn.LSTM`` in PyTorch's reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastmask.ops import RecurrentGradients
from fastmask.ops.rnn import RNNSpec

Array = NDArray[Any]


def _swap_gates(weights: Array) -> Array:
    """The first two of three blocks of rows exchanged; its own inverse."""
    return np.ascontiguousarray(weights.reshape(3, -1, *weights.shape[1:])[[1, 0, 2]]).reshape(weights.shape)


def keras_weights(cell: str, layout: str, weights: Sequence[Array]) -> tuple[Array, Array, Array | None]:
    """(kernel, recurrent_kernel, bias) from those weights that there are, in the ``layout`` "keras" or "torch"."""
    if layout == "torch" and cell == "gru":
        weights = [_swap_gates(weight) for weight in weights]
    kernel, recurrent_kernel, *biases = weights
    if layout == "keras":
        return kernel, recurrent_kernel, biases[0] if biases else None
    if not biases:
        return kernel.T, recurrent_kernel.T, None
    return kernel.T, recurrent_kernel.T, np.stack(biases) if cell == "gru" else biases[0] + biases[1]


def lying_cell(module: ModuleType, spec: RNNSpec, weights: Sequence[Array]) -> Any:
    """The kernels' cell on weights in PyTorch's layout where they lie; None where that cannot be."""
    kernel, recurrent_kernel, *biases = [weight.T for weight in weights]
    readable = (
        kernel.shape == spec.kernel_shape and recurrent_kernel.shape == spec.recurrent_shape and kernel.size > 0
        and all(weight.flags.aligned for weight in weights)
        and all(bias.shape == (spec.columns,) and bias.flags.c_contiguous for bias in biases)
    )
    if not readable:
        return None
    code = getattr(module, spec.kind.code)
    return module.Cell(code, spec.codes, kernel, recurrent_kernel, tuple(biases), spec.cell == "gru")


def _transposed(matrix: Array, cell: str) -> Array:
    # PyTorch's copy of a transposed matrix is several times as fast as NumPy's.
    rows = torch.from_numpy(matrix).t().contiguous().numpy()
    return _swap_gates(rows) if cell == "gru" else rows


def layout_gradients(cell: str, layout: str, gradients: RecurrentGradients) -> tuple[Array | None, ...]:
    """Gradients of four weights, each an array of its own, in the ``layout`` "keras" or "torch"."""
    bias = gradients.bias
    if layout == "keras":
        return gradients.kernel, gradients.recurrent_kernel, bias, None
    kernels = _transposed(gradients.kernel, cell), _transposed(gradients.recurrent_kernel, cell)
    if bias is None:
        return *kernels, None, None
    if cell == "gru":
        return *kernels, _swap_gates(bias[0]), _swap_gates(bias[1])
    return *kernels, bias, bias.copy()
