"""Cells written once for each step of a sequence of fixed length."""

import numpy as np
import pytest
from helpers.onnx_graphs import B, F, graph, kinds, model, random

from fastmask.convert.onnx.running import run_graph

STEPS, FEATURES, UNITS = 4, 3, 5


def unrolled(masked=False, every=False, steps=STEPS, batch_first=True, change=None):
    """Return the arguments of a graph that runs a tanh RNN over x (B, T, F), with the last output or all (B, T, H)."""
    nodes = [("Shape", "x", "shape"), ("Gather", "shape lead", "rows", {"axis": 0})]
    nodes += [("Concat", "rows units", "hshape", {"axis": 0}), ("ConstantOfShape", "hshape", "h0")]
    nodes += [("Transpose", "x", "xt", {"perm": [1, 0, 2]})]
    if masked:
        nodes += [("Transpose", "m", "mt", {"perm": [1, 0]}), ("Unsqueeze", "mt minus", "valid")]
    constants = {
        "kernel": random(FEATURES, UNITS, seed=1), "recurrent": random(UNITS, UNITS, seed=2, scale=0.5),
        "bias": random(UNITS, seed=3), "lead": np.array([0]), "units": np.array([UNITS]), "minus": np.array([-1]),
        "one": np.array([1]),
    }  # fmt: skip
    for t in range(steps):
        constants[f"t{t}"] = np.array(t)
        source = f"x t{t}" if batch_first else f"xt t{t}"
        nodes += [
            ("Gather", source, f"x{t}", {"axis": int(batch_first)}), ("MatMul", f"x{t} kernel", f"a{t}"),
            ("MatMul", f"h{t} recurrent", f"b{t}"), ("Add", f"a{t} b{t}", f"s{t}"), ("Add", f"s{t} bias", f"z{t}"),
            ("Tanh" if change != t else "Sigmoid", f"z{t}", f"n{t}"),
        ]  # fmt: skip
        if masked:
            nodes += [("Gather", f"valid t{t}", f"m{t}", {"axis": 0}), ("Where", f"m{t} n{t} h{t}", f"h{t + 1}")]
        else:
            nodes += [("Identity", f"n{t}", f"h{t + 1}")]
        nodes += [("Unsqueeze", f"h{t + 1} one", f"u{t}")]
    nodes += [("Concat", " ".join(f"u{t}" for t in range(steps)), "all", {"axis": 1}), ("Neg", f"h{steps}", "last")]
    inputs = [("x", F, ("batch", STEPS, FEATURES)), *([("m", B, ("batch", STEPS))] if masked else [])]
    return inputs, "all" if every else "last", nodes, constants


def given(masked, rows=3):
    x = random(rows, STEPS, FEATURES)
    mask = np.random.default_rng(1).random((rows, STEPS)) < 0.5
    return [x, mask] if masked else [x]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_cells_are_one_layer(masked, every, batch_first):
    arguments = unrolled(masked, every, batch_first=batch_first)
    found = model(*arguments)
    assert ("Recurrence" if masked else "SimpleRNN") in kinds(found)
    assert "MatMul" not in kinds(found)
    assert "Dense" not in kinds(found)
    for rows in (1, 3, 8):
        arrays = given(masked, rows)
        expected = run_graph(graph(*arguments), arrays, {})[0]
        np.testing.assert_allclose(found(arrays if masked else arrays[0]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"steps": 3}, {"change": 2}], ids=str)
def test_other_chains_stay_operators(options):
    arguments = unrolled(**options)
    found = model(*arguments)
    assert "SimpleRNN" not in kinds(found)
    expected = run_graph(graph(*arguments), given(False), {})[0]
    np.testing.assert_allclose(found(given(False)[0]), expected, rtol=1e-5, atol=1e-6)


def test_steps_that_are_needed_apart_stay_operators():
    inputs, _, nodes, constants = unrolled()
    arguments = inputs, "last s1", nodes, constants
    found = model(*arguments)
    assert "SimpleRNN" not in kinds(found)
    for y, expected in zip(found(given(False)[0]), run_graph(graph(*arguments), given(False), {}), strict=True):
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
