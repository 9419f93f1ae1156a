"""Shapes, masks, random numbers and the one way in which a layer's call and gradient are recorded."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

BATCH, STEPS, FEATURES, UNITS = 4, 5, 2, 3

MASKS: dict[str, np.ndarray | None] = {
    "none": None,
    "right": np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0]], bool),
    "left": np.array([[0, 0, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]], bool),
    "holes": np.array([[1, 0, 1, 1, 0], [1, 1, 0, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 0, 0]], bool),
    "leading": np.array([[0, 1, 0, 1, 1], [0, 0, 0, 1, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 1]], bool),
    "empty": np.array([[1, 1, 0, 1, 1], [0, 0, 0, 0, 0], [0, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool),
}


def generator(*names: object) -> np.random.Generator:
    """Random numbers that depend on the names alone, so that one case does not move another."""
    return np.random.default_rng(zlib.crc32(repr(names).encode()))


def normal(*shape: int, names: tuple[object, ...] = ()) -> np.ndarray:
    """Return standard normal numbers in float64."""
    return generator("normal", shape, *names).standard_normal(shape)


def set_random_weights(layer: Any, *names: object) -> list[np.ndarray]:
    """Fill a built layer or model with recorded weights, uniform in +-0.8."""
    weights = [
        generator("weights", index, *names).uniform(-0.8, 0.8, value.shape)
        for index, value in enumerate(layer.get_weights())
    ]
    layer.set_weights(weights)
    return layer.get_weights()


def as_list(value: Any) -> list[Any]:
    """Return a flat list of arrays."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def record_call(
    layer: Any, x: np.ndarray, mask: np.ndarray | None = None, states: Any = (), seen: np.ndarray | None = None
) -> dict[str, Any]:
    """Record y and the gradient of ``sum(y * cotangent)``, states included.

    The cotangent is zero where ``seen`` is false.
    """
    import tensorflow as tf

    inputs = tf.constant(x)
    initial = [tf.constant(state) for state in states]
    arguments = {} if mask is None else {"mask": tf.constant(mask)}
    if initial:
        arguments["initial_state"] = initial
    varied = [inputs] if x.dtype.kind == "f" else []
    with tf.GradientTape() as tape:
        tape.watch([*varied, *initial])
        outputs = as_list(layer(inputs, **arguments))
        cotangents = [normal(*y.shape, names=("cotangent", i)) for i, y in enumerate(outputs)]
        if seen is not None:
            cotangents = [c * seen[..., None] for c in cotangents]
        total = sum(tf.reduce_sum(y * c) for y, c in zip(outputs, cotangents, strict=True))
    weights = [variable.value for variable in layer.weights]
    sources = {"inputs": varied, "weights": weights, "initial_state": initial}
    zero = tf.UnconnectedGradients.ZERO
    gradients = tape.gradient(total, sources, unconnected_gradients=zero)
    dense = {key: [tf.convert_to_tensor(g).numpy() for g in value] for key, value in gradients.items()}
    return {
        "inputs": x,
        "mask": mask,
        "initial_state": [np.asarray(state) for state in states],
        "weights": layer.get_weights(),
        "outputs": [y.numpy() for y in outputs],
        "cotangents": cotangents,
        "gradients": dense,
    }


def mask_of(layer: Any, x: np.ndarray, mask: np.ndarray | None) -> list[np.ndarray | None]:
    """Return ``layer.compute_mask`` as arrays."""
    import tensorflow as tf

    masks = layer.compute_mask(tf.constant(x), None if mask is None else tf.constant(mask))
    if not isinstance(masks, (list, tuple)):
        masks = [masks]
    return [None if m is None else np.asarray(m) for m in masks]
