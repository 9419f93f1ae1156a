"""Optimizer steps in place, with Keras 3's formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from fastmask import kernels, threads
from fastmask.ops._arrays import FLOATS, Array, Indices, check_float, check_shape, thread_count
from fastmask.ops._embedding import SparseRows, check_ids

Change = tuple[Array, Indices | None, Indices | None, Array | None]
"""The flat gradient of a parameter; where each of its rows finds its own there, -1 where it has none; the ids of the
only rows to change, no more than one of these two; and which rows are known to be at rest."""

_RULES = {
    "sgd": (0, ("velocity",)),
    "rmsprop": (1, ("mean_square", "momentum_buffer", "mean")),
    "adam": (2, ("m", "v", "v_max")),
}
_REQUIRED = ("mean_square", "m", "v")


class UpdateProgram:
    """The step of an optimizer on several parameters, whose arrays are checked once and change in place.

    Parameters
    ----------
    rule : {"sgd", "rmsprop", "adam"}
    arrays : sequence of sequences of float32 or float64 arrays
        Of each parameter first itself, then its states, in the order in which :func:`sgd_step`, :func:`rmsprop_step`
        and :func:`adam_step` take them. No two may share memory.

    Raises
    ------
    TypeError, ValueError
        If an array does not fit.
    """

    def __init__(self, rule: str, arrays: Sequence[Sequence[Array | None]]) -> None:
        if rule not in _RULES:
            raise ValueError(f"rule: expected one of {', '.join(_RULES)}, got {rule!r}")
        code, names = _RULES[rule]
        self._parameters: list[Array] = []
        flat: dict[np.dtype, list[tuple[int, tuple[object, ...]]]] = {}
        for own in arrays:
            parameter = _in_place("parameter", own[0], None)
            flat_states: list[Array | None] = [None, None, None]
            for i, (name, state) in enumerate(zip(names, own[1:], strict=True)):
                if state is not None or name in _REQUIRED:
                    flat_states[i] = _in_place(name, state, parameter).reshape(-1)
            columns = parameter.shape[-1] if parameter.ndim else 1
            entry = (columns, parameter.reshape(-1), *flat_states)
            flat.setdefault(parameter.dtype, []).append((len(self._parameters), entry))
            self._parameters.append(parameter)
        self._updates = [
            (kernels.module(dtype).Updates(code, [entry for _, entry in own]), [number for number, _ in own])
            for dtype, own in flat.items()
        ]

    def prepare(
        self,
        gradients: Sequence[Array | SparseRows],
        rates: tuple[float, ...],
        lazy: bool = False,
        resting: Sequence[Array | None] | None = None,
    ) -> Callable[[], None]:
        """Check the gradients of a step, and return what makes the step.

        Parameters
        ----------
        gradients : sequence of arrays or SparseRows
            One for each parameter.
        rates : tuple of float
            The numbers that the function of the rule takes, all of them in its order.
        lazy : bool, default False
            Whether only the rows change that :class:`SparseRows` name. An id that comes twice is a ValueError then.
        resting : sequence of arrays of uint8 or None, optional
            For each parameter one number a row, not zero if all states of the row are known to be zeros: without a
            gradient it is passed over and they are not read. The step keeps this true, and adds the rows that it finds.

        Raises
        ------
        TypeError, ValueError, IndexError
            If a gradient does not fit. Nothing has changed then.
        """
        changes: list[Change] = []
        numbers = 0
        known = [None] * len(self._parameters) if resting is None else resting
        for gradient, like, rest in zip(gradients, self._parameters, known, strict=True):
            if isinstance(gradient, SparseRows):
                change = _sparse_change(gradient, like, lazy, rest)
            else:
                dense = gradient
                fits = type(dense) is np.ndarray and dense.dtype == like.dtype and dense.shape == like.shape
                if not (fits and dense.flags.c_contiguous and dense.flags.aligned):
                    dense = check_float("gradient", gradient, None, like.dtype)
                    check_shape("gradient", dense, like.shape)
                if rest is not None:
                    rest.fill(0)
                change = dense.reshape(-1), None, None, None
            changes.append(change)
            numbers += change[0].size if change[1] is None else like.size
        parts = thread_count(30.0 * numbers)
        tasks = [
            partial(updates.run, rates, [changes[number] for number in own], part, parts)
            for updates, own in self._updates
            for part in range(parts)
        ]
        return partial(threads.run, tasks, parts)


def _in_place(name: str, array: object, like: Array | None) -> Array:
    """An array that can change in place, of the shape and dtype of the parameter."""
    if array is None:
        raise TypeError(f"{name}: expected an array to change in place, got None")
    if not isinstance(array, np.ndarray) or array.dtype not in FLOATS or not array.flags.carray:
        raise TypeError(
            f"{name}: expected a writable contiguous float32 or float64 array to change in place, got another"
        )
    if like is not None and array.shape != like.shape:
        raise ValueError(f"{name}: expected shape {like.shape}, got {array.shape}")
    if like is not None and array.dtype != like.dtype:
        raise TypeError(f"{name}: expected {like.dtype}, as the parameter, got {array.dtype}")
    return array


def _sparse_change(gradient: SparseRows, parameter: Array, lazy: bool, rest: Array | None) -> Change:
    if gradient.shape != parameter.shape or parameter.ndim != 2:
        raise ValueError(f"gradient: expected shape {parameter.shape}, got {gradient.shape}")
    rows = check_float("gradient", gradient.rows, 2, parameter.dtype)
    ids = check_ids("gradient", gradient.ids, parameter.shape[0])
    check_shape("gradient", rows, (ids.size, parameter.shape[1]))
    if rest is not None:
        if rest.dtype != np.uint8 or rest.shape != parameter.shape[:1] or not rest.flags.carray:
            expected = f"{parameter.shape[0]} contiguous numbers of uint8"
            raise ValueError(f"resting: expected {expected}, got shape {rest.shape} of {rest.dtype}")
        rest[ids] = 0
    if not lazy:
        places = np.full(parameter.shape[0], -1, np.int64)
        places[ids] = np.arange(ids.size)
        return rows.reshape(-1), places, None, rest
    if np.unique(ids).size < ids.size:  # threads share out the rows
        raise ValueError("gradient: expected each id once, got one twice")
    return rows.reshape(-1), None, np.ascontiguousarray(ids), None


def _step(
    rule: str, arrays: Sequence[Array | None], gradient: Array | SparseRows, rates: dict[str, float],
    lazy: bool = False,
) -> None:
    program = UpdateProgram(rule, [arrays])
    numbers = []
    for name, value in rates.items():
        try:
            numbers.append(float(value))
        except (TypeError, ValueError):
            raise TypeError(f"{name}: expected a number, got {value!r}") from None
    program.prepare([gradient], tuple(numbers), lazy)()


def sgd_step(
    parameter: Array, gradient: Array | SparseRows, velocity: Array | None, learning_rate: float,
    momentum: float = 0.0, nesterov: bool = False,
) -> None:
    """Stochastic gradient descent.

    ``w -= lr * g``; with a velocity ``v = momentum * v - lr * g`` and ``w += v``, or, Nesterov,
    ``w += momentum * v - lr * g``. All arrays are float32 or float64 of one shape; ``parameter`` and
    ``velocity`` change in place. A gradient of :class:`SparseRows` gives the bits of the dense gradient it
    stands for; rows that have no gradient and no velocity are passed over.
    """
    rates = {"learning_rate": learning_rate, "momentum": momentum, "nesterov": bool(nesterov)}
    _step("sgd", (parameter, velocity), gradient, rates)


def rmsprop_step(
    parameter: Array, gradient: Array | SparseRows, mean_square: Array, momentum_buffer: Array | None,
    mean: Array | None, learning_rate: float, rho: float = 0.9, momentum: float = 0.0, epsilon: float = 1e-7,
) -> None:
    """RMSprop with epsilon inside the root.

    ``v = rho * v + (1 - rho) * g * g``; ``u = lr * g / sqrt(v - m * m + epsilon)`` where ``m``, the running
    mean, is zero unless ``mean`` is given (centered); with a buffer ``p = momentum * p + u`` and ``w -= p``,
    else ``w -= u``. Everything but ``gradient`` changes in place; :class:`SparseRows` as in :func:`sgd_step`.
    """
    rates = {"learning_rate": learning_rate, "rho": rho, "momentum": momentum, "epsilon": epsilon}
    _step("rmsprop", (parameter, mean_square, momentum_buffer, mean), gradient, rates)


def adam_step(
    parameter: Array, gradient: Array | SparseRows, m: Array, v: Array, v_max: Array | None, alpha: float,
    beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7,
) -> None:
    """Adam (Kingma and Ba 2015) with epsilon outside the root.

    ``m += (g - m)(1 - beta_1)``; ``v += (g * g - v)(1 - beta_2)``; ``w -= alpha * m / (sqrt(v) + epsilon)``,
    where ``alpha`` is ``lr * sqrt(1 - beta_2 ** t) / (1 - beta_1 ** t)``; with ``v_max`` (amsgrad) its
    running maximum stands for v. Everything but ``gradient`` changes in place; :class:`SparseRows` as in
    :func:`sgd_step`.
    """
    rates = {"alpha": alpha, "beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon}
    _step("adam", (parameter, m, v, v_max), gradient, rates)


def lazy_adam_step(
    parameter: Array, gradient: Array | SparseRows, m: Array, v: Array, v_max: Array | None, alpha: float,
    beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7,
) -> None:
    """:func:`adam_step` of the rows that a gradient of :class:`SparseRows` names; the others keep every bit.

    So ``m`` and ``v`` of a row change in the steps that have a gradient for it, and the time of a step depends on
    the number of those rows alone. A dense gradient names all rows. An id that comes twice is a ValueError.
    """
    rates = {"alpha": alpha, "beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon}
    _step("adam", (parameter, m, v, v_max), gradient, rates, lazy=True)
