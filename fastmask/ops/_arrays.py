"""Checks of arguments and the packing of weights into panels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from numbers import Real
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmask import threads
from fastmask.batch.packing import PackedSequence
from fastmask.core.arguments import as_array, booleans
from fastmask.core.arguments import check_shape as check_shape
from fastmask.kernels.memory import aligned_empty
from fastmask.ops import tuning

Array = NDArray[Any]
Indices = NDArray[np.int64]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def check_float(
    name: str, value: ArrayLike, ndim: int | None = None, dtype: np.dtype[Any] | None = None, *, strided: bool = False
) -> Array:
    """``value`` as a C-contiguous, aligned, native float32 or float64 array; TypeError or ValueError otherwise.

    With ``strided`` any order of the elements will do: a transposed weight is not copied.
    """
    array = value if type(value) is np.ndarray else as_array(name, value)
    native = array.dtype in FLOATS
    own = array.dtype if native else array.dtype.newbyteorder("=")
    if own not in FLOATS:
        raise TypeError(f"{name}: expected float32 or float64, got {array.dtype}")
    if dtype is not None and own != dtype and own != dtype.newbyteorder("="):
        raise TypeError(f"{name}: expected {dtype}, as the other arrays, got {array.dtype}")
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{name}: expected {ndim} dimensions, got shape {array.shape}")
    if native and (strided or array.flags.c_contiguous) and array.flags.aligned:
        return array
    return np.require(array, own, ("C", "A"))


def check_like(name: str, value: ArrayLike, like: Array | PackedSequence) -> Array:
    """``value`` checked as by `check_float`, of the dtype and the shape of ``like``."""
    array = check_float(name, value, None, like.dtype)
    check_shape(name, array, like.shape)
    return array


def check_packed(name: str, value: object) -> PackedSequence:
    """``value``; TypeError unless it is a PackedSequence."""
    if not isinstance(value, PackedSequence):
        raise TypeError(f"{name}: expected a PackedSequence, got {type(value).__name__}")
    return value


def check_packed_floats(name: str, value: object) -> PackedSequence:
    """A PackedSequence of native float32 or float64 values, C-contiguous and aligned; TypeError otherwise."""
    packed = check_packed(name, value)
    values = check_float(name, packed.values)
    if values is packed.values:
        return packed
    return PackedSequence(values, packed.packing, packed.index, packed.fill, packed.repeat, packed.shown, packed.apart)


def check_broadcast(name: str, array: Array, shape: Sequence[int]) -> None:
    """ValueError unless ``array`` broadcasts to ``shape``."""
    fits = array.ndim <= len(shape) and all(
        own in (1, full) for own, full in zip(reversed(array.shape), reversed(tuple(shape)), strict=False)
    )
    if not fits:
        raise ValueError(f"{name}: expected a shape that broadcasts to {tuple(shape)}, got {array.shape}")


def check_bool(name: str, value: ArrayLike) -> Array:
    """``value`` as a bool array; TypeError unless it holds bool, or 0 and 1."""
    array = as_array(name, value)
    found = booleans(array)
    if found is None:
        raise TypeError(f"{name}: expected bool, or 0 and 1, got {array.dtype}")
    return found


def check_number(name: str, value: Any) -> float:
    """``value`` as a float; TypeError unless it is a real number."""
    if not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {value!r:.80}")
    return float(value)


def check_axes(name: str, value: Any, rank: int) -> tuple[int, ...]:
    """One axis or several of an array as numbers from 0 on, in order; TypeError or ValueError if there are none."""
    given = value if isinstance(value, (tuple, list)) else (value,)
    if not all(isinstance(axis, (int, np.integer)) for axis in given):
        raise TypeError(f"{name}: expected a whole number or several, got {value!r:.80}")
    axes = sorted({int(axis) % rank for axis in given if -rank <= axis < rank})
    if not axes or len(axes) < len(given):
        raise ValueError(f"{name}: expected different axes among the {rank} of x, got {value!r}")
    return tuple(axes)


def check_list(name: str, value: Any) -> Sequence[Any]:
    """``value``; TypeError unless it is a tuple or a list."""
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name}: expected a tuple or a list, got {type(value).__name__}")
    return value


def product_panels(kernel: ModuleType, matrix: Array) -> Array:
    """A right-hand matrix [depth, columns] in panels of four vectors."""
    depth, columns = matrix.shape
    lanes = kernel.lanes
    vectors = -(-columns // lanes)
    panels = aligned_empty(depth * vectors * lanes, matrix.dtype)
    _pack(kernel, matrix, panels, 4 * lanes, lanes, -(-vectors // 4), 4)
    return panels


def gate_panels(kernel: ModuleType, matrix: Array, gates: int) -> Array:
    """A recurrent matrix [depth, gates * units]: a panel holds one vector of units for each gate."""
    depth, lanes = matrix.shape[0], kernel.lanes
    units = matrix.shape[1] // max(1, gates)
    vectors = -(-units // lanes)
    panels = aligned_empty(depth * vectors * gates * lanes, matrix.dtype)
    _pack(kernel, matrix, panels, lanes, units, vectors, gates)
    return panels


def _pack(
    kernel: ModuleType, matrix: Array, panels: Array, panel_step: int, vector_step: int, count: int, width: int
) -> None:
    # Copying a number takes as long as 100 operations.
    parts = thread_count(100.0 * matrix.size)
    if parts == 1:
        kernel.pack_panels(matrix, panels, panel_step, vector_step, count, width)
        return
    size = matrix.shape[0] * width * kernel.lanes
    threads.run([
        partial(
            kernel.pack_panels, matrix[:, begin * panel_step :], panels[begin * size :], panel_step, vector_step,
            end - begin, width,
        )
        for begin, end in split(count, parts)
    ])


def readable_bias(kernel: ModuleType, bias: Array) -> Array:
    """A bias with zeros behind it: kernels read whole vectors from any of its numbers on."""
    readable = np.zeros(bias.size + kernel.lanes, bias.dtype)
    readable[: bias.size] = bias
    return readable


def thread_count(operations: float) -> int:
    """How many threads are worth while for that many floating-point operations."""
    if operations < 2 * tuning.OPERATIONS_PER_THREAD:
        return 1
    return min(threads.get_num_threads(), int(operations // tuning.OPERATIONS_PER_THREAD))


def split(count: int, parts: int) -> list[tuple[int, int]]:
    """At most ``parts`` consecutive ranges of about equal length that cover ``range(count)``."""
    if parts == 1:
        return [(0, count)]
    parts = max(1, min(parts, count))
    edges = [count * k // parts for k in range(parts + 1)]
    return list(pairwise(edges))
