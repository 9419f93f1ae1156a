"""Weights of layers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastmask.kernels.memory import aligned_empty
from fastmask.layers.checks import Array, real_array


class Variable:
    """A named weight whose array is updated in place.

    Parameters
    ----------
    value : array_like of real numbers
        Copied.
    name : str
        Such as ``"kernel"``.
    trainable : bool, default True
    path : str, optional
        Such as ``"lstm/lstm_cell/kernel"``; `name` when left out.
    dtype : dtype, optional
        Of the stored array; that of `value` when left out.

    Attributes
    ----------
    value : ndarray
        C-contiguous, from the start of a cache line on if it is not small; optimizers write into it.
    regularizer, constraint : callable or None
        As in `Layer.add_weight`.
    """

    regularizer: Any = None
    constraint: Any = None

    def __init__(
        self,
        value: npt.ArrayLike,
        name: str,
        trainable: bool = True,
        path: str | None = None,
        dtype: npt.DTypeLike | None = None,
    ) -> None:
        dtype = np.asarray(value).dtype if dtype is None else np.dtype(dtype)
        given = real_array("value", value, dtype)
        self.value: Array = aligned_empty(given.shape, given.dtype)
        self.value[...] = given
        self.name = name
        self.trainable = trainable
        self.path = name if path is None else path

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.value.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the array."""
        return self.value.dtype

    def numpy(self) -> Array:
        """Return a copy of the array."""
        return self.value.copy()

    def assign(self, value: npt.ArrayLike) -> None:
        """Overwrite the array, casting to its dtype.

        Raises
        ------
        TypeError
            If `value` does not hold real numbers.
        ValueError
            If its shape differs or a number is too large for the dtype.
        """
        self.value[...] = self.checked(value)

    def checked(self, value: npt.ArrayLike, name: str = "value") -> Array:
        """Return `value` as an array that fits this variable; errors as for `assign`."""
        try:
            with np.errstate(over="raise"):
                array = real_array(name, value, self.dtype)
        except FloatingPointError:
            raise ValueError(f"{name} holds numbers too large for {self.dtype} in {self.path}") from None
        if array.shape != self.shape:
            raise ValueError(f"{name} must have shape {self.shape} for {self.path}, got {array.shape}")
        return array

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is None:  # NumPy 1 has no such value
            return np.asarray(self.value, dtype)
        return np.array(self.value, dtype, copy=copy)

    def __repr__(self) -> str:
        return f"<Variable path={self.path}, shape={self.shape}, dtype={self.dtype}>"


def assign_all(
    variables: Sequence[Variable], weights: Sequence[npt.ArrayLike], owner: str, built: bool
) -> None:
    """Overwrite all variables of a layer or model, or none if one value does not fit."""
    if not isinstance(weights, (list, tuple, np.ndarray)):
        raise TypeError(f"weights must be a list of arrays, got {type(weights).__name__}")
    if len(weights) != len(variables):
        hint = "" if built else " (it is not built yet: call build(input_shape) first)"
        raise ValueError(f"weights must hold {len(variables)} arrays for {owner}{hint}, got {len(weights)}")
    pairs = enumerate(zip(variables, weights, strict=True))
    arrays = [variable.checked(value, f"weights[{i}]") for i, (variable, value) in pairs]
    for variable, array in zip(variables, arrays, strict=True):
        variable.value[...] = array
