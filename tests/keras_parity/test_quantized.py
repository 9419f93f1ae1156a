"""Models that Keras quantised to 8-bit integers: the same integers, files, predictions."""

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers, ops

from .archive import load
from .compare import assert_close

CASES = load("quantized")["cases"]
MODELS = {
    "tagger": lambda: [
        fm.Input((None,), dtype="int32"), layers.Embedding(10, 7, mask_zero=True, name="embedding"),
        layers.LSTM(5, return_sequences=True, name="lstm"), layers.Dense(3, name="dense"),
    ],
    "rows": lambda: [
        fm.Input((9,)), layers.Dense(6, activation="tanh", name="dense_1"),
        layers.Dense(2, activation="softmax", use_bias=False, name="dense_2"),
    ],
}  # fmt: skip


def by_name(model):
    return {weight.path.split("/", 1)[1]: weight for weight in model.weights}


@pytest.mark.parametrize("axis", [0, 1])
def test_arrays(axis):
    case = CASES[f"axis {axis}"]
    values, scale = ops.abs_max_quantize(case["x"], axis)
    np.testing.assert_array_equal(values, case["values"])
    np.testing.assert_array_equal(scale, np.squeeze(case["scale"], axis))


@pytest.mark.parametrize("name", MODELS)
def test_models_have_the_same_integers(name):
    model = fm.Sequential(MODELS[name]())
    model.set_weights(CASES[name]["before"])
    for layer in model.layers:
        if not isinstance(layer, layers.LSTM):
            layer.quantize("int8")
    assert by_name(model).keys() == CASES[name]["after"].keys()
    for path, weight in by_name(model).items():
        expected = CASES[name]["after"][path]
        assert weight.dtype == expected.dtype
        np.testing.assert_array_equal(weight.value, expected, path)
    assert_close(model.predict(CASES[name]["x"], verbose=0), CASES[name]["outputs"], 1e-6, name)


@pytest.mark.parametrize("name", MODELS)
def test_files(name, tmp_path):
    pytest.importorskip("h5py")
    (tmp_path / "a.keras").write_bytes(CASES[name]["file"].tobytes())
    model = fm.models.load_model(tmp_path / "a.keras")
    modes = [layer.quantization_mode for layer in model.layers if layer.weights]
    assert modes == (["int8", None, "int8"] if name == "tagger" else ["int8", "int8"])
    assert_close(model.predict(CASES[name]["x"], verbose=0), CASES[name]["outputs"], 1e-6, name)
    model.save(tmp_path / "b.keras")
    again, x = fm.models.load_model(tmp_path / "b.keras"), CASES[name]["x"]
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
