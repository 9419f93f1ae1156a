"""Matrices of 8-bit integers, and rows that are quantised to meet them."""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from fastmask import threads
from fastmask.kernels.memory import aligned_empty
from fastmask.ops._arrays import Array, check_float, readable_bias, split, thread_count

LARGEST = 127
# Sums of so many products of 8-bit integers, of which one may be unsigned, fit in 32 bits on every processor.
DEEPEST = 66_311


class Quantized(NamedTuple):
    """A matrix (k, m) in 8-bit integers: ``values / scale``, as Keras's ``quantizers.abs_max_quantize`` has it.

    Attributes
    ----------
    values : int8 array (k, m)
    scale : float32 array (m,), or (k,)
        One for each column; of a table that is looked up, one for each row.
    """

    values: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def rows(self, ids: Any) -> Array:
        """Rows in float32, as NumPy's index names them, of a table that has a scale for each row."""
        found: Array = self.values[ids] / self.scale[ids][..., None]
        return found


def abs_max_quantize(x: ArrayLike, axis: int = 0) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Quantise to integers from -127 to 127: ``scale = 127 / (max|x| + 1e-7)``, ``values = rint(x * scale)``.

    Parameters
    ----------
    x : float32 array
    axis : int, default 0
        The axis whose numbers share a scale; 0 gives the columns of a kernel one each.

    Returns
    -------
    values : int8 array like ``x``
    scale : float32 array
        Like ``x`` without the axis.

    Raises
    ------
    TypeError
        If ``x`` is not float32.
    ValueError
        If it holds a number that is not finite.
    """
    array = check_float("x", x, None, np.dtype(np.float32))
    if not np.isfinite(array).all():
        raise ValueError("x: expected finite numbers, got infinity or NaN")
    largest = np.abs(array).max(axis=axis, initial=0)
    scale = np.float32(LARGEST) / (largest + np.float32(1e-7))
    values = np.rint(array * np.expand_dims(scale, axis))
    return np.clip(values, -LARGEST, LARGEST).astype(np.int8), scale


def check_quantized(name: str, matrix: Any, shape: tuple[int, ...]) -> Quantized:
    """``matrix``; TypeError or ValueError unless it is a `Quantized` of the shape, not too deep to be summed."""
    if not isinstance(matrix, Quantized):
        raise TypeError(f"{name}: expected Quantized, as the others are, got {type(matrix).__name__}")
    values, scale = matrix
    if values.dtype != np.int8 or values.shape != shape:
        raise ValueError(f"{name}: expected int8 of shape {shape}, got {values.dtype} of shape {values.shape}")
    if scale.dtype != np.float32 or scale.shape != shape[1:]:
        raise ValueError(f"{name}: expected a float32 scale of shape {shape[1:]}, got {scale.dtype} {scale.shape}")
    if shape[0] > DEEPEST:
        raise ValueError(f"{name}: expected at most {DEEPEST:,} rows of a quantised matrix, got {shape[0]:,}")
    return matrix


def words(matrix: npt.NDArray[np.int8]) -> Array:
    """The columns of a matrix (k, m) in words of two 16-bit integers (ceil(k / 2), m), which look like float32."""
    depth, columns = matrix.shape
    pairs = np.zeros((-(-depth // 2), columns, 2), np.int16)
    pairs[:, :, 0] = matrix[0::2]
    pairs[: depth // 2, :, 1] = matrix[1::2]
    return pairs.view(np.float32)[:, :, 0]


def readable_units(module: ModuleType, matrix: Quantized) -> Array:
    """What an integer of each column stands for, as the compiled kernels read it."""
    return readable_bias(module, 1 / matrix.scale)


def quantized_rows(module: ModuleType, rows: Array) -> Array:
    """Rows (n, k) in words, with what an integer of the row stands for behind them (n, ceil(k / 2) + 1)."""
    out = aligned_empty((rows.shape[0], -(-rows.shape[1] // 2) + 1), rows.dtype)
    # A number takes about as long as ten operations.
    parts = thread_count(10.0 * rows.size)
    threads.run([partial(module.quantize_rows, rows, out, *part) for part in split(rows.shape[0], parts)])
    return out
