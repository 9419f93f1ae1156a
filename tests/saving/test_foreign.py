"""What is said of files of other libraries, and of paths that are none."""

import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers
from fastmask.saving import FileFormatError

pytest.importorskip("h5py")


def small():
    return fm.Sequential([fm.Input((3,)), layers.Dense(2)])


def zipped(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")


def safetensors(path):
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


CONTENTS = {
    "a model of ONNX": lambda path: path.write_bytes(b"\x08\x0a\x12\x07pytorch\x1a\x052.0.0:\x00"),
    "a file of PyTorch": lambda path: zipped(path, "model/data.pkl", "model/version", "model/data/0"),
    "a file of PyTorch: ": lambda path: path.write_bytes(pickle.dumps(119547037146038801333356, protocol=2)),
    "weights in the format of safetensors": safetensors,
    "a model of TensorFlow Lite": lambda path: path.write_bytes(b"\x20\0\0\0TFL3" + bytes(8)),
    "arrays of NumPy": lambda path: zipped(path, "a.npy", "b.npy"),
    "arrays of NumPy: ": lambda path: path.write_bytes(b"\x93NUMPY\x01\0"),
}
ENDINGS = {
    "onnx": "a model of ONNX.* load_model",
    "pt": "a file of PyTorch.* fastmask.convert.from_torch.* set_torch_weights",
    "pth": "a file of PyTorch",
    "PT": "a file of PyTorch",
    "safetensors": "weights in the format of safetensors.* load_weights",
    "tflite": "a model of TensorFlow Lite",
}
READERS = {"load_model": fm.models.load_model, "load_weights": lambda path: small().load_weights(path)}


# What is read has errors of its own.
READ = [
    ("load_model", "onnx"), ("load_weights", "safetensors"), ("load_weights", "weights in the format of safetensors")
]


def refused(kinds):
    return pytest.mark.parametrize(
        ("reader", "kind"), [(reader, kind) for reader in READERS for kind in kinds if (reader, kind) not in READ]
    )


@refused(CONTENTS)
def test_files_known_by_their_content(kind, reader, tmp_path):
    path = tmp_path / "model.keras"
    CONTENTS[kind](path)
    with pytest.raises(FileFormatError, match=f"model.keras: expected a file of Keras, got {kind}"):
        READERS[reader](path)


@refused(ENDINGS)
@pytest.mark.parametrize("content", [b"", b"\x08", b"\x0a\x01", b"something else"])
def test_files_known_by_their_name(kind, content, reader, tmp_path):
    path = tmp_path / f"model.{kind}"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=rf"model.{kind}: expected a file of Keras, got {ENDINGS[kind]}"):
        READERS[reader](path)


def test_a_file_of_keras_may_have_any_name(tmp_path):
    model = small()
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    for name, reader in (("m.keras", fm.models.load_model), ("m.weights.h5", model.load_weights)):
        os.replace(tmp_path / name, tmp_path / "m.onnx")
        reader(tmp_path / "m.onnx")


def test_a_folder_of_tensorflow(tmp_path):
    with pytest.raises(IsADirectoryError, match="path: expected a file, got the folder"):
        fm.models.load_model(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(IsADirectoryError, match=r"a SavedModel of TensorFlow: load it with Keras 2"):
        fm.models.load_model(tmp_path)


WRITERS = {"save": ("m.keras", "save"), "save_weights": ("m.weights.h5", "save_weights")}


@pytest.mark.parametrize("writer", WRITERS)
def test_where_no_file_can_be(writer, tmp_path):
    name, method = WRITERS[writer]
    (tmp_path / name).mkdir()
    with pytest.raises(IsADirectoryError, match="path: expected a file, got the folder"):
        getattr(small(), method)(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="path: expected a file in a folder that exists"):
        getattr(small(), method)(tmp_path / "nowhere" / name)


@pytest.mark.parametrize("path", [None, 3, True, ["m.keras"], np.zeros(2)])
def test_paths_that_are_none(path):
    model = small()
    for take in (fm.models.load_model, model.load_weights, model.save, model.save_weights):
        with pytest.raises(TypeError, match="path: expected a str or a path-like object"):
            take(path)
    for name, take in (
        ("filepath", fm.callbacks.ModelCheckpoint),
        ("filename", fm.callbacks.CSVLogger),
        ("backup_dir", fm.callbacks.BackupAndRestore),
    ):
        with pytest.raises(TypeError, match=f"{name}: expected a str or a path-like object"):
            take(path)


def test_empty_paths():
    model = small()
    for take in (fm.models.load_model, model.load_weights, model.save, model.save_weights):
        with pytest.raises(ValueError, match="path: expected the name of a file"):
            take("")


class Named:
    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return os.fspath(self.path)


@pytest.mark.parametrize("form", [str, Path, Named, os.fsencode])
def test_forms_of_paths(form, tmp_path):
    model, other = small(), small()
    path, weights = form(tmp_path / "m.keras"), form(tmp_path / "m.weights.h5")
    model.save(path)
    model.save_weights(weights)
    other.load_weights(weights)
    for loaded in (fm.models.load_model(path), other):
        np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])
    model.compile("sgd", "mse")
    callbacks = [
        fm.callbacks.ModelCheckpoint(form(tmp_path / "best.keras")),
        fm.callbacks.CSVLogger(form(tmp_path / "log.csv")),
        fm.callbacks.BackupAndRestore(form(tmp_path / "backup")),
    ]
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0, callbacks=callbacks)
    assert (tmp_path / "best.keras").exists()
    assert (tmp_path / "log.csv").exists()


def test_a_backup_needs_a_folder(tmp_path):
    (tmp_path / "backup").write_text("")
    with pytest.raises(NotADirectoryError, match="backup_dir: expected a folder, got the file"):
        fm.callbacks.BackupAndRestore(tmp_path / "backup")


@pytest.mark.parametrize("letter", ["a", "\N{LATIN SMALL LETTER A WITH DIAERESIS}", "\N{SMILING FACE WITH SUNGLASSES}"])
def test_names_as_long_as_file_systems_allow(letter, tmp_path):
    model, count = small(), (255 - len(".weights.h5")) // len(letter.encode())
    longest = os.pathconf(tmp_path, "PC_NAME_MAX") if hasattr(os, "pathconf") else 0
    if longest < 255:
        pytest.skip("names of 255 bytes are too long here")
    for ending, save, load in (
        (".keras", model.save, fm.models.load_model),
        (".weights.h5", model.save_weights, model.load_weights),
    ):
        path = tmp_path / f"{letter * count}{ending}"
        for _ in range(2):
            save(path)
        load(path)
    assert len(list(tmp_path.iterdir())) == 2
