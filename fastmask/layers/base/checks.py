"""Checks of arguments, by name; what has passed them cannot fail further down."""

import os
import sys
from collections.abc import Collection
from contextlib import suppress
from math import prod
from operator import index
from typing import Any

import numpy as np
import numpy.typing as npt

from fastmask.batch.packing import PackedSequence
from fastmask.core import budget
from fastmask.core.arguments import as_array as as_array
from fastmask.core.arguments import booleans, check_shape, real_numbers, whole_numbers
from fastmask.core.arguments import choice as choice

Array = npt.NDArray[Any]
Shape = tuple[int | None, ...]

ACTIVATION_ALIASES = {"swish": "silu"}


def positive_int(name: str, value: Any) -> int:
    """Return `value` as an int; ValueError unless it is an integer above zero."""
    try:
        number = index(value)
    except TypeError:
        number = 0
    if number <= 0 or isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}: expected a positive integer, got {value!r}")
    return number


def plain_shape(shape: Any) -> Any:
    """Return a shape as a tuple of int and None; the shapes of several inputs as a list of these."""
    if len(shape) and isinstance(shape[0], (tuple, list)):
        return [plain_shape(entry) for entry in shape]
    return tuple(None if n is None else int(n) for n in shape)


def fraction(name: str, value: Any) -> float:
    """Return `value` as a float; ValueError unless it is a number from 0 to 1."""
    if isinstance(value, (bool, str)) or not np.isscalar(value) or not 0 <= value <= 1:  # type: ignore[operator]
        raise ValueError(f"{name}: expected a number from 0 to 1, got {value!r}")
    return float(value)  # type: ignore[arg-type]


def not_supported(**arguments: Any) -> None:
    """Raise NotImplementedError for the first argument that is not None."""
    for name, value in arguments.items():
        if value is not None:
            raise NotImplementedError(f"{name}: expected None, since fastmask has nothing else yet, got {value!r}")


def activation_name(name: str, value: Any, allowed: Collection[str]) -> str:
    """Return the name of an activation given as None (linear), a name or Keras 3's function of that name.

    Other functions are refused even under a known name: what they compute is not known.
    """
    if value is None:
        return "linear"
    known = ACTIVATION_ALIASES.get(value, value) if isinstance(value, str) else value
    if callable(value) and getattr(value, "__module__", "").split(".")[0] == "keras":
        known = getattr(value, "__name__", None)
    if not isinstance(known, str) or known not in allowed:
        raise ValueError(f"{name}: expected None or one of {tuple(sorted(allowed))}, got {value!r}")
    return str(known)


def real_array(name: str, value: Any, dtype: np.dtype[Any]) -> Array:
    """Return `value` as an array of `dtype`; TypeError unless it holds real numbers."""
    array = real_numbers(name, value)
    return array if array.dtype == dtype else array.astype(dtype)


def row_places(name: str, rows: Any, batch_size: int) -> "npt.NDArray[np.int64]":
    """Return chosen rows of a batch, given by their numbers or as a bool for each row, as numbers."""
    array = as_array(name, rows)
    if array.dtype.kind == "b":
        check_shape(name, array, (batch_size,))
        return np.flatnonzero(array)
    places = whole_numbers(name, array)
    if places.size and not 0 <= places.min() <= places.max() < batch_size:
        raise ValueError(f"{name}: expected numbers of rows from 0 to {batch_size - 1}, got {rows!r}")
    return places


def float_input(x: "Array | PackedSequence", dtype: np.dtype[Any]) -> "Array | PackedSequence":
    """Return `x` with values of `dtype`; TypeError unless they are real numbers."""
    if not isinstance(x, PackedSequence):
        return real_array("x", x, dtype)
    return x if x.dtype == dtype else x.with_values(real_array("x", x.values, dtype), fill=x.fill)


def require_memory(what: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise MemoryError if an array of `shape` cannot fit into the memory of this machine.

    ValueError if it is that of a file, and larger than the file may ask for.
    """
    size = prod(shape) * dtype.itemsize
    budget.take(size, what)
    if size > 2**30 and size > _memory():
        raise MemoryError(
            f"{what} with shape {shape} takes {size / 2**30:,.0f} GiB, and this machine has {_memory() / 2**30:,.0f}"
        )


def _memory() -> int:
    """Return the bytes of memory that the process may use at most."""
    limits = [sys.maxsize]
    with suppress(AttributeError, ValueError, OSError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(ValueError, OSError), open("/sys/fs/cgroup/memory.max") as file:
        limits.append(int(file.read()))
    return min(limits)


def mask_for(mask: Any, shape: tuple[int, ...], ids: bool = False) -> "npt.NDArray[np.bool_] | None":
    """Return `mask` as bool (B, T) for a padded array of `shape`; None stays None.

    It may have more axes of the array, but not its last one, unless this is of `ids`.

    Raises
    ------
    TypeError
        If it holds neither bool nor the numbers 0 and 1.
    ValueError
        If its shape is not ``shape[:2]``, nor that of more axes, or an integer is neither 0 nor 1.
    """
    if mask is None or (type(mask) is np.ndarray and mask.dtype == np.bool_ and mask.shape == shape[:2]):
        return mask
    mask = as_array("mask", mask)
    valid = booleans(mask)
    if valid is None and mask.dtype.kind not in "iu":
        raise TypeError(f"mask: expected bool (or the numbers 0 and 1), got dtype {mask.dtype}")
    most = max(2, len(shape) if ids else len(shape) - 1)
    if len(shape) < 2 or not 2 <= mask.ndim <= most or mask.shape != tuple(shape[: mask.ndim]):
        more = f", or more axes up to {tuple(shape[:most])}" if most > 2 else ""
        raise ValueError(f"mask: expected shape (B, T) = {tuple(shape[:2])}{more}, got {mask.shape}")
    if valid is None:
        raise ValueError("mask: expected bool, or 0 and 1 alone as integers, got others")
    return valid


def cotangent(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return the gradient of an output as an array of `dtype`; ValueError unless of `shape`."""
    if type(value) is np.ndarray and value.dtype == dtype and value.shape == shape:
        return value  # as it comes from another layer
    array = real_array(name, value, dtype)
    check_shape(name, array, shape)
    return array
