"""Files that Keras saved, with what Keras predicts from them and how it trains on.

The files go to ``data/files.zip`` and ``data/files_keras2.zip``; the cases hold inputs, targets, predictions, and the
weights after two more steps.
`record_files` runs in Keras 3, `record_files_keras2` in tf-keras, the continuation of Keras 2::

    /tmp/keras-env/bin/pip install --no-deps tf_keras==2.21.0
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .common import generator

DATA = Path(__file__).parents[1] / "data"

IDS = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8], [9, 0, 0, 0, 0], [3, 1, 0, 2, 0]], np.int32)
LABELS = np.array([[0.0], [1.0], [1.0], [0.0]], np.float32)


def features(width: int, *names: object) -> np.ndarray:
    """Sequences of features, some steps all zero."""
    values = generator("features", *names).standard_normal((4, 5, width)).astype(np.float32)
    values[0, 3:] = values[2, :2] = 0
    return values


def reader(layers: Any, keras: Any) -> tuple[Any, list[np.ndarray], list[np.ndarray]]:
    """Embedding, both directions, a layer per step, a GRU of the old kind; Adam."""
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(10, 3, mask_zero=True),
            layers.Bidirectional(layers.LSTM(2, return_sequences=True)),
            layers.TimeDistributed(layers.Dense(3, activation="tanh")),
            layers.GRU(2, reset_after=False, name="last"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.05), "binary_crossentropy", metrics=["accuracy"])
    return model, [IDS], [LABELS]


def listener(layers: Any, keras: Any) -> tuple[Any, list[np.ndarray], list[np.ndarray]]:
    """Masking, two recurrent layers, a loss per step; RMSprop with all it has."""
    model = keras.Sequential(
        [
            keras.Input((5, 2)),
            layers.Masking(),
            layers.SimpleRNN(3, return_sequences=True),
            layers.GRU(2, return_sequences=True),
            layers.Dense(2),
        ]
    )
    model.compile(keras.optimizers.RMSprop(0.01, momentum=0.5, centered=True), keras.losses.MeanSquaredError())
    return model, [features(2, "in")], [generator("target").standard_normal((4, 5, 2)).astype(np.float32)]


def graph(layers: Any, keras: Any) -> tuple[Any, list[np.ndarray], list[np.ndarray]]:
    """Two inputs with masks of their own, states passed on, merged branches, two outputs; SGD."""
    words = keras.Input((None,), dtype="int32", name="words")
    sounds = keras.Input((None, 2), name="sounds")
    embedded = layers.Embedding(10, 3, mask_zero=True, name="embedded")(words)
    sequence, h, c = layers.LSTM(3, return_sequences=True, return_state=True, name="first")(embedded)
    heard = layers.Bidirectional(layers.GRU(3, return_sequences=True), merge_mode="sum", name="heard")(
        layers.Masking(name="silence")(sounds)
    )
    both = layers.Add(name="both")([sequence, heard])
    wide = layers.Concatenate(name="wide")([both, sequence])
    tags = layers.Dense(2, name="tags")(wide)
    mood = layers.Dense(1, activation="sigmoid", name="mood")(layers.Concatenate(name="states")([h, c]))
    model = keras.Model([words, sounds], [tags, mood])
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)
    model.compile(optimizer, ["mse", "binary_crossentropy"], loss_weights=[1.0, 0.5])
    targets = [generator("tags").standard_normal((4, 5, 2)).astype(np.float32), LABELS]
    return model, [IDS, features(2, "sounds")], targets


def translator(layers: Any, keras: Any) -> tuple[Any, list[np.ndarray], list[np.ndarray]]:
    """Encoder and decoder: the states of one start the other."""
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None, 2), name="target")
    embedded = layers.Embedding(10, 3, mask_zero=True, name="embedded")(source)
    _, h, c = layers.LSTM(3, return_state=True, name="encoder")(embedded)
    decoded = layers.LSTM(3, return_sequences=True, name="decoder")(target, initial_state=[h, c])
    model = keras.Model([source, target], layers.Dense(2, name="out")(decoded))
    model.compile(keras.optimizers.Adam(0.02, amsgrad=True, clipnorm=0.5), "mse")
    return model, [IDS, features(2, "target")], [generator("next").standard_normal((4, 5, 2)).astype(np.float32)]


def pointed(layers: Any, keras: Any) -> tuple[Any, list[np.ndarray], list[np.ndarray]]:
    """Masks passed to calls: an input, joined comparisons, what a Masking beside the way would make."""
    words = keras.Input((None,), dtype="int32", name="words")
    sounds = keras.Input((None, 2), name="sounds")
    valid = keras.Input((None,), dtype="bool", name="valid")
    embedded = layers.Embedding(10, 3, name="embedded")(words)
    read = layers.LSTM(3, return_sequences=True, name="read")(embedded, mask=(words != 0) & ~valid)
    heard = layers.GRU(3, return_sequences=True, name="heard")(
        layers.Dense(2, name="loud")(sounds), mask=layers.Masking(name="silence").compute_mask(sounds)
    )
    both = layers.Add(name="merged")([read, heard])
    other = layers.Embedding(10, 3, mask_zero=True, name="other")(words)
    summed = layers.Add(name="summed")([both, layers.SimpleRNN(3, return_sequences=True, name="again")(other)])
    shown = layers.Bidirectional(layers.LSTM(2), name="shown")(summed, mask=valid)
    joined = layers.Concatenate(name="rows")([shown, layers.GRU(2, name="last")(summed)])
    model = keras.Model([words, sounds, valid], layers.Dense(1, activation="sigmoid", name="mood")(joined))
    model.compile(keras.optimizers.Adam(0.02), "binary_crossentropy")
    return model, [IDS, features(2, "sounds"), IDS % 3 != 1], [LABELS]


def nested(layers: Any, keras: Any) -> tuple[Any, list[np.ndarray], list[np.ndarray]]:
    """Models in a model: a stack that is called twice, and a graph that makes the output."""
    one, two = keras.Input((5, 2), name="one"), keras.Input((5, 2), name="two")
    parts = [layers.Masking(), layers.SpatialDropout1D(0.0), layers.GRU(3, name="gru")]
    stack = keras.Sequential([keras.Input((5, 2)), *parts], name="stack")
    both = layers.Subtract(name="both")([stack(one), stack(two)])
    inner = keras.Input((3,), name="inner")
    head = keras.Model(inner, layers.Dense(1, activation="sigmoid", name="mood")(inner), name="head")
    model = keras.Model([one, two], head(both))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "binary_crossentropy")
    return model, [features(2, "one"), features(2, "two")], [LABELS]


MODELS = {model.__name__: model for model in (reader, listener, graph, translator, pointed, nested)}


def record_files() -> dict[str, Any]:
    """Save each model as ``.keras``, some in the other formats, too."""
    import keras

    wanted = {name: [".keras", *([".h5", ".weights.h5"] if name in ("reader", "graph") else [])] for name in MODELS}
    return _record_all("files", keras, wanted)


def record_files_keras2() -> dict[str, Any]:
    """Save each model of tf-keras as ``.h5``, one as ``.keras``; it writes comparisons of tensors as lambdas."""
    import tf_keras

    names = [name for name in MODELS if name != "pointed"]
    wanted = {name: [".h5", *([".keras", ".weights.h5"] if name == "reader" else [])] for name in names}
    return _record_all("files_keras2", tf_keras, wanted)


def _record_all(archive: str, keras: Any, wanted: dict[str, list[str]]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        cases = {name: _record(name, keras, endings, Path(folder)) for name, endings in wanted.items()}
        with zipfile.ZipFile(DATA / f"{archive}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
            for path in sorted(Path(folder).iterdir()):
                packed.write(path, path.name)
    return cases


def _record(name: str, keras: Any, endings: list[str], folder: Path) -> dict[str, Any]:
    keras.utils.set_random_seed(7)
    model, inputs, targets = MODELS[name](keras.layers, keras)
    weights = [
        generator(name, i).uniform(-0.8, 0.8, value.shape).astype(np.float32)
        for i, value in enumerate(model.get_weights())
    ]
    model.set_weights(weights)
    x, y = (inputs, targets) if len(inputs) > 1 else (inputs[0], targets)
    y = y if len(y) > 1 else y[0]
    for _ in range(2):
        model.train_on_batch(x, y)
    for ending in endings:
        (model.save_weights if ending == ".weights.h5" else model.save)(str(folder / f"{name}{ending}"))
    saved = model.get_weights()
    outputs = model.predict(x, verbose=0)
    for _ in range(2):
        model.train_on_batch(x, y)
    return {
        "inputs": inputs,
        "targets": targets,
        "outputs": outputs if isinstance(outputs, list) else [outputs],
        "weights": saved,
        "later": model.get_weights(),
        "files": [f"{name}{ending}" for ending in endings],
    }
