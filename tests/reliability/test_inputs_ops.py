"""Bad input for the operations on arrays and packed batches."""

import numpy as np
import pytest
from helpers.masks import make_mask
from hypothesis import given
from hypothesis import strategies as st

from fastmask import PackedSequence, ops, reference

from .calls import Call, check_damages, check_layouts, examples


class Maker:
    """Draws sizes and makes random arrays."""

    def __init__(self, data):
        self.data = data
        self.dtype = data.draw(st.sampled_from([np.float32, np.float64]))
        self.rng = np.random.default_rng(data.draw(st.integers(0, 1000)))

    def size(self, limit=5):
        return self.data.draw(st.integers(0, limit))

    def choose(self, *choices):
        return self.data.draw(st.sampled_from(choices))

    def array(self, *shape):
        return self.rng.standard_normal(shape).astype(self.dtype)

    def positive(self, *shape):
        return self.rng.random(shape).astype(self.dtype) + self.dtype(0.1)

    def maybe(self, make, *shape):
        return make(*shape) if self.choose(True, False) else None

    def mask(self, batch, time):
        if batch * time == 0 or self.choose(True, False):
            return None
        return make_mask(self.choose("right", "holes", "empty_row"), batch, time, int(self.rng.integers(100)))


def named(*arrays):
    """The arrays that are not None by their places."""
    return {str(i): array for i, array in enumerate(arrays) if array is not None}


def dense_call(m):
    n, k, h = m.size(), m.size(), m.size(20)
    name = m.choose(*ops.ACTIVATIONS, None)
    if not h and name == "softmax":
        name = None

    def calls(module):
        def run(x, kernel, bias, dy):
            y, pullback = module.dense_vjp(x, kernel, bias, name)
            return named(y, *pullback(dy))

        return run

    arguments = {"x": m.array(n, k), "kernel": m.array(k, h), "bias": m.maybe(m.array, h), "dy": m.array(n, h)}
    return Call(arguments, calls(ops), calls(reference), m.dtype)


def activation_call(m):
    shape = tuple(m.size(4) for _ in range(m.choose(0, 1, 2, 3)))
    name = m.choose(*ops.ACTIVATIONS)
    axis = m.choose(*range(-len(shape), len(shape))) if shape else -1
    if name == "softmax" and (not shape or not shape[axis]):
        name = "tanh"

    def calls(module):
        def run(x, dy):
            y, pullback = module.activation_vjp(x, name, axis)
            return named(y, pullback(dy))

        return run

    def twin(x, dy):
        return calls(reference)(np.asarray(x), np.asarray(dy))

    return Call({"x": m.array(*shape), "dy": m.array(*shape)}, calls(ops), twin, m.dtype)


def embedding_call(m):
    rows, width = m.size(6), m.size(18)
    shape = tuple(m.size(4) for _ in range(m.choose(0, 1, 2))) if rows else (0,)
    ids = m.rng.integers(0, max(rows, 1), shape).astype(m.choose(np.int64, np.int8, np.uint64, np.int32))

    def run(ids, embeddings, dy):
        y, pullback = ops.embedding_vjp(ids, embeddings)
        return named(y, pullback(dy).dense())

    def twin(ids, embeddings, dy):
        numbers = ids.astype(np.int64)
        assert ids.size == 0 or (ids.min() >= 0 and ids.dtype.kind in "iuf" and np.array_equal(numbers, ids))
        y, pullback = reference.embedding_vjp(numbers, embeddings)
        return named(y, pullback(dy))

    ids = np.asarray(ids)
    arguments = {"ids": ids, "embeddings": m.array(rows, width), "dy": m.array(*shape, width)}
    return Call(arguments, run, twin, m.dtype)


def pack_call(m):
    batch, time = m.size(), m.size()
    token = tuple(m.size(3) for _ in range(m.choose(0, 1, 2)))
    mask = m.mask(batch, time)

    def run(x, mask, d):
        packed, pullback = ops.pack_vjp(x, mask)
        gradient = PackedSequence.from_padded(d, mask)
        padded, unpack_pullback = ops.unpack_vjp(packed)
        return named(padded, pullback(gradient.values), unpack_pullback(d))

    def twin(x, mask, d):
        valid = np.ones(x.shape[:2], bool) if mask is None else mask != 0
        assert valid.shape == x.shape[: valid.ndim] == d.shape[: valid.ndim]
        assert valid.ndim >= 2
        assert mask is None or mask.dtype.kind in "biu" or (mask.dtype.kind == "f" and np.isin(mask, (0, 1)).all())
        wide = valid.reshape(*valid.shape, *(1,) * (x.ndim - valid.ndim))
        gradient = np.where(wide, d, 0)
        return named(np.where(wide, x, 0), gradient, reference.pack(d, valid))

    arguments = {"x": m.array(batch, time, *token), "mask": mask, "d": m.array(batch, time, *token)}
    return Call(arguments, run, twin, None)


def pool_call(m):
    batch, time, width = m.size(), m.size(), m.size(18)
    name = m.choose("average_pool", "max_pool")

    def run(x, mask, dy):
        y, pullback = getattr(ops, name + "_vjp")(PackedSequence.from_padded(x, mask))
        assert pullback(dy).dtype == m.dtype
        return named(y)

    def twin(x, mask, dy):
        y = getattr(reference, name)(x, None if mask is None else mask != 0)
        assert dy.shape == y.shape
        return named(y)

    arguments = {"x": m.array(batch, time, width), "mask": m.mask(batch, time), "dy": m.array(batch, width)}
    return Call(arguments, run, twin, m.dtype)


def normalization_call(m):
    n, width = m.size(), m.size() + 1
    affine = {name: m.maybe(m.array, width) for name in ("gamma", "beta")}
    name = m.choose("layer_normalization", "batch_normalization")
    moments = {"mean": m.array(width), "variance": m.positive(width)} if name[0] == "b" else {}

    def run(x, gamma, beta, dy, **moments):
        y, pullback = getattr(ops, name + "_vjp")(x, *moments.values(), gamma, beta)
        assert pullback(dy).x.dtype == m.dtype
        return named(y)

    def twin(x, gamma, beta, dy, **moments):
        y = getattr(reference, name)(x, *moments.values(), gamma, beta)
        assert dy.shape == y.shape == x.shape
        assert all(a is None or a.shape == x.shape[-1:] for a in (gamma, beta, *moments.values()))
        return named(y)

    arguments = {"x": m.array(n, width), **affine, "dy": m.array(n, width), **moments}
    return Call(arguments, run, twin, m.dtype)


def merge_call(m):
    shape = tuple(m.size(3) for _ in range(m.choose(1, 2, 3)))
    mode = m.choose(*ops.MERGES)
    count = 2 if mode == "subtract" else m.choose(1, 2, 3)
    masks = tuple(None if m.choose(True, False) else m.rng.random(shape[:1]) < 0.6 for _ in range(count))

    def run(arrays, masks, dy):
        y, pullback = ops.merge_vjp(arrays, mode, masks)
        pullback(dy)
        return named(y)

    def twin(arrays, masks, dy):
        masks = None if masks is None else [None if mask is None else np.asarray(mask) for mask in masks]
        y = reference.merge(arrays, mode, masks)
        assert dy.shape == y.shape
        assert len({a.ndim for a in arrays}) == 1
        return named(y)

    arguments = {"arrays": tuple(m.array(*shape) for _ in range(count)), "masks": masks, "dy": m.array(*shape)}
    return Call(arguments, run, twin, m.dtype)


def batch_dot_call(m):
    batch, left, right, inner = m.size(3), m.size(3), m.size(3), m.size(3)
    normalize = m.choose(True, False)

    def run(x, y, axes, d):
        out, pullback = ops.batch_dot_vjp(x, y, axes, normalize)
        pullback(d)
        return named(out)

    def twin(x, y, axes, d):
        out = np.array([np.tensordot(*_units(a, b, axes, normalize), (axes[0] - 1, axes[1] - 1))
                        for a, b in zip(x, y, strict=True)])
        out = out.reshape(len(x), *(n for i, n in enumerate(x.shape) if i not in (0, axes[0])),
                          *(n for i, n in enumerate(y.shape) if i not in (0, axes[1])))
        out = out[:, None] if out.ndim == 1 else out
        assert d.shape == out.shape
        return named(out)

    arguments = {"x": m.array(batch, left, inner), "y": m.array(batch, inner, right), "axes": (2, 1),
                 "d": m.array(batch, left, right)}
    return Call(arguments, run, twin, m.dtype)


def _units(x, y, axes, normalize):
    if not normalize:
        return x, y
    return [a / np.maximum(np.sqrt((a * a).sum(axis=axis - 1, keepdims=True)), 1e-7)
            for a, axis in zip((x, y), axes, strict=True)]


def attention_call(m):
    batch, q, v, width = m.size(3), m.size(3), m.size(3) + 1, m.size(4)
    mask = m.rng.random((batch, q, v)) < 0.7 if m.choose(True, False) else None
    concat = m.choose(True, False)

    def run(query, key, value, scores_mask, scale, concat_weight, dy):
        y, pullback = ops.attention_vjp(query, key, value, scores_mask, scale, concat_weight)
        pullback(dy)
        return named(*y)

    def twin(query, key, value, scores_mask, scale, concat_weight, dy):
        scale = np.float64(1) if scale is None else scale
        arrays = [query, key, value]
        if scores_mask is not None and not np.all(np.any(scores_mask, axis=-1)):
            # Scores less 1e9 differ no more in float32.
            arrays = [array.astype(m.dtype) for array in arrays]
            scale, concat_weight = (None if a is None else m.dtype(a) for a in (scale, concat_weight))
        y, weights = reference.attention(*arrays, scores_mask, scale, concat_weight)
        assert dy is None or dy.shape == y.shape
        assert weights.shape == (len(query), query.shape[1], key.shape[1])
        assert np.ndim(scale) == 0
        return named(y, weights)

    arguments = {
        "query": m.array(batch, q, width), "key": m.array(batch, v, width), "value": m.array(batch, v, 3),
        "scores_mask": mask, "scale": m.array(), "concat_weight": m.array() if concat else None,
        "dy": m.array(batch, q, 3),
    }  # fmt: skip
    return Call(arguments, run, twin, m.dtype)


def directions_call(m):
    batch, time, width = m.size(4), m.size(4), m.size(5)
    mode = m.choose(*ops.MERGE_MODES)

    def run(forward, backward, mask, d):
        first = PackedSequence.from_padded(forward, mask)
        second = PackedSequence.from_padded(backward, None if mask is None else first.packing.mask[:, ::-1])
        merged, pullback = ops.merge_directions_vjp(first, second, mode)
        da, db = pullback(PackedSequence.from_padded(d, mask).values)
        return named(merged.pad(), first.with_values(da).pad(), second.with_values(db).pad())

    def twin(forward, backward, mask, d):
        valid = np.ones(forward.shape[:2], bool) if mask is None else mask != 0
        assert valid.shape == forward.shape[:2] == backward.shape[:2]
        wide = valid[..., None]
        forward, backward = np.where(wide, forward, 0), np.where(wide[:, ::-1], backward, 0)
        d = np.where(wide, d, 0) if valid.any() else 0
        y, pullback = reference.merge_directions_vjp(forward, backward, mode)
        return named(y, *pullback(d if valid.any() else np.zeros_like(y)))

    both = 2 * width if mode == "concat" else width
    arguments = {"forward": m.array(batch, time, width), "backward": m.array(batch, time, width),
                 "mask": m.mask(batch, time), "d": m.array(batch, time, both)}
    return Call(arguments, run, twin, m.dtype)


def multiply_call(m):
    shape = tuple(m.size(3) for _ in range(m.choose(0, 1, 2, 3)))

    def run(x, factor, dy):
        y, pullback = ops.multiply_vjp(x, factor)
        return named(y, pullback(dy))

    def twin(x, factor, dy):
        x, factor, dy = map(np.asarray, (x, factor, dy))
        assert np.broadcast_shapes(x.shape, factor.shape) == x.shape == dy.shape
        return named(x * factor, dy * factor)

    factor = m.array(*shape[m.choose(*range(len(shape) + 1)) :])
    return Call({"x": m.array(*shape), "factor": factor, "dy": m.array(*shape)}, run, twin, m.dtype)


MAKERS = {name.removesuffix("_call"): made for name, made in list(globals().items()) if name.endswith("_call")}


@pytest.mark.parametrize("name", MAKERS)
@examples(30)
@given(st.data())
def test_any_memory(name, data):
    check_layouts(data, MAKERS[name](Maker(data)))


@pytest.mark.parametrize("name", MAKERS)
@examples(60)
@given(st.data())
def test_reference_or_exception(name, data):
    check_damages(data, MAKERS[name](Maker(data)))
