"""Every operation, forward and forward with backward, beside the NumPy reference."""

from __future__ import annotations

import numpy as np
import pytest
from batches import SHAPES, Shape, make_batch, make_ids, make_mask, make_weights
from conftest import Measure

from fastmask import ops, reference
from fastmask.batch.packing import PackedSequence

pytestmark = pytest.mark.benchmark(max_time=0.15, min_rounds=3)

PARTS = ("forward", "with backward")
CELLS = {
    "simple_rnn": ("simple_rnn", 1, {}),
    "lstm": ("lstm", 4, {}),
    "gru": ("gru", 3, {}),
    "gru_reset_before": ("gru", 3, {"reset_after": False}),
}
FLAT_SHAPES = [SHAPES[i] for i in (0, 1, 3, 5, 7)]
VOCABULARY = 20_000
LARGE_VOCABULARY = 200_000

each_part = pytest.mark.parametrize("part", PARTS)
each_flat_shape = pytest.mark.parametrize("shape", FLAT_SHAPES, ids=str)


@each_part
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def bench_recurrent(measure: Measure, cell: str, shape: Shape, part: str, engine: str) -> None:
    name, gates, options = CELLS[cell]
    batch = make_batch(shape)
    width = gates * shape.units
    bias = (2, width) if cell == "gru" else (width,)
    weights = make_weights((shape.features, width), (shape.units, width), bias)
    module, x, dy, extra = {
        "fastmask": (ops, batch.packed, batch.packed_dy, {}),
        "numpy": (reference, batch.x, batch.dy, {"mask": batch.mask}),
    }[engine]
    options = options | extra
    call, call_vjp = getattr(module, name), getattr(module, f"{name}_vjp")
    function = {
        "forward": lambda: call(x, *weights, **options),
        "with backward": lambda: call_vjp(x, *weights, **options)[1](dy),
    }[part]
    tokens = batch.packed.packing.tokens
    operations = 2.0 * tokens * (shape.features + shape.units) * width
    measure(function, f"{cell} {shape} {part}", tokens, operations * (1 if part == "forward" else 3))


@each_part
@each_flat_shape
def bench_dense(measure: Measure, shape: Shape, part: str, engine: str) -> None:
    batch = make_batch(shape)
    weights = make_weights((shape.features, shape.units), (shape.units,))
    module, x, dy = {
        "fastmask": (ops, batch.packed.values, batch.packed_dy),
        "numpy": (reference, batch.x, batch.dy),
    }[engine]
    function = {
        "forward": lambda: module.dense(x, *weights, activation="relu"),
        "with backward": lambda: module.dense_vjp(x, *weights, activation="relu")[1](dy),
    }[part]
    tokens = batch.packed.packing.tokens
    operations = 2.0 * tokens * shape.features * shape.units * (1 if part == "forward" else 3)
    measure(function, f"dense {shape} {part}", tokens, operations)


@each_flat_shape
def bench_matmul(measure: Measure, shape: Shape, engine: str) -> None:
    batch = make_batch(shape)
    (matrix,) = make_weights((shape.features, shape.units))
    tokens = batch.packed.packing.tokens
    function = {
        "fastmask": lambda: ops.matmul(batch.packed.values, matrix),
        "numpy": lambda: reference.matmul(batch.x, matrix),
    }[engine]
    measure(function, f"matmul {shape} forward", tokens, 2.0 * tokens * matrix.size)


@each_part
@each_flat_shape
def bench_embedding(measure: Measure, shape: Shape, part: str, engine: str) -> None:
    ids = make_ids(shape.batch, shape.steps, shape.share, VOCABULARY)
    mask = make_mask(shape.batch, shape.steps, shape.share)
    batch = make_batch(Shape(shape.batch, shape.steps, shape.features, shape.features, shape.share))
    (table,) = make_weights((VOCABULARY, shape.features))
    packed = PackedSequence.from_padded(ids, mask)

    def compiled() -> object:
        rows, pullback = ops.embedding_vjp(packed, table)
        data, expand_pullback = ops.expand_vjp(rows)
        return pullback(expand_pullback(batch.packed_dy)) if part == "with backward" else data

    def plain() -> object:
        data, pullback = reference.embedding_vjp(ids, table)
        return pullback(batch.dy) if part == "with backward" else data

    measure({"fastmask": compiled, "numpy": plain}[engine], f"embedding {shape} {part}", packed.packing.tokens)


@each_part
@each_flat_shape
def bench_packing(measure: Measure, shape: Shape, part: str, engine: str) -> None:
    batch = make_batch(Shape(shape.batch, shape.steps, shape.features, shape.features, shape.share))

    def compiled() -> object:
        packed, pullback = ops.pack_vjp(batch.x, batch.mask)
        return pullback(batch.packed_dy) if part == "with backward" else packed

    def plain() -> object:
        values = reference.pack(batch.x, batch.mask)
        return reference.unpack(batch.packed_dy, batch.mask) if part == "with backward" else values

    measure({"fastmask": compiled, "numpy": plain}[engine], f"pack {shape} {part}", batch.packed.packing.tokens)


@pytest.mark.parametrize("step", ["adam_step", "lazy_adam_step"])
def bench_embedding_update(measure: Measure, step: str, engine: str) -> None:
    """One step on a large table, all rows of which earlier steps have moved; 700 rows have a gradient."""
    rng = np.random.default_rng(0)
    shape = (LARGE_VOCABULARY, 128)
    table = rng.standard_normal(shape, np.float32)
    m, v = np.full(shape, 1e-3, np.float32), np.full(shape, 1e-3, np.float32)
    ids, rows = rng.choice(LARGE_VOCABULARY, 700, replace=False), rng.standard_normal((700, 128), np.float32)
    sparse = ops.SparseRows(ids, rows, shape)

    def plain() -> object:
        if step == "lazy_adam_step":
            return reference.lazy_adam_step(table, ids, rows, m, v, None, 1e-3)
        return reference.adam_step(table, sparse.dense(), m, v, None, 1e-3)

    compiled = getattr(ops, step)
    function = {"fastmask": lambda: compiled(table, sparse, m, v, None, 1e-3), "numpy": plain}[engine]
    measure(function, f"{step} {LARGE_VOCABULARY} x 128, 700 rows", ids.size)


@pytest.mark.parametrize("classes", [20, 5000])
def bench_softmax_crossentropy(measure: Measure, classes: int, engine: str) -> None:
    """Softmax, loss, and both gradients."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((1216, classes), np.float32)
    labels, scale = rng.integers(0, classes, 1216), np.full(1216, 1 / 1216, np.float32)
    module = {"fastmask": ops, "numpy": reference}[engine]

    def function() -> object:
        p, pullback = module.activation_vjp(logits, "softmax")
        return pullback(module.sparse_crossentropy(p, labels, scale)[1])

    measure(function, f"softmax and cross-entropy, {classes} classes", 1216)
