"""Weights and batches of a case, the same in every process: all come from seeds."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.peers.shapes import GATES, LayerCase, ModelCase, StreamCase

Array = NDArray[Any]

# Spread of log-normal lengths, as of reviews.
SPREAD = 0.6


class LayerData(NamedTuple):
    """x (B, T, F) with zeros in the padding, mask (B, T) or None, weights in Keras's order, gradient dy (B, H)."""

    x: Array
    mask: Array | None
    weights: list[Array]
    dy: Array


class ModelData(NamedTuple):
    """ids (B, T) with zeros in the padding, labels y (B, 1), weights in Keras's order."""

    ids: Array
    y: Array
    weights: list[Array]


class StreamData(NamedTuple):
    """Inputs of some steps (steps, 1, 1, F) and the weights."""

    x: Array
    weights: list[Array]


def lengths(batch: int, steps: int, tokens: int, rng: np.random.Generator) -> Array:
    """Lengths of 1 to `steps` with about `tokens` in all: evenly spread quantiles of a log-normal, in random order.

    The longest row is as long as the batch, unless it is the only one.
    """
    if tokens >= batch * steps:
        return np.full(batch, steps)
    if batch == 1:
        return np.array([max(tokens, 1)])
    normal = NormalDist(sigma=SPREAD)
    quantiles = np.exp([normal.inv_cdf((row + 0.5) / batch) for row in range(batch)])

    def scaled(scale: float) -> Array:
        found = np.clip(np.rint(scale * quantiles), 1, steps).astype(np.int64)
        found[-1] = steps
        return found

    low, high = 0.0, steps / quantiles[0]
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if scaled(middle).sum() < tokens else (low, middle)
    return rng.permutation(scaled(high))


def make_mask(case: LayerCase, rng: np.random.Generator) -> Array | None:
    """The mask (B, T); every row has a valid step."""
    batch, steps = case.batch, case.steps
    if case.mask == "none":
        return None
    if case.mask == "holed":
        mask = rng.random((batch, steps)) < case.density
        mask[np.arange(batch), rng.integers(steps, size=batch)] = True
        return mask
    ends = lengths(batch, steps, round(case.density * batch * steps), rng)
    mask = np.arange(steps) < ends[:, None]
    return mask if case.mask == "right" else np.ascontiguousarray(mask[:, ::-1])


def recurrent_weights(cell: str, features: int, units: int, rng: np.random.Generator) -> list[Array]:
    """Kernel, recurrent kernel and bias as Keras shapes them; states stay bounded over any number of steps."""
    width = GATES[cell] * units
    bias = (2, width) if cell == "GRU" else (width,)
    kernel = rng.standard_normal((features, width), np.float32) / np.float32(math.sqrt(features))
    recurrent = rng.standard_normal((units, width), np.float32) * np.float32(0.7 / math.sqrt(units))
    return [kernel, recurrent, rng.standard_normal(bias, np.float32) * np.float32(0.1)]


def layer_data(case: LayerCase) -> LayerData:
    rng = np.random.default_rng(0)
    weights = recurrent_weights(case.cell, case.units, case.units, rng)
    mask = make_mask(case, rng)
    x = rng.standard_normal((case.batch, case.steps, case.units), np.float32)
    if mask is not None:
        x[~mask] = 0
    return LayerData(x, mask, weights, rng.standard_normal((case.batch, case.units), np.float32))


def model_data(case: ModelCase) -> ModelData:
    """Ids follow Zipf's law; the labels are random."""
    rng = np.random.default_rng(0)
    ends = lengths(case.batch, case.steps, case.tokens, rng)
    if case.outlier:
        each, more = divmod(case.tokens - case.steps, case.batch - 1)
        ends = np.array([case.steps, *(each + (row < more) for row in range(case.batch - 1))])
    mask = np.arange(case.steps) < ends[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = np.minimum(rng.zipf(1.3, int(mask.sum())), case.vocabulary - 1)
    table = rng.uniform(-0.05, 0.05, (case.vocabulary, case.units)).astype(np.float32)
    dense = rng.standard_normal((case.units, 1), np.float32) / np.float32(math.sqrt(case.units))
    weights = [table, *recurrent_weights("LSTM", case.units, case.units, rng), dense, np.zeros(1, np.float32)]
    return ModelData(ids, rng.integers(0, 2, (case.batch, 1)).astype(np.float32), weights)


def stream_data(case: StreamCase) -> StreamData:
    rng = np.random.default_rng(0)
    weights = recurrent_weights("LSTM", case.units, case.units, rng)
    return StreamData(rng.standard_normal((5, 1, 1, case.units), np.float32), weights)
