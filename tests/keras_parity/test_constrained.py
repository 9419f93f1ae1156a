"""Regularizers, constraints, moving statistics and gradients through masked places against Keras."""

import pytest

import fastmask as fm

from .archive import load
from .compare import assert_close
from .specs import make_layers, make_named

CASES = load("constrained")["cases"]


def named(prefix):
    return [name for name in CASES if name.startswith(prefix)]


@pytest.mark.parametrize("name", named("train"))
def test_trajectory(name):
    case = CASES[name]
    model = fm.Sequential(make_layers(fm.layers, case["layers"], "float64"))
    model.build((None, None, *case["batches"][0][0].shape[2:]))
    model.set_weights(case["weights"])
    model.compile(make_named(fm.optimizers, case["optimizer"]), case["loss"])
    losses = [model.train_on_batch(x, y) for x, y in case["batches"]]
    # Keras keeps the factor 1e-7 of its norms and statistics in float32.
    assert losses == pytest.approx(case["losses"], rel=1e-9)
    for index, expected in enumerate(case["trained_weights"]):
        assert_close(model.get_weights()[index], expected, 1e-9, f"weight {index}")
    assert model.test_on_batch(*case["batches"][0]) == pytest.approx(case["evaluated"], rel=1e-9)


@pytest.mark.parametrize("name", named("shown"))
def test_gradients_through_masked_places(name):
    """Flatten sees the masked places, which Keras's layers computed as well."""
    case = CASES[name]
    inputs = [fm.Input((None,), dtype="int32") for _ in range(2)]
    first, *layers = make_layers(fm.layers, case["layers"], "float64")
    branches = [first(branch) for branch in inputs]
    for layer in layers:
        branches = [branches[0], layer(branches[0])] if case["residual"] else [layer(branch) for branch in branches]
    merged = getattr(fm.layers, case["merge"])(dtype="float64")(branches)
    for layer in make_layers(fm.layers, case["tail"], "float64"):
        merged = layer(merged)
    dropped = fm.layers.DropMask(dtype="float64")(merged)
    model = fm.Model(inputs[: len(case["inputs"])], fm.layers.Flatten(dtype="float64")(dropped))
    model.set_weights(case["weights"])
    y, pullback = model.run(case["inputs"], keep=True)
    y = y[0] if isinstance(y, (list, tuple)) else y
    assert_close(y, case["outputs"], 1e-11, "output")
    gradients = pullback([case["cotangent"]])
    for (found, _), expected in zip(gradients, case["gradients"], strict=True):
        dense = found.dense() if isinstance(found, fm.ops.SparseRows) else found
        assert_close(dense, expected, 1e-10, "gradient")
