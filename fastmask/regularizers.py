"""Weight regularizers: Keras's names, arguments, defaults and penalties, each with its gradient."""

from collections.abc import Callable
from math import isfinite
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from fastmask.core.objects import Configured, Registry, arguments

Array = npt.NDArray[Any]


class Regularizer(Configured):
    """Base of all regularizers: ``regularizer(w)`` is the penalty, ``regularizer.gradient(w)`` its gradient."""

    def __call__(self, w: Array) -> float:
        """Return the penalty of a weight."""
        raise NotImplementedError(f"{type(self).__name__} does not define __call__(w)")

    def gradient(self, w: Array) -> Array:
        """Return the gradient of the penalty, of the shape and dtype of `w`."""
        raise NotImplementedError(f"{type(self).__name__} does not define gradient(w)")


class L1L2(Regularizer):
    """``l1 * sum(|w|) + l2 * sum(w**2)``.

    Parameters
    ----------
    l1, l2 : float, default 0.0

    Raises
    ------
    ValueError
        If one is negative or not finite.
    """

    def __init__(self, l1: float | None = 0.0, l2: float | None = 0.0) -> None:
        self.l1 = _factor("l1", 0.0 if l1 is None else l1)
        self.l2 = _factor("l2", 0.0 if l2 is None else l2)

    def __call__(self, w: Array) -> float:
        absolute = self.l1 * float(np.abs(w).sum(dtype=np.float64)) if self.l1 else 0.0
        return absolute + (self.l2 * float(np.square(w, dtype=np.float64).sum()) if self.l2 else 0.0)

    def gradient(self, w: Array) -> Array:
        of_type = w.dtype.type
        return np.asarray(of_type(self.l1) * np.sign(w) + of_type(2 * self.l2) * w)

    def get_config(self) -> dict[str, Any]:
        return arguments(self)


class L1(L1L2):
    """``l1 * sum(|w|)``; `l1` is 0.01 by default."""

    def __init__(self, l1: float | None = 0.01) -> None:
        super().__init__(0.01 if l1 is None else l1, 0.0)


class L2(L1L2):
    """``l2 * sum(w**2)``; `l2` is 0.01 by default."""

    def __init__(self, l2: float | None = 0.01) -> None:
        super().__init__(0.0, 0.01 if l2 is None else l2)


def l1_l2(l1: float = 0.01, l2: float = 0.01) -> L1L2:
    """Return an `L1L2`, with Keras's defaults for this spelling."""
    return L1L2(l1, l2)


l1, l2 = L1, L2


class _Plain(Regularizer):
    """A function ``f(w) -> (penalty, gradient)``."""

    def __init__(self, function: Callable[[Array], tuple[float, Array]]) -> None:
        self.function = function

    def __call__(self, w: Array) -> float:
        return float(self.function(w)[0])

    def gradient(self, w: Array) -> Array:
        return np.asarray(self.function(w)[1], w.dtype)

    def get_config(self) -> dict[str, Any]:
        raise TypeError(f"regularizer: expected an instance of Regularizer to serialize, got {self.function!r}")


REGISTRY = Registry(
    "regularizer", Regularizer, "keras.regularizers", {"l1": L1, "l2": L2, "l1_l2": L1L2},
    takes="a name, a config, a Regularizer or None", from_function=_Plain,
)  # fmt: skip


def get(identifier: Any) -> Regularizer | None:
    """Return the regularizer that `identifier` stands for.

    Parameters
    ----------
    identifier : str, dict, class, Regularizer, callable or None
        ``"l1"``, ``"l2"``, ``"l1_l2"`` or a class name, a config as `serialize` returns (or Keras
        writes), a regularizer, or a function ``f(w) -> (penalty, gradient)``. None gives None.

    Raises
    ------
    ValueError
        For an unknown name.
    TypeError
        For any other type.
    """
    return None if identifier is None else REGISTRY.get(identifier)


def serialize(regularizer: Regularizer | None) -> dict[str, Any] | None:
    """Return the config of a regularizer in the form Keras writes; None for None.

    Raises
    ------
    TypeError
        For a plain function: it has no config.
    """
    return None if regularizer is None else REGISTRY.serialize(regularizer)


def _factor(name: str, value: Any) -> float:
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else -1.0
    if not (isfinite(number) and number >= 0):
        raise ValueError(f"{name}: expected a finite number of at least 0, got {value!r}")
    return number
