"""TensorFlow, eager and in graphs: a ``numpy_function`` with a gradient of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fastmask.keras import recurrence as arrays
from fastmask.keras.recurrence import Pullbacks, Recurrence


def run(recurrence: Recurrence, tensors: Sequence[Any], mask: Any, training: bool) -> list[Any]:
    """Return the results of a layer.

    In training, what the backward pass needs is kept from the forward pass; else it runs forward again.
    """
    pullbacks = Pullbacks(recurrence)
    tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]  # reads variables
    masks = [] if mask is None else [mask]
    dtype = tensors[0].dtype

    def forward(*given: Any) -> list[Any]:
        values, only = given[: len(tensors)], given[-1] if masks else None
        if not training:
            return [*arrays.run(recurrence, values, only), np.int64(0)]
        results, handle = pullbacks.forward(values, only)
        return [*results, np.int64(handle)]

    def backward(handle: Any, *given: Any) -> list[Any]:
        values, rest = given[: len(tensors)], given[len(tensors) :]
        only = rest[0] if masks else None
        return list(pullbacks.backward(int(handle), values, only, rest[len(masks) :]))

    @tf.custom_gradient
    def call(*given: Any) -> tuple[list[Any], Callable[..., list[Any]]]:
        *results, handle = tf.numpy_function(
            forward, given, [dtype] * (1 + len(recurrence.spec.states)) + [tf.int64], stateful=False
        )
        _set_shapes(recurrence, results, given)

        def gradient(*d_results: Any) -> list[Any]:
            found = _once_differentiable(backward, dtype, given[: len(tensors)], handle, *given, *d_results)
            return [*found, *[None] * len(masks)]

        return results, gradient

    return list(call(*tensors, *masks))


def refusal(sequences: Any) -> str | None:
    """Return why a tensor cannot be run: XLA compiles no Python."""
    if _compiles_with_xla():
        return "it is compiled by XLA (jit_compile=True), which cannot call the kernels"
    return None


def _compiles_with_xla() -> bool:
    # TensorFlow has no public way to ask. Where this one is missing, XLA itself refuses the graph.
    try:
        from tensorflow.python.framework import ops
        from tensorflow.python.ops import control_flow_util
    except ImportError:
        return False
    if tf.executing_eagerly():
        return False
    return bool(control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph()))


def _set_shapes(recurrence: Recurrence, results: Sequence[Any], given: Sequence[Any]) -> None:
    """Tell TensorFlow the shapes, which a NumPy function forgets."""
    batch, steps, _ = given[0].shape
    units = given[2].shape[0]
    results[0].set_shape([batch, steps, units] if recurrence.return_sequences else [batch, units])
    for state in results[1:]:
        state.set_shape([batch, units])


def _once_differentiable(backward: Callable[..., Any], dtype: Any, like: Sequence[Any], *arguments: Any) -> list[Any]:
    """Return the gradients; a second derivative is an error, not a missing number."""

    @tf.custom_gradient
    def call(*given: Any) -> tuple[list[Any], Callable[..., Any]]:
        found = tf.numpy_function(backward, given, [dtype] * len(like), stateful=False)
        for gradient, tensor in zip(found, like, strict=True):
            gradient.set_shape(tensor.shape)
        return found, _refuse_second

    return list(call(*arguments))


def _refuse_second(*d: Any) -> Any:
    raise NotImplementedError("fastmask.keras: the kernels have first derivatives only; restore(model) for second ones")
