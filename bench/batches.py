"""The shapes that are timed, and random batches of them."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from lstm_table import lengths
from numpy.typing import NDArray

from fastmask import PackedSequence, Packing

Array = NDArray[Any]


class Shape(NamedTuple):
    """Batch, steps, width of inputs and of states, share of steps that are valid."""

    batch: int
    steps: int
    features: int
    units: int
    share: float

    def __str__(self) -> str:
        return f"B{self.batch}-T{self.steps}-D{self.features}-H{self.units}-{self.share:.0%}"


# The first one, and others that differ in batch, length, width or padding.
SHAPES = [
    Shape(32, 80, 128, 128, 0.45),
    Shape(1, 80, 128, 128, 1.0),
    Shape(128, 80, 128, 128, 0.45),
    Shape(32, 300, 128, 128, 0.45),
    Shape(32, 80, 32, 32, 0.45),
    Shape(32, 80, 256, 256, 0.45),
    Shape(32, 80, 128, 128, 1.0),
    Shape(32, 80, 128, 128, 0.2),
]


class Batch(NamedTuple):
    """One batch, padded and packed: x (B, T, D), its mask, and gradients of states at all valid steps."""

    x: Array
    mask: Array
    packed: PackedSequence
    dy: Array
    packed_dy: Array


@cache
def make_mask(batch: int, steps: int, share: float) -> Array:
    """A mask (B, T) with padding behind the valid steps."""
    ends = lengths(batch, steps, share, np.random.default_rng(0))
    return np.arange(steps) < ends[:, None]


@cache
def make_batch(shape: Shape) -> Batch:
    """Standard normal inputs and gradients, float32, zeros in the padding."""
    rng = np.random.default_rng(1)
    mask = make_mask(shape.batch, shape.steps, shape.share)
    plan = Packing.from_mask(mask)
    packed, packed_dy = (
        PackedSequence(rng.standard_normal((plan.tokens, width), np.float32), plan)
        for width in (shape.features, shape.units)
    )
    return Batch(packed.pad(), mask, packed, packed_dy.pad(), packed_dy.values)


def make_weights(*shapes: tuple[int, ...]) -> list[Array]:
    """Random float32 matrices and vectors that keep the size of what they act on."""
    rng = np.random.default_rng(2)
    return [rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-2:][0])) for shape in shapes]


def make_ids(batch: int, steps: int, share: float, vocabulary: int) -> Array:
    """Word ids (B, T) that follow Zipf's law, 0 in the padding."""
    rng = np.random.default_rng(3)
    ids = np.minimum(rng.zipf(1.3, (batch, steps)), vocabulary - 1)
    return np.where(make_mask(batch, steps, share), ids, 0)
