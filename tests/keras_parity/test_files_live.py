"""Files that fastmask saved, opened by Keras itself: it predicts the same and trains on in the same way.

Needs a Python with Keras 3.15 and PyTorch, named by FASTMASK_KERAS_PYTHON; see record.py for how to make one.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers
from fastmask.core.structure import flatten

from .compare import assert_close

pytest.importorskip("h5py")

PYTHON = os.environ.get("FASTMASK_KERAS_PYTHON", "")

pytestmark = pytest.mark.skipif(not PYTHON, reason="FASTMASK_KERAS_PYTHON names no Python with Keras")

IDS = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8], [9, 1, 0, 0, 0], [3, 1, 7, 2, 0]], np.int32)
RNG = np.random.default_rng(3)
SOUNDS = RNG.standard_normal((4, 5, 2)).astype(np.float32)
LABELS = np.array([[0.0], [1.0], [1.0], [0.0]], np.float32)
STEPS = RNG.standard_normal((4, 5, 2)).astype(np.float32)


def tagger():
    model = fm.Sequential(
        [
            layers.Embedding(10, 3, mask_zero=True),
            layers.Bidirectional(layers.GRU(2, return_sequences=True, reset_after=False)),
            layers.TimeDistributed(layers.Dense(3, activation="relu")),
            layers.Dropout(0.0),
            layers.LSTM(3, return_sequences=True, name="second"),
            layers.LSTM(2, return_sequences=True, go_backwards=False),
            layers.Dense(2),
        ]
    )
    model.compile(fm.optimizers.Adam(0.05, amsgrad=True), "mse", metrics=["mae"])
    return model, [IDS], [STEPS]


def normalized():
    inputs = fm.Input((5, 2))
    x = layers.Masking()(inputs)
    x = layers.Dense(4)(x)
    x = layers.LayerNormalization()(x)
    x = layers.SimpleRNN(3, return_sequences=True)(x)
    x = layers.BatchNormalization()(x)
    x = layers.GlobalAveragePooling1D()(x)
    model = fm.Model(inputs, layers.Dense(1, activation="sigmoid")(x))
    model.compile(fm.optimizers.SGD(0.1, momentum=0.9), "binary_crossentropy")
    return model, [SOUNDS], [LABELS]


def normalized_along_steps():
    inputs = fm.Input((5, 2))
    x = layers.LayerNormalization(axis=[1, 2])(inputs)
    x = layers.BatchNormalization(axis=1)(layers.Dense(3)(x))
    x = layers.LayerNormalization(axis=1, rms_scaling=True)(x)
    model = fm.Model(inputs, layers.Dense(1, activation="sigmoid")(layers.GRU(3)(x)))
    model.compile(fm.optimizers.SGD(0.1), "binary_crossentropy")
    return model, [SOUNDS], [LABELS]


def merged():
    """Branches of unequal depth whose merged masks Keras computes in many operations."""
    words, sounds = fm.Input((None,), dtype="int32", name="words"), fm.Input((None, 2), name="sounds")
    a = layers.Embedding(10, 3, mask_zero=True)(words)
    b = layers.Masking()(layers.Dense(3)(layers.Dense(3)(sounds)))
    c = layers.LSTM(3, return_sequences=True)(b)
    d = layers.LSTM(3, return_sequences=True)(a)
    e = layers.Concatenate()([d, c])
    f = layers.LSTM(3, return_sequences=True)(layers.LSTM(3, return_sequences=True)(a))
    g = layers.Add()([layers.LSTM(3, return_sequences=True)(e), f])
    model = fm.Model([words, sounds], layers.Dense(1, activation="sigmoid")(layers.LSTM(3)(g)))
    model.compile("rmsprop", fm.losses.BinaryCrossentropy(label_smoothing=0.1))
    return model, [IDS, SOUNDS], [LABELS]


def ordered():
    """Branches that Keras would order otherwise if there were no operations on masks."""
    sounds = fm.Input((None, 2), name="sounds")
    a = layers.Dense(3, name="a")(sounds)
    b = layers.Masking()(layers.Dense(3, name="b")(sounds))
    c = layers.Concatenate()([layers.LSTM(3, return_sequences=True, name="c")(b), b])
    d = layers.LSTM(3, return_sequences=True, name="d")(a)
    e = layers.LSTM(3, return_sequences=True, name="e")(layers.LSTM(3, return_sequences=True, name="f")(d))
    model = fm.Model(sounds, layers.Dense(1)(layers.Concatenate()([layers.LSTM(3, name="g")(c), layers.LSTM(3)(e)])))
    model.compile(fm.optimizers.Adam(0.05), "mse")
    return model, [SOUNDS], [LABELS]


def states():
    source, target = fm.Input((None,), dtype="int32"), fm.Input((None, 2))
    embedded = layers.Embedding(10, 3, mask_zero=True)(source)
    _, h, c = layers.LSTM(3, return_state=True)(embedded)
    decoded = layers.LSTM(3, return_sequences=True)(target, initial_state=[h, c])
    mood = layers.Dense(1, activation="sigmoid", name="mood")(h)
    model = fm.Model([source, target], [layers.Dense(2, name="out")(decoded), mood])
    model.compile(fm.optimizers.AdamW(0.02), ["mse", "binary_crossentropy"], loss_weights=[1.0, 0.5])
    return model, [IDS, SOUNDS], [STEPS, LABELS]


def shared():
    one, two = fm.Input((None,), dtype="int32"), fm.Input((None,), dtype="int32")
    embedding, reader = layers.Embedding(10, 3, mask_zero=True), layers.GRU(3)
    first, second = reader(embedding(one)), reader(embedding(two))
    model = fm.Model([one, two], layers.Dense(1)(layers.Concatenate()([first, second])))
    model.compile(fm.optimizers.Adagrad(0.1), "mse")
    return model, [IDS, IDS[::-1].copy()], [LABELS]


def nested():
    inner_in = fm.Input((None, 2))
    inner = fm.Model(inner_in, layers.Dense(3)(layers.GRU(3)(inner_in)), name="inner")
    stack = fm.Sequential([fm.Input((3,)), layers.Dense(4, activation="tanh"), layers.Dense(3)], name="stack")
    inputs = fm.Input((None, 2))
    model = fm.Model(inputs, layers.Dense(1)(stack(inner(inputs))))
    model.compile(fm.optimizers.Adam(0.05), "mse")
    return model, [SOUNDS], [LABELS]


def stepwise():
    model = fm.Sequential(
        [
            fm.Input((5, 2)),
            layers.Masking(),
            layers.TimeDistributed(fm.Sequential([fm.Input((2,)), layers.Dense(3), layers.Dense(3)])),
            layers.GRU(2, return_sequences=True),
            layers.Dense(2),
        ]
    )
    model.compile(fm.optimizers.Adam(fm.optimizers.schedules.ExponentialDecay(0.05, 2, 0.5)), "mse")
    return model, [SOUNDS], [STEPS]


def pointed():
    """Masks passed to calls."""
    words, sounds = fm.Input((None,), dtype="int32"), fm.Input((None, 2))
    valid = fm.Input((None,), dtype="bool")
    embedding = layers.Embedding(10, 3)
    read = layers.LSTM(3, return_sequences=True)(embedding(words), mask=(words != 0) & ~valid)
    heard = layers.GRU(3, return_sequences=True)(sounds, mask=layers.Masking().compute_mask(sounds) | valid)
    both = layers.Attention()([layers.Concatenate()([heard, read]), layers.Dense(6)(sounds)], mask=[valid, words != 0])
    inner_in = fm.Input((None, 6))
    inner = fm.Model(inner_in, layers.GRU(3)(inner_in), name="inner")
    rows = layers.Concatenate()([layers.LSTM(2)(both), inner(layers.Activation("tanh")(both), mask=valid)])
    model = fm.Model([words, sounds, valid], layers.Dense(1, activation="sigmoid")(rows))
    model.compile(fm.optimizers.Adam(0.02), "binary_crossentropy")
    return model, [IDS, SOUNDS, IDS % 3 != 1], [LABELS]


def structured():
    """Inputs and outputs in dicts of lists."""
    words, sounds, row = fm.Input((None,), dtype="int32"), fm.Input((None, 2)), fm.Input((2,))
    read = layers.LSTM(3)(layers.Embedding(10, 3, mask_zero=True)(words))
    mood = layers.Dense(1, activation="sigmoid")(layers.Concatenate()([read, row]))
    steps = layers.Dense(2)(layers.GRU(3, return_sequences=True)(sounds))
    model = fm.Model({"more": [row, sounds], "words": words}, {"z": mood, "out": [steps, layers.Dense(1)(read)]})
    model.compile("adam", {"z": "mae", "out": ["mse", "mae"]}, loss_weights={"z": 2.0, "out": [0.5, 1.0]})
    return model, [STEPS[:, 0], SOUNDS, IDS], [STEPS, LABELS, LABELS]


MODELS = (
    tagger, normalized, normalized_along_steps, merged, ordered, states, shared, nested, stepwise, pointed, structured,
)


def quantized_tagger(folder):
    """Save a model in 8-bit integers, of layers that Keras can quantise as well."""
    parts = [layers.Embedding(10, 3, mask_zero=True), layers.Dense(4, activation="tanh"), layers.Dense(2)]
    model = fm.Sequential([fm.Input((None,), dtype="int32"), *parts])
    model.quantize("int8")
    model.save(folder / "quantized.keras")
    np.savez(folder / "quantized.npz", x0=IDS)
    np.savez(folder / "quantized.ours.npz", y=model.predict(IDS, verbose=0))


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Save all models, let Keras answer, and return both sides by name."""
    folder = tmp_path_factory.mktemp("files")
    saved = {}
    for build in MODELS:
        fm.utils.set_random_seed(5)
        model, x, y = build()
        inputs, targets = x if len(x) > 1 else x[0], y if len(y) > 1 else y[0]
        model.set_weights(
            [
                RNG.uniform(-0.6, 0.6, w.shape) + ("variance" in v.name)
                for v, w in zip(model.weights, model.get_weights(), strict=True)
            ]
        )
        for _ in range(2):
            model.train_on_batch(inputs, targets)
        path = folder / f"{build.__name__}.keras"
        model.save(path)
        model.save_weights(path.with_suffix(".weights.h5"))
        np.savez(
            path.with_suffix(".npz"), **{f"x{i}": v for i, v in enumerate(x)}, **{f"y{i}": v for i, v in enumerate(y)}
        )
        saved[build.__name__] = (model, inputs, targets)
    quantized_tagger(folder)
    script = Path(__file__).with_name("live.py")
    run = subprocess.run([PYTHON, script, folder], capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    found = {name: (*parts, np.load(folder / f"{name}.out.npz")) for name, parts in saved.items()}
    found["quantized"] = [np.load(folder / f"quantized.{side}.npz") for side in ("ours", "out")]
    return found


def arrays(answer, key):
    """The arrays of an answer whose names begin with `key`, in order."""
    return [answer[f"{key}{i}"] for i in range(sum(name.startswith(key) for name in answer.files))]


@pytest.mark.parametrize("name", [build.__name__ for build in MODELS])
def test_keras_opens(name, answers):
    model, x, y, answer = answers[name]
    found = model.predict(x, verbose=0)
    for mine, theirs in zip(flatten(found), arrays(answer, "output"), strict=True):
        assert_close(mine, theirs, 3e-6, name)
    for mine, theirs in zip(model.get_weights(), arrays(answer, "weight"), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for _ in range(2):
        model.train_on_batch(x, y)
    for mine, theirs in zip(model.get_weights(), arrays(answer, "later"), strict=True):
        assert_close(mine, theirs, 2e-5, name)


def test_keras_opens_8_bit_integers(answers):
    ours, theirs = answers["quantized"]
    assert_close(ours["y"], theirs["output0"], 1e-6, "predictions")
