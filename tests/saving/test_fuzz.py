"""Damaged files: one error, soon, and no other."""

import io
import random
import time
import warnings
import zipfile

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers
from fastmask.saving import FileFormatError

pytest.importorskip("h5py")

MUTATIONS = 800  # for each file
SECONDS = 5.0  # for each mutation


def model_with_masks():
    """A graph with most kinds of entries."""
    ids = fm.Input((None,), dtype="int32")
    embedded = layers.Embedding(6, 3, mask_zero=True)(ids)
    both = layers.Bidirectional(layers.LSTM(2, return_sequences=True))(embedded)
    merged = layers.Concatenate()([both, embedded])
    model = fm.Model(ids, layers.Dense(1)(layers.GRU(2)(merged)))
    model.compile(fm.optimizers.Adam(0.01), "mse", metrics=["mae"])
    model.train_on_batch(np.array([[1, 2, 0], [3, 4, 5]]), np.ones((2, 1)))
    return model


def damaged(content, rng):
    """A copy of the content that is cut, flipped, overwritten, or lacks a piece."""
    copy = bytearray(content)
    kind = rng.randrange(4)
    if kind == 0:
        del copy[rng.randrange(len(copy)) :]
    elif kind == 1:
        for _ in range(rng.choice([1, 1, 2, 8, 64])):
            copy[rng.randrange(len(copy))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        for _ in range(rng.choice([1, 4, 16])):
            copy[rng.randrange(len(copy))] = rng.choice([0, 127, 128, 255])
    else:
        start = rng.randrange(len(copy))
        del copy[start : start + rng.choice([1, 8, 64, 1000])]
    return bytes(copy)


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """The files to damage, and a model that weights fit."""
    folder = tmp_path_factory.mktemp("fuzz")
    model = model_with_masks()
    model.save(folder / "a.keras")
    model.save_weights(folder / "a.weights.h5")
    legacy(model, folder / "a.h5")
    return model, {path.name: path.read_bytes() for path in folder.iterdir()}


def legacy(model, path):
    """Write the weights and the config of a model into a legacy file."""
    import json

    import h5py

    from fastmask.saving.masks import keras_config

    with h5py.File(path, "w") as root:
        root.attrs["keras_version"], root.attrs["model_config"] = "3.0.0", json.dumps(keras_config(model))
        group = root.create_group("model_weights")
        named = [layer for layer in model.layers if layer.weights]
        group.attrs["layer_names"] = [layer.name for layer in named]
        for layer in named:
            place = group.create_group(layer.name)
            place.attrs["weight_names"] = [weight.path for weight in layer.weights]
            for weight in layer.weights:
                place.create_dataset(weight.path, data=weight.value)


@pytest.mark.parametrize("name", ["a.keras", "a.weights.h5", "a.h5"])
def test_damaged_files(name, contents, tmp_path):
    model, files = contents
    rng, path, refused = random.Random(name), tmp_path / name, 0
    path.write_bytes(files[name])
    load(model, path)
    for _ in range(MUTATIONS):
        path.write_bytes(damaged(files[name], rng))
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                load(model, path)
        except FileFormatError:
            refused += 1
        assert time.perf_counter() - start < SECONDS
    assert refused > MUTATIONS // 2


@pytest.mark.parametrize("name", ["a.keras", "a.h5"])
def test_strings_without_end(name, contents, tmp_path):
    """HDF5 itself reads a collection of strings for ever whose free part or one of whose strings has the size 0."""
    model, files = contents
    content, path = bytearray(files["a.h5"]), tmp_path / name
    heap = content.index(b"GCOL")
    size = int.from_bytes(content[heap + 8 : heap + 16], "little")
    assert content[heap + 16 : heap + 18] != b"\0\0"
    for number, claimed in ((b"\0\0", 0), (b"\1\0", 2**64 - 15), (b"\1\0", size), (b"\0\0", size)):
        content[heap + 16 : heap + 18] = number
        content[heap + 24 : heap + 32] = claimed.to_bytes(8, "little")
        path.write_bytes(in_an_archive(files["a.keras"], content) if name == "a.keras" else content)
        with pytest.raises(FileFormatError, match="a string in the file has no plausible size"):
            load(model, path)


def test_an_attribute_of_no_known_type(contents, tmp_path):
    """HDF5 itself crashes on sequences of variable length that are neither strings nor others."""
    model, files = contents
    content, path = bytearray(files["a.h5"]), tmp_path / "a.h5"
    place = content.index(b"\x19\x01\x01\0\x10\0\0\0", content.index(b"model_config\0"))
    content[place + 1] = 5
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="attribute 'model_config': expected text, got"):
        load(model, path)


def in_an_archive(archive, weights):
    """An archive with other weights."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(made, "w") as new:
        for item in old.namelist():
            new.writestr(item, bytes(weights) if item.endswith(".h5") else old.read(item))
    return made.getvalue()


def load(model, path):
    """Read a file as what its name says."""
    if path.name.endswith(".weights.h5"):
        model.load_weights(path)
    else:
        fm.models.load_model(path)


@pytest.mark.parametrize(
    "content", [b"", b"P", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"not a file of Keras" * 100, bytes(4096)]
)
def test_what_is_no_file_of_keras(content, tmp_path):
    for name in ("a.keras", "a.h5", "a.weights.h5"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileFormatError, match=name):
            fm.models.load_model(tmp_path / name)
        with pytest.raises(FileFormatError, match=name):
            model_with_masks().load_weights(tmp_path / name)


def test_deep_nesting(tmp_path):
    deep = '{"class_name":"TimeDistributed","config":{"layer":' * 5000 + "{}" + "}}" * 5000
    for config in (deep, "[" * 100_000):
        with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
            archive.writestr("config.json", config)
            archive.writestr("metadata.json", "{}")
        with pytest.raises(FileFormatError):
            fm.models.load_model(tmp_path / "a.keras")
