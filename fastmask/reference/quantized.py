"""Products in 8-bit integers: ``x @ kernel`` with both sides quantised, the sums exact.

The formula is that of Keras's ``quantizers.abs_max_quantize``: ``scale = 127 / (max|x| + 1e-7)``, integers
``rint(x * scale)``. A kernel has a scale for each column, x one for each row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .activations import Array

LARGEST = 127


def abs_max_quantize(x: Array, axis: int) -> tuple[Array, Array]:
    """Integers like ``x``, and the scales, with an axis of 1 where they are shared."""
    scale = LARGEST / (np.abs(x).max(axis=axis, keepdims=True) + x.dtype.type(1e-7))
    return np.rint(x * scale).astype(np.int64), scale


class QuantizedKernel:
    """A kernel [F, M] in 8-bit integers, which quantises each row that it multiplies.

    A row with an infinity or NaN gives a row of NaN.

    Parameters
    ----------
    kernel : array [F, M]
    bounded : bool, default False
        Whether rows are states that an activation bounds by 1: as long as they are, their scale is 127. Columns of the
        kernel that are taken for a product of their own meet other rows.
    """

    __array_ufunc__ = None

    def __init__(self, kernel: Array, bounded: bool = False) -> None:
        self.integers, self.scale = abs_max_quantize(kernel, 0)
        self.bounded = bounded
        self.shape = kernel.shape
        self.dtype = kernel.dtype

    def __len__(self) -> int:
        return len(self.integers)

    def __getitem__(self, columns: Any) -> QuantizedKernel:
        some = object.__new__(QuantizedKernel)
        some.integers, some.scale, some.dtype = self.integers[columns], self.scale[columns], self.dtype
        some.shape = some.integers.shape
        some.bounded = self.bounded and columns[1].start is None
        return some

    def __rmatmul__(self, x: Array) -> Array:
        finite = np.isfinite(x).all(axis=-1, keepdims=True)
        integers, scale = abs_max_quantize(np.where(finite, x, 0), -1)
        if self.bounded:
            within = np.abs(x).max(axis=-1, keepdims=True, initial=0) <= 1
            integers = np.where(within, np.rint(x * x.dtype.type(LARGEST)), integers).astype(np.int64)
            scale = np.where(within, x.dtype.type(LARGEST), scale)
        product = (integers @ self.integers).astype(x.dtype) / (scale * self.scale)
        return np.where(finite, product, np.nan).astype(x.dtype)
