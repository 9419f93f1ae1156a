"""Gradient checks of layers that take lists, have weights without gradient, or show what is masked."""

import numpy as np

from fastmask import PackedSequence
from fastmask.layers.base.flow import Shown

from .layers import normal, outputs_of, randomize, reset_seeds
from .numeric import assert_gradient, assert_weight_gradient


def stored(x):
    """The array of an input that calls read."""
    return x.values if isinstance(x, PackedSequence) else x


def assert_gradients(layer, x, mask=None, training=False, prepare=randomize, **options):
    """Compare the gradients by inputs, what they show at masked places, and weights with central differences."""
    arguments = {"mask": mask, "training": training, **options}

    def call():
        reset_seeds(layer)
        return outputs_of(layer(x, **arguments))

    call()
    prepare(layer)
    kept = layer.get_weights()
    reset_seeds(layer)
    y, pullback = layer.vjp(x, **arguments)
    layer.set_weights(kept)
    for called, vjp in zip(call(), outputs_of(y), strict=True):
        np.testing.assert_array_equal(called, vjp)
    dy = [normal(*array.shape, seed=100 + i) for i, array in enumerate(outputs_of(y))]

    def weighted_sum():
        return sum((d * array).sum() for d, array in zip(dy, call(), strict=True))

    gradients = pullback(tuple(dy) if isinstance(y, tuple) else dy[0])
    several = isinstance(x, list)
    pairs = zip(gradients.inputs, x, strict=True) if several else [(gradients.inputs, x)]
    for i, (gradient, source) in enumerate(pairs):
        values = gradient.values if isinstance(gradient, Shown) else gradient
        assert_gradient(values, weighted_sum, stored(source), f"input {i}")
        if isinstance(gradient, Shown) and source.fill is not None:
            assert_gradient(gradient.fill, weighted_sum, source.fill, f"what input {i} shows")
    assert len(gradients.weights) == len(layer.weights)
    for gradient, variable in zip(gradients.weights, layer.weights, strict=True):
        gradient = np.zeros(variable.shape) if gradient is None else gradient
        assert_weight_gradient(gradient, weighted_sum, variable)
    layer.set_weights(kept)
