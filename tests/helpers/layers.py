"""Random inputs for layers, and the check of their pullbacks by central differences."""

import numpy as np

from fastmask import PackedSequence

from .numeric import assert_gradient, assert_weight_gradient

BATCH, TIME, FEATURES, UNITS = 3, 4, 3, 2


def normal(*shape, seed=0):
    """Standard normal numbers in float64."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def randomize(layer, seed=0):
    """Give a built layer weights of ordinary size, biases too."""
    layer.set_weights([normal(*w.shape, seed=seed + i) for i, w in enumerate(layer.weights)])
    return layer


def outputs_of(y):
    """All outputs as arrays: the values of packed ones."""
    outputs = y if isinstance(y, tuple) else (y,)
    return [y.values if isinstance(y, PackedSequence) else y for y in outputs]


def reset_seeds(layer):
    """Let the next call draw what the last one drew."""
    for part in (layer, *layer.sublayers.values()):
        if hasattr(part, "seed_generator"):
            part.seed_generator.reset()


def assert_layer_gradients(layer, x, mask=None, initial_state=None, training=False):
    """Compare all gradients of a layer with central differences of its plain calls."""
    arguments = {"mask": mask, "initial_state": initial_state, "training": training}

    def call():
        reset_seeds(layer)
        return outputs_of(layer(x, **arguments))

    call()
    randomize(layer)
    reset_seeds(layer)
    y, pullback = layer.vjp(x, **arguments)
    for called, kept in zip(call(), outputs_of(y), strict=True):
        np.testing.assert_array_equal(called, kept)
    dy = [normal(*array.shape, seed=100 + i) for i, array in enumerate(outputs_of(y))]

    def weighted_sum():
        return sum((d * array).sum() for d, array in zip(dy, call(), strict=True))

    gradients = pullback(tuple(dy) if isinstance(y, tuple) else dy[0])
    values = x.values if isinstance(x, PackedSequence) else x
    if values.dtype.kind == "f":
        assert_gradient(gradients.inputs, weighted_sum, values, "inputs")
    assert len(gradients.weights) == len(layer.weights)
    for gradient, variable in zip(gradients.weights, layer.weights, strict=True):
        dense = gradient if isinstance(gradient, np.ndarray) else gradient.dense()
        assert_weight_gradient(dense, weighted_sum, variable)
    assert (gradients.initial_state is None) == (initial_state is None)
    for gradient, state in zip(gradients.initial_state or (), initial_state or (), strict=True):
        assert_gradient(gradient, weighted_sum, state, "initial_state")
