"""Models that Keras quantised to 8-bit integers: weights before and after, files, and predictions."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .common import generator

IDS = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8], [9, 0, 0, 0, 0], [3, 1, 0, 2, 0]], np.int32)


def tagger(layers: Any, keras: Any) -> tuple[Any, np.ndarray]:
    """A layer on either side of an LSTM, which Keras leaves in float32."""
    parts = [layers.Embedding(10, 7, mask_zero=True), layers.LSTM(5, return_sequences=True), layers.Dense(3)]
    return keras.Sequential([keras.Input((None,), dtype="int32"), *parts]), IDS


def rows(layers: Any, keras: Any) -> tuple[Any, np.ndarray]:
    """Two layers one after the other, on rows of features of very different sizes."""
    parts = [layers.Dense(6, activation="tanh"), layers.Dense(2, activation="softmax", use_bias=False)]
    x = generator("rows").standard_normal((5, 9)) * 10.0 ** np.arange(-2, 3)[:, None]
    return keras.Sequential([keras.Input((9,)), *parts]), x.astype(np.float32)


MODELS = {model.__name__: model for model in (tagger, rows)}


def record_quantized() -> dict[str, Any]:
    """Record each model, and arrays by themselves."""
    import keras

    cases = {name: _record(name, keras) for name in MODELS}
    x = generator("array").standard_normal((6, 8)).astype(np.float32)
    x[2] = 0
    for axis in (0, 1):
        values, scale = keras.quantizers.abs_max_quantize(x, axis=axis, to_numpy=True)
        cases[f"axis {axis}"] = {"x": x, "values": np.asarray(values), "scale": np.asarray(scale)}
    return cases


def _record(name: str, keras: Any) -> dict[str, Any]:
    model, x = MODELS[name](keras.layers, keras)
    shapes = [value.shape for value in model.get_weights()]
    weights = [generator(name, i).uniform(-0.8, 0.8, s).astype(np.float32) for i, s in enumerate(shapes)]
    model.set_weights(weights)
    model.quantize("int8")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        content = np.frombuffer(path.read_bytes(), np.uint8)
    after = {variable.path.split("/", 1)[1]: variable.numpy() for variable in model.weights}
    return {"x": x, "before": weights, "after": after, "outputs": model.predict(x, verbose=0), "file": content}
