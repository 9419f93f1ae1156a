"""JAX, traced or not: a ``pure_callback`` with a derivative of its own."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from fastmask.keras import recurrence as arrays
from fastmask.keras.recurrence import Pullbacks, Recurrence


def run(recurrence: Recurrence, tensors: Sequence[Any], mask: Any, training: bool) -> list[Any]:
    """Return the results of a layer."""
    return list(_recurrence(recurrence, tuple(tensors), mask))


def refusal(sequences: Any) -> str | None:
    """Return why a tensor cannot be run: it has to be on the CPU."""
    platform = jax.default_backend()
    return None if platform == "cpu" else f"JAX runs on {platform!r}, the kernels run on the CPU"


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recurrence(recurrence: Recurrence, tensors: tuple[Any, ...], mask: Any) -> tuple[Any, ...]:
    def forward(values: Sequence[Any], only: Any) -> tuple[Any, ...]:
        return arrays.run(recurrence, *_arrays(values, only))

    results = _shapes(recurrence, tensors)
    return tuple(jax.pure_callback(forward, results, tensors, mask, vmap_method="sequential"))


def _forward(recurrence: Recurrence, tensors: tuple[Any, ...], mask: Any) -> tuple[tuple[Any, ...], Any]:
    pullbacks = Pullbacks(recurrence)

    def forward(values: Sequence[Any], only: Any) -> tuple[Any, ...]:
        results, handle = pullbacks.forward(*_arrays(values, only))
        return (*results, np.int32(handle))

    shapes = (*_shapes(recurrence, tensors), jax.ShapeDtypeStruct((), np.int32))
    *results, handle = jax.pure_callback(forward, shapes, tensors, mask, vmap_method="sequential")
    # A Partial without arguments passes through transformations as part of the structure.
    return tuple(results), (jax.tree_util.Partial(pullbacks.backward), handle, tensors, mask)


def _backward(recurrence: Recurrence, residuals: Any, d_results: tuple[Any, ...]) -> tuple[Any, Any]:
    pullback, handle, tensors, mask = residuals

    def backward(number: Any, values: Sequence[Any], only: Any, d: Sequence[Any]) -> tuple[Any, ...]:
        found: tuple[Any, ...] = pullback(int(number), *_arrays(values, only), [np.asarray(part) for part in d])
        return found

    shapes = tuple(jax.ShapeDtypeStruct(tensor.shape, tensor.dtype) for tensor in tensors)
    found = jax.pure_callback(backward, shapes, handle, tensors, mask, d_results, vmap_method="sequential")
    return tuple(found), None if mask is None else _no_gradient(mask)


_recurrence.defvjp(_forward, _backward)


def _no_gradient(mask: Any) -> Any:
    if jax.numpy.issubdtype(mask.dtype, np.floating):
        return jax.numpy.zeros_like(mask)
    return np.zeros(mask.shape, jax.dtypes.float0)


def _shapes(recurrence: Recurrence, tensors: Sequence[Any]) -> tuple[Any, ...]:
    batch, steps, _ = tensors[0].shape
    units, dtype = tensors[2].shape[0], tensors[0].dtype
    state = jax.ShapeDtypeStruct((batch, units), dtype)
    shown = jax.ShapeDtypeStruct((batch, steps, units), dtype) if recurrence.return_sequences else state
    return (shown, *[state] * len(recurrence.spec.states))


def _arrays(values: Sequence[Any], mask: Any) -> tuple[list[Any], Any]:
    return [np.asarray(value) for value in values], None if mask is None else np.asarray(mask)
