"""Weight constraints: Keras's names, arguments, defaults and projections.

A constraint maps a weight to one that satisfies it; an optimizer applies it at the end of every step.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastmask.config import epsilon
from fastmask.core.objects import Configured, Registry, arguments, in_snake_case

Array = npt.NDArray[Any]
Axis = int | Sequence[int]


class Constraint(Configured):
    """Base of all constraints; this one changes nothing."""

    def __call__(self, w: Array) -> Array:
        """Return the weight that takes the place of `w`."""
        return w


class MaxNorm(Constraint):
    """Scale down what has a Euclidean norm above `max_value`.

    Parameters
    ----------
    max_value : float, default 2
    axis : int or sequence of int, default 0
        Norms are taken along it: 0 constrains the weights into each unit of a kernel (F, units).
    """

    def __init__(self, max_value: float = 2, axis: Axis = 0) -> None:
        self.max_value, self.axis = max_value, axis

    def __call__(self, w: Array) -> Array:
        norms = _norms(w, self.axis)
        return _rescaled(w, norms, np.clip(norms, 0, self.max_value))

    def get_config(self) -> dict[str, Any]:
        return arguments(self)


class NonNeg(Constraint):
    """Set negative weights to zero."""

    def __call__(self, w: Array) -> Array:
        return np.asarray(np.maximum(w, w.dtype.type(0)))


class UnitNorm(Constraint):
    """Scale everything along `axis` (0 by default) to a Euclidean norm of one."""

    def __init__(self, axis: Axis = 0) -> None:
        self.axis = axis

    def __call__(self, w: Array) -> Array:
        norms = _norms(w, self.axis)
        return _rescaled(w, norms, np.ones_like(norms))

    def get_config(self) -> dict[str, Any]:
        return arguments(self)


class MinMaxNorm(Constraint):
    """Keep Euclidean norms between two values.

    Parameters
    ----------
    min_value : float, default 0.0
    max_value : float, default 1.0
    rate : float, default 1.0
        The share of the way that one step goes; 1 enforces the constraint at once.
    axis : int or sequence of int, default 0
    """

    def __init__(self, min_value: float = 0.0, max_value: float = 1.0, rate: float = 1.0, axis: Axis = 0) -> None:
        self.min_value, self.max_value = min_value, max_value
        self.rate, self.axis = rate, axis

    def __call__(self, w: Array) -> Array:
        norms = _norms(w, self.axis)
        inside = np.clip(norms, self.min_value, self.max_value)
        return _rescaled(w, norms, self.rate * inside + (1 - self.rate) * norms)

    def get_config(self) -> dict[str, Any]:
        return arguments(self)


max_norm, non_neg, unit_norm, min_max_norm = MaxNorm, NonNeg, UnitNorm, MinMaxNorm

REGISTRY = Registry(
    "constraint", Constraint, "keras.constraints", in_snake_case((MaxNorm, NonNeg, UnitNorm, MinMaxNorm)),
    takes="a name, a config, a callable or None", from_function=lambda function: function,
)  # fmt: skip


def get(identifier: Any) -> Callable[[Array], Array] | None:
    """Return the constraint that `identifier` stands for.

    Parameters
    ----------
    identifier : str, dict, class, Constraint, callable or None
        A name such as ``"max_norm"`` or ``"MaxNorm"`` in any letter case, a config as `serialize`
        returns (or Keras writes), a constraint, or any function of a weight. None gives None.

    Raises
    ------
    ValueError
        For an unknown name.
    TypeError
        For any other type.
    """
    return None if identifier is None else REGISTRY.get(identifier)


def serialize(constraint: Callable[[Array], Array] | None) -> dict[str, Any] | None:
    """Return the config of a constraint in the form Keras writes; None for None.

    Raises
    ------
    TypeError
        For a callable that is not a `Constraint`: it has no config.
    """
    return None if constraint is None else REGISTRY.serialize(constraint)


def _norms(w: Array, axis: Axis) -> Array:
    along = axis if isinstance(axis, int) else tuple(axis)
    return np.asarray(np.sqrt(np.square(w).sum(axis=along, keepdims=True)))


def _rescaled(w: Array, norms: Array, desired: Array) -> Array:
    return np.asarray(w * (desired / (epsilon() + norms)), w.dtype)
