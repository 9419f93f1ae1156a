"""Calls of layers held against recorded ones."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastmask as fm

# TensorFlow rounds the root of 2 in gelu to float32, whatever the dtype.
TOLERANCE = {"float64": 1e-12, "float32": 2e-6}
GELU_TOLERANCE = 1e-6
GRADIENT_FACTOR = 10


def tolerance(config: dict[str, Any], dtype: str) -> float:
    """How far an output of ordinary size may be off."""
    inexact = config.get("activation") == "gelu"
    return max(TOLERANCE[dtype], GELU_TOLERANCE if inexact else 0)


def assert_close(actual: Any, expected: np.ndarray, atol: float, name: str) -> None:
    """Compare within ``atol`` of the largest number, or of 1 if that is larger."""
    array = np.asarray(actual)
    assert array.shape == expected.shape, name
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(array, expected, rtol=0, atol=atol * scale, err_msg=name)


def prepare(layer: Any, case: dict[str, Any]) -> Any:
    """Build the layer for the recorded input and give it the recorded weights."""
    x = case["inputs"]
    layer.build((None,) * (x.ndim - 1) + x.shape[-1:] if x.dtype.kind == "f" else (None,) * x.ndim)
    layer.set_weights(case["weights"])
    return layer


def as_tuple(value: Any) -> tuple[Any, ...]:
    """A tuple of outputs."""
    return value if isinstance(value, tuple) else (value,)


def without_padding(x: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Fill the padding with NaN, which nothing may read."""
    return x if mask is None else np.where(mask[..., None], x, np.nan)


def assert_gradients(gradients: Any, case: dict[str, Any], inputs: Any, atol: float) -> None:
    """Compare what a pullback returned; ``inputs`` is the expected gradient by the input, or None."""
    if inputs is not None:
        assert_close(gradients.inputs, inputs, atol, "gradient by inputs")
    recorded = case["gradients"]
    pairs = zip(gradients.weights, recorded["weights"], strict=True)
    for index, (actual, expected) in enumerate(pairs):
        dense = actual.dense() if isinstance(actual, fm.ops.SparseRows) else actual
        assert_close(dense, expected, atol, f"gradient by weight {index}")
    pairs = zip(gradients.initial_state or (), recorded["initial_state"], strict=True)
    for index, (actual, expected) in enumerate(pairs):
        assert_close(actual, expected, atol, f"gradient by state {index}")


def assert_padded_call(layer: Any, case: dict[str, Any], dtype: str) -> None:
    """Call with a padded array and a mask; NaN stands in the padding."""
    atol = tolerance(case["config"], dtype)
    x = without_padding(case["inputs"], case["mask"])
    states = tuple(case["initial_state"]) or None
    arguments = {"mask": case["mask"], "initial_state": states}
    y, pullback = layer.vjp(x, **arguments)
    outputs = as_tuple(y)
    for index, (actual, expected) in enumerate(zip(outputs, case["outputs"], strict=True)):
        assert actual.dtype == dtype
        assert_close(actual, expected, atol, f"output {index}")
    for actual, expected in zip(as_tuple(layer(x, **arguments)), outputs, strict=True):
        np.testing.assert_array_equal(actual, expected)
    dy = tuple(case["cotangents"])
    gradients = pullback(dy if isinstance(y, tuple) else dy[0])
    inputs = case["gradients"]["inputs"]
    assert_gradients(gradients, case, inputs[0] if inputs else None, GRADIENT_FACTOR * atol)


def assert_packed_call(layer: Any, case: dict[str, Any], dtype: str) -> None:
    """Call with a PackedSequence; its padded output must be Keras's, masked places included."""
    atol = tolerance(case["config"], dtype)
    x = fm.PackedSequence.from_padded(case["inputs"], case["mask"])
    states = tuple(case["initial_state"]) or None
    y, pullback = layer.vjp(x, initial_state=states)
    dy = []
    for index, (actual, expected) in enumerate(zip(as_tuple(y), case["outputs"], strict=True)):
        cotangent = case["cotangents"][index].astype(dtype)
        if isinstance(actual, fm.PackedSequence):
            actual, back = fm.ops.unpack_vjp(actual)
            cotangent = back(cotangent)
        assert_close(actual, expected, atol, f"output {index}")
        dy.append(cotangent)
    gradients = pullback(tuple(dy) if isinstance(y, tuple) else dy[0])
    expected = case["gradients"]["inputs"][0]
    expected = expected.reshape(-1, expected.shape[-1])[x.packing.positions]
    assert_gradients(gradients, case, expected, GRADIENT_FACTOR * atol)
