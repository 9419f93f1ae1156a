"""Layers that normalize, merge, pool, reshape or attend against Keras, packed and padded."""

import numpy as np
import pytest

import fastmask as fm
from fastmask.layers.base.flow import Shown, unpack_shown

from .archive import load
from .compare import TOLERANCE, as_tuple, assert_close

CASES = load("combining")["cases"]
DTYPES = ["float64", "float32"]
# Scores less 1e9, which Keras takes off where a mask is False, keep few digits.
LOW = {"float64": 1e-6, "float32": 1e-4}


def tolerance(name, dtype):
    """How far an output of ordinary size may be off; gradients ten times as far."""
    empty = name.startswith("Attention") and "leading" in name
    return LOW[dtype] if empty else 5 * TOLERANCE[dtype]


def make(case, dtype):
    """The recorded layer with its weights."""
    layer = getattr(fm.layers, case["layer"])(**case["config"], dtype=dtype)
    steps = "axis" in case["config"] and "Normalization" in case["layer"]
    shapes = [(None, x.shape[1] if steps else None, *x.shape[2:]) if x.ndim > 2 else x.shape for x in case["inputs"]]
    layer.build(shapes if case["several"] else shapes[0])
    layer.set_weights(case["weights"])
    return layer


def packed_inputs(case, dtype):
    """The inputs as models pass them on: sequences packed, with their fills."""
    xs = []
    for x, mask, fill in zip(case["inputs"], case["masks"], case["fills"], strict=True):
        x = x.astype(dtype)
        if x.ndim > 2:
            plan = fm.PackedSequence.from_padded(x, mask)
            x = fm.PackedSequence(plan.values, plan.packing, None, None if fill is None else fill.astype(dtype))
        xs.append(x)
    return xs if case["several"] else xs[0]


def call(layer, case, x, **options):
    return layer.vjp(x, **options, **case["options"])


def assert_weights(layer, gradients, case, atol):
    trained = {id(w) for w in layer.trainable_weights}
    for w, found, expected in zip(layer.weights, gradients.weights, case["gradients"]["weights"], strict=True):
        if id(w) in trained:
            assert_close(found, expected, 10 * atol, w.name)
    for found, expected in zip(layer.get_weights(), case["weights_after"], strict=True):
        assert_close(found, expected, atol, "weight after the call")


def spread(mask, x):
    """A mask of steps with as many axes as what it masks."""
    return mask.reshape(*mask.shape, *[1] * (x.ndim - 2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_packed(name, dtype):
    case, atol = CASES[name], tolerance(name, dtype)
    layer = make(case, dtype)
    x = packed_inputs(case, dtype)
    y, pullback = call(layer, case, x)
    dy = []
    for i, (found, cotangent) in enumerate(zip(as_tuple(y), case["cotangents"], strict=True)):
        cotangent = cotangent.astype(dtype)
        if isinstance(found, fm.PackedSequence):
            if i == 0 and case["output_mask"] is None:
                assert not found.packing.masked
            elif i == 0:
                np.testing.assert_array_equal(found.packing.mask, case["output_mask"])
            found, back = unpack_shown(found, True)
            cotangent = back(cotangent)
        assert found.dtype == dtype
        assert_close(found, case["outputs"][i], atol, f"output {i}")
        dy.append(cotangent)
    gradients = pullback(tuple(dy) if isinstance(y, tuple) else dy[0])
    xs, inputs = (x, gradients.inputs) if case["several"] else ([x], [gradients.inputs])
    for source, found, expected in zip(xs, inputs, case["gradients"]["inputs"], strict=True):
        assert_input_gradient(source, found, expected, 10 * atol)
    assert_weights(layer, gradients, case, atol)


def assert_input_gradient(source, found, expected, atol):
    """Compare the gradient at valid steps, and at all masked ones together if it came with that."""
    if not isinstance(source, fm.PackedSequence):
        assert_close(found, expected, atol, "gradient by an input")
        return
    values = found.values if isinstance(found, Shown) else found
    rows = expected.reshape(-1, *expected.shape[2:])
    assert_close(values, rows[source.packing.positions], atol, "gradient by an input")
    masked = expected[~source.packing.mask].sum(axis=0)
    if isinstance(found, Shown):
        assert_close(found.fill, masked, atol, "gradient by what masked places show")
    else:
        assert_close(np.zeros_like(masked), masked, atol, "gradient by what masked places show")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [n for n in CASES if all(fill is None for fill in CASES[n]["fills"])])
def test_padded(name, dtype):
    case, atol = CASES[name], tolerance(name, dtype)
    layer = make(case, dtype)
    xs, masks = case["inputs"], case["masks"]
    poisoned = [x if m is None else np.where(spread(m, x), x, np.nan) for x, m in zip(xs, masks, strict=True)]
    several = case["several"]
    y, pullback = call(layer, case, poisoned if several else poisoned[0], mask=masks if several else masks[0])
    for found, expected in zip(as_tuple(y), case["outputs"], strict=True):
        assert_close(found, expected, atol, "output")
    gradients = pullback(tuple(case["cotangents"]) if isinstance(y, tuple) else case["cotangents"][0])
    inputs = gradients.inputs if several else [gradients.inputs]
    for found, expected, mask in zip(inputs, case["gradients"]["inputs"], masks, strict=True):
        expected = expected if mask is None else np.where(spread(mask, expected), expected, 0)
        assert_close(found, expected, 10 * atol, "gradient by an input")
    assert_weights(layer, gradients, case, atol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [n for n in CASES if CASES[n]["several"] and CASES[n]["config"].get("axis") != 1])
def test_padded_under_masks_of_their_own(name, dtype):
    """An entry is read where the output is valid, whatever its own mask says, and nowhere else."""
    case, atol = CASES[name], tolerance(name, dtype)
    layer, attends = make(case, dtype), case["layer"] == "Attention"
    valid = case["output_mask"]
    seen = np.ones(case["outputs"][0].shape[:2], bool) if valid is None else valid
    xs = [x if attends or x.ndim < 3 else np.where(seen[..., None], x, np.nan) for x in case["inputs"]]
    y, pullback = call(layer, case, xs, mask=case["masks"])
    for found, expected in zip(as_tuple(y), case["outputs"], strict=True):
        assert_close(found[seen], expected[seen], atol, "output")
    gradients = pullback(tuple(case["cotangents"]) if isinstance(y, tuple) else case["cotangents"][0])
    for found, expected in zip(gradients.inputs, case["gradients"]["inputs"], strict=True):
        expected = expected if attends or expected.ndim < 3 else np.where(seen[..., None], expected, 0)
        assert_close(found, expected, 10 * atol, "gradient by an input")
    assert_weights(layer, gradients, case, atol)


@pytest.mark.parametrize("name", CASES)
def test_compute_mask(name):
    case = CASES[name]
    several, layer = case["several"], make(case, "float64")
    found = layer.compute_mask(case["inputs"] if several else case["inputs"][0],
                               case["masks"] if several else case["masks"][0])  # fmt: skip
    if layer.supports_masking or case["masks"][0] is None:
        np.testing.assert_equal(found, case["output_mask"])


@pytest.mark.parametrize("name", CASES)
def test_build_time_masks_and_shapes(name):
    case = CASES[name]
    layer = make(case, "float64")
    count = len(case["outputs"])
    flow = layer.mask_flow([mask is not None for mask in case["masks"]], count)
    assert flow[0] == (case["output_mask"] is not None)
    shapes = [x.shape for x in case["inputs"]]
    options = {key: value for key, value in case["options"].items() if key in layer.call_options}
    found = layer.compute_output_shape(shapes if case["several"] else shapes[0], **options)
    assert (list(found) if count > 1 else [found]) == [y.shape for y in case["outputs"]]
