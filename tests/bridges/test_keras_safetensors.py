"""Keras takes weights from safetensors files by their paths."""

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers

pytest.importorskip("keras", exc_type=ImportError)
safetensors = pytest.importorskip("safetensors.numpy")
pytestmark = pytest.mark.filterwarnings("default")


def test_keras_takes_the_weights(tmp_path):
    model = fm.Sequential([
        layers.Embedding(7, 4, mask_zero=True), layers.Bidirectional(layers.GRU(3)), layers.Dense(2, name="scores"),
    ])  # fmt: skip
    ids = np.array([[1, 2, 0], [3, 4, 5]])
    wanted = model.predict(ids)
    model.save_weights(tmp_path / "a.safetensors")
    keras_model = model.to_keras()
    read = safetensors.load_file(tmp_path / "a.safetensors")
    for variable in keras_model.weights:
        variable.assign(np.zeros(variable.shape, np.float32))
    for variable, mine in zip(keras_model.weights, model.weights, strict=True):
        assert variable.path.split("/")[-1] == mine.path.split("/")[-1]
        variable.assign(read[mine.path])
    np.testing.assert_allclose(keras_model.predict(ids, verbose=0), wanted, rtol=0, atol=2e-6)
