"""Weights of layers."""

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fastmask.kernels.memory import aligned_empty
from fastmask.layers.base.checks import Array, real_array

_versions = count()


class Variable:
    """A named weight whose array is updated in place, by `assign` or within `changing`.

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
        A view of the array that cannot be written through: layers must learn of every change. The array is
        C-contiguous, from the start of a cache line on if it is not small.
    version : int or None
        Another one after each change, and no other variable's; None while the array is being changed.
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
        self._hold(_own(given))
        self.name = name
        self.trainable = trainable
        self.path = name if path is None else path

    @classmethod
    def around(cls, array: Array, name: str, trainable: bool = True, path: str | None = None) -> Self:
        """Return a variable whose array is `array` itself."""
        variable = cls.__new__(cls)
        variable._hold(array)
        variable.name, variable.trainable = name, trainable
        variable.path = name if path is None else path
        return variable

    def _hold(self, array: Array) -> None:
        self._array = array
        self._value = array.view()
        self._value.flags.writeable = False
        self.version: int | None = next(_versions)

    @property
    def value(self) -> Array:
        """The array, for reading."""
        return self._value

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self._value.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the array."""
        return self._value.dtype

    def numpy(self) -> Array:
        """Return a copy of the array."""
        return self._value.copy()

    def assign(self, value: npt.ArrayLike) -> None:
        """Overwrite the array, casting to its dtype.

        Raises
        ------
        TypeError
            If `value` does not hold real numbers.
        ValueError
            If its shape differs or a number is too large for the dtype.
        """
        array = self.checked(value)
        with self.changing() as own:
            own[...] = array

    def changing(self) -> "_Change":
        """Return a context in which the array may be written to, and which gives it.

        ``with variable.changing() as array: array *= 0.5``
        """
        return _Change(self)

    def checked(self, value: npt.ArrayLike, name: str = "value") -> Array:
        """Return `value` as an array that fits this variable; errors as for `assign`."""
        try:
            with np.errstate(over="raise"):
                array = real_array(name, value, self.dtype)
        except FloatingPointError:
            raise ValueError(f"{name} holds numbers too large for {self.dtype} in {self.path}") from None
        if array.shape != self.shape:
            raise ValueError(f"{name}: expected shape {self.shape} for {self.path}, got {array.shape}")
        return array

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is None:  # NumPy 1 has no such value
            return np.asarray(self._value, dtype)
        return np.array(self._value, dtype, copy=copy)

    def __getstate__(self) -> dict[str, Any]:
        return {name: entry for name, entry in vars(self).items() if name not in ("_value", "version")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        # A copy has memory of its own, unless it is read-only and may be shared by processes.
        self._hold(_own(self._array) if self._array.flags.writeable else self._array)

    def __repr__(self) -> str:
        return f"<Variable path={self.path}, shape={self.shape}, dtype={self.dtype}>"


class _Change:
    """The time in which a variable is written to: what was made from it before or meanwhile is out of date after."""

    __slots__ = ("variable",)

    def __init__(self, variable: Variable) -> None:
        self.variable = variable

    def __enter__(self) -> Array:
        self.variable.version = None
        return self.variable._array

    def __exit__(self, *_: object) -> None:
        self.variable.version = next(_versions)


class Changing:
    """The time in which several variables are written to; gives their arrays, as `Variable.changing` does for one."""

    __slots__ = ("variables",)

    def __init__(self, variables: Sequence[Variable]) -> None:
        self.variables = variables

    def __enter__(self) -> list[Array]:
        for variable in self.variables:
            variable.version = None
        return [variable._array for variable in self.variables]

    def __exit__(self, *_: object) -> None:
        for variable in self.variables:
            variable.version = next(_versions)


def _own(array: Array) -> Array:
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def assign_all(
    variables: Sequence[Variable], weights: Sequence[npt.ArrayLike], owner: str, built: bool
) -> None:
    """Overwrite all variables of a layer or model, or none if one value does not fit."""
    if not isinstance(weights, (list, tuple, np.ndarray)):
        raise TypeError(f"weights: expected a list of arrays, got {type(weights).__name__}")
    if len(weights) != len(variables):
        hint = "" if built else " (it is not built yet: call build(input_shape) first)"
        raise ValueError(f"weights: expected {len(variables)} arrays for {owner}{hint}, got {len(weights)}")
    pairs = enumerate(zip(variables, weights, strict=True))
    arrays = [variable.checked(value, f"weights[{i}]") for i, (variable, value) in pairs]
    fill(zip(variables, arrays, strict=True))


def fill(pairs: Iterable[tuple[Variable, Array]]) -> None:
    """Overwrite variables with arrays that their `checked` returned: no part of this can fail."""
    for variable, array in pairs:
        with variable.changing() as own:
            own[...] = array
