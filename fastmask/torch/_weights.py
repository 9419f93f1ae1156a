"""Weights in PyTorch's form as the operations take them, and gradients back; see :mod:`fastmask.ops.rnn.layouts`."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from numpy.typing import NDArray

from fastmask.ops import RecurrentGradients
from fastmask.ops.rnn import RNNSpec
from fastmask.ops.rnn.layouts import from_torch, reordered

Array = NDArray[Any]


def keras_weights(cell: str, layout: str, weights: Sequence[Array]) -> tuple[Array, Array, Array | None]:
    """(kernel, recurrent_kernel, bias) from those weights that there are, in the ``layout`` "keras" or "torch"."""
    kernel, recurrent_kernel, *biases = from_torch(cell, weights) if layout == "torch" else weights
    return kernel, recurrent_kernel, biases[0] if biases else None


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
    return reordered(rows, cell, "keras", "torch")


def layout_gradients(cell: str, layout: str, gradients: RecurrentGradients) -> tuple[Array | None, ...]:
    """Gradients of four weights, each an array of its own, in the ``layout`` "keras" or "torch"."""
    bias = gradients.bias
    if layout == "keras":
        return gradients.kernel, gradients.recurrent_kernel, bias, None
    kernels = _transposed(gradients.kernel, cell), _transposed(gradients.recurrent_kernel, cell)
    if bias is None:
        return *kernels, None, None
    if cell == "gru":
        return *kernels, *[reordered(rows, cell, "keras", "torch") for rows in bias]
    return *kernels, bias, bias.copy()
