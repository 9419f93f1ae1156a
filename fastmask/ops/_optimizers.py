"""One optimizer step on one parameter, in place, with Keras 3's formulas."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np

from fastmask import kernels, threads
from fastmask.ops import tuning
from fastmask.ops._arrays import FLOATS, Array, Indices, check_float, check_shape, split, thread_count
from fastmask.ops._embedding import SparseRows, check_ids
from fastmask.ops._resting import AT_REST, RestingRows, new_places

_REQUIRED = ("parameter", "mean_square", "m", "v")


def _in_place(arrays: dict[str, Array | None]) -> list[Array | None]:
    """Arrays like the first, checked, as rows; None where one is not needed."""
    like = arrays["parameter"]
    found: list[Array | None] = []
    for name, array in arrays.items():
        if array is None or like is None:
            if name in _REQUIRED:
                raise TypeError(f"{name}: expected an array to change in place, got None")
            found.append(None)
            continue
        if not isinstance(array, np.ndarray) or array.dtype not in FLOATS or not array.flags.carray:
            raise TypeError(
                f"{name}: expected a writable contiguous float32 or float64 array to change in place, got another"
            )
        if array.shape != like.shape:
            raise ValueError(f"{name}: expected shape {like.shape}, got {array.shape}")
        if array.dtype != like.dtype:
            raise TypeError(f"{name}: expected {like.dtype}, as the parameter, got {array.dtype}")
        found.append(array if array.ndim == 2 and array.size else _rows(array))
    return found


def _rows(array: Array) -> Array:
    return array.reshape(-1, array.shape[-1]) if array.ndim > 1 and array.size else array.reshape(1, array.size)


def _sparse(gradient: SparseRows, parameter: Array) -> tuple[Indices, Array]:
    if gradient.shape != parameter.shape or parameter.ndim != 2:
        raise ValueError(f"gradient: expected shape {parameter.shape}, got {gradient.shape}")
    rows = check_float("gradient", gradient.rows, 2, parameter.dtype)
    ids = check_ids("gradient", gradient.ids, parameter.shape[0])
    check_shape("gradient", rows, (ids.size, parameter.shape[1]))
    return ids, rows


def _gradient(gradient: Array | SparseRows, parameter: Array) -> tuple[Array, Indices | None]:
    """The gradient as rows, and for sparse rows their ids."""
    if isinstance(gradient, SparseRows):
        ids, rows = _sparse(gradient, parameter)
        return (rows if rows.size else np.zeros((1, parameter.shape[1]), parameter.dtype)), ids
    checked = check_float("gradient", gradient, None, parameter.dtype)
    if checked.shape != parameter.shape:
        check_shape("gradient", checked, parameter.shape)
    return checked if checked.ndim == 2 and checked.size else _rows(checked), None


def _rows_to_change(gradient: SparseRows, parameter: Array) -> tuple[Array, Indices]:
    """The gradient's rows and their ids, each of which may come once: threads share out the rows."""
    ids, rows = _sparse(gradient, parameter)
    if np.unique(ids).size < ids.size:
        raise ValueError("gradient: expected each id once, got one twice")
    return rows, np.ascontiguousarray(ids)


def _numbers(rates: dict[str, float]) -> list[float]:
    found = []
    for name, value in rates.items():
        try:
            found.append(float(value))
        except (TypeError, ValueError):
            raise TypeError(f"{name}: expected a number, got {value!r}") from None
    return found


def _run(
    name: str, parameter: Array, gradient: Array | SparseRows, states: dict[str, Array | None], rates: dict[str, float],
    resting: RestingRows | None = None, lazy: bool = False,
) -> None:
    rows, *others = _in_place({"parameter": parameter, **states})
    named = gradient if lazy and isinstance(gradient, SparseRows) else None
    values, ids = _gradient(gradient, parameter) if named is None else _rows_to_change(named, parameter)
    numbers = _numbers(rates)
    if rows is None or rows.size == 0:
        return
    step = getattr(kernels.module(rows.dtype), name if named is None else f"lazy_{name}")

    def run(places: Indices | None, parts: list[tuple[int, int]]) -> None:
        threads.run([partial(step, rows, values, places, *others, *numbers, begin, end) for begin, end in parts])

    if resting is not None and not isinstance(resting, RestingRows):
        raise TypeError(f"resting: expected RestingRows or None, got {type(resting).__name__}")
    if named is not None:
        run(ids, _parts(None, *values.shape) if values.size else [])
    elif ids is None:
        if resting is not None:
            resting.forget()
        if 30.0 * rows.size < tuning.OPERATIONS_PER_THREAD:
            step(rows, values, None, *others, *numbers, 0, rows.shape[0])
        else:
            run(None, _parts(None, *rows.shape))
    elif resting is None:
        places = new_places(ids, rows.shape[0])
        run(places, _parts(places, *rows.shape))
    else:
        with resting.step(tuple(states.values()), ids, rows.shape[0]) as places:
            run(places, _parts(places, *rows.shape))


def _parts(places: Indices | None, rows: int, columns: int) -> list[tuple[int, int]]:
    """Ranges of rows for the threads, with about as many rows to update in each."""
    count = thread_count(30.0 * rows * columns)
    if places is None or count == 1:
        return split(rows, count)
    moving = np.flatnonzero(places > AT_REST)
    inner = [begin for begin, _ in split(moving.size, thread_count(30.0 * moving.size * columns))[1:]]
    return list(pairwise([0, *moving[inner].tolist(), rows]))


def sgd_step(
    parameter: Array, gradient: Array | SparseRows, velocity: Array | None, learning_rate: float,
    momentum: float = 0.0, nesterov: bool = False, *, resting: RestingRows | None = None,
) -> None:
    """Stochastic gradient descent.

    ``w -= lr * g``; with a velocity ``v = momentum * v - lr * g`` and ``w += v``, or, Nesterov,
    ``w += momentum * v - lr * g``. All arrays are float32 or float64 of one shape; ``parameter`` and
    ``velocity`` change in place. A gradient of :class:`SparseRows` gives the bits of the dense gradient it
    stands for; rows that have no gradient and no velocity are passed over, those known in ``resting``
    (:class:`RestingRows`) without a look at the velocity.
    """
    rates = {"learning_rate": learning_rate, "momentum": momentum, "nesterov": bool(nesterov)}
    _run("sgd_step", parameter, gradient, {"velocity": velocity}, rates, resting)


def rmsprop_step(
    parameter: Array, gradient: Array | SparseRows, mean_square: Array, momentum_buffer: Array | None,
    mean: Array | None, learning_rate: float, rho: float = 0.9, momentum: float = 0.0, epsilon: float = 1e-7,
    *, resting: RestingRows | None = None,
) -> None:
    """RMSprop with epsilon inside the root.

    ``v = rho * v + (1 - rho) * g * g``; ``u = lr * g / sqrt(v - m * m + epsilon)`` where ``m``, the running
    mean, is zero unless ``mean`` is given (centered); with a buffer ``p = momentum * p + u`` and ``w -= p``,
    else ``w -= u``. Everything but ``gradient`` changes in place; :class:`SparseRows` and ``resting`` as in
    :func:`sgd_step`.
    """
    states = {"mean_square": mean_square, "momentum_buffer": momentum_buffer, "mean": mean}
    rates = {"learning_rate": learning_rate, "rho": rho, "momentum": momentum, "epsilon": epsilon}
    _run("rmsprop_step", parameter, gradient, states, rates, resting)


def adam_step(
    parameter: Array, gradient: Array | SparseRows, m: Array, v: Array, v_max: Array | None, alpha: float,
    beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7, *, resting: RestingRows | None = None,
) -> None:
    """Adam (Kingma and Ba 2015) with epsilon outside the root.

    ``m += (g - m)(1 - beta_1)``; ``v += (g * g - v)(1 - beta_2)``; ``w -= alpha * m / (sqrt(v) + epsilon)``,
    where ``alpha`` is ``lr * sqrt(1 - beta_2 ** t) / (1 - beta_1 ** t)``; with ``v_max`` (amsgrad) its
    running maximum stands for v. Everything but ``gradient`` changes in place; :class:`SparseRows` and
    ``resting`` as in :func:`sgd_step`.
    """
    rates = {"alpha": alpha, "beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon}
    _run("adam_step", parameter, gradient, {"m": m, "v": v, "v_max": v_max}, rates, resting)


def lazy_adam_step(
    parameter: Array, gradient: Array | SparseRows, m: Array, v: Array, v_max: Array | None, alpha: float,
    beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7,
) -> None:
    """:func:`adam_step` of the rows that a gradient of :class:`SparseRows` names; the others keep every bit.

    So ``m`` and ``v`` of a row change in the steps that have a gradient for it, and the time of a step depends on
    the number of those rows alone. A dense gradient names all rows. An id that comes twice is a ValueError.
    """
    rates = {"alpha": alpha, "beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon}
    _run("adam_step", parameter, gradient, {"m": m, "v": v, "v_max": v_max}, rates, lazy=True)
