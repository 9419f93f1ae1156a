"""Whole models in files: ``.keras`` archives, read and written, and legacy ``.h5``, read."""

import io
import json
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from fastmask import layers
from fastmask.core import budget
from fastmask.core.errors import FileFormatError, reading, require_h5py
from fastmask.core.paths import file_to_read, file_to_write
from fastmask.saving import compiled, configs, foreign, h5, legacy, tree
from fastmask.saving.atomic import replacing
from fastmask.saving.masks import keras_config
from fastmask.saving.order import Orders, of_config, require_built
from fastmask.saving.zipped import content_of

KERAS_VERSION = "3.15.1"  # the Keras in whose format models are written
_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
# Keras does not compress its archives, but others may: then text is at most this many times as long as the file, and a
# little more. What claims to be longer is refused, since the objects read from it take 24 times as much memory.
_TEXT_EXPANSION, _SPARE_TEXT = 10, 1 << 16
Classes = Mapping[str, Any] | None


def load_model(path: Any, custom_objects: Classes = None, compile: bool = True) -> Any:
    """Return the model in a file that Keras or fastmask saved.

    Parameters
    ----------
    path : str, bytes or path-like
        A ``.keras`` archive of Keras 2.12 or later, or a whole-model ``.h5`` of any Keras; known by
        its content. A name that ends in ``.onnx`` is read by `fastmask.convert.from_onnx`.
    custom_objects : mapping of str to class or function, optional
        Your own layers, losses, metrics and optimizers by name.
    compile : bool, default True
        Whether to compile the model as it was, and go on with the state of its optimizer.

    Returns
    -------
    Sequential or Model

    Raises
    ------
    FileFormatError
        If the file is malformed, asks for much more memory than its size, or holds what fastmask has no
        counterpart of, by name; or if it is a file of another library, with what to do with it.
    MemoryError
        If memory is short.
    ImportError
        If h5py is missing (``pip install "fastmask[keras]"``).
    FileNotFoundError, IsADirectoryError

    Notes
    -----
    Reading runs no code of the file: class names are looked up in fastmask and `custom_objects`
    alone. Masks that layers make are not read but computed again; the mask of a call with an
    `initial_state` counts, as in Keras 2, though Keras 3 passes it over. A mask that was
    passed to a call stays. A `hard_sigmoid` is that of the Keras that wrote
    the file. A GRU of a file that does not say has ``reset_after=False``.

    What layers do to masks is what they did in the Keras that wrote the file: merging layers get their
    `mask_mode`, `Bidirectional` of Keras 1 and 2 its `zero_output_for_mask`, and where the Keras 2 of
    TensorFlow let a mask go without a word, before `GlobalMaxPooling1D`, `Flatten` and `Reshape`, there is a
    `DropMask`.
    """
    path = file_to_read("path", path)
    with path.open("rb") as file:
        start = file.read(4)
    if path.suffix == ".onnx" and start[:2] != b"PK" and start != b"\x89HDF":
        # By name, since what converts models stands above all that saves them.
        return import_module("fastmask.convert").from_onnx(path)
    require_h5py()
    with reading(path), budget.placeholders(h5.allowance(path.stat().st_size)):
        foreign.refuse(path)
        if start[:2] == b"PK":
            return _load_archive(path, custom_objects, compile)
        return _load_legacy(path, custom_objects, compile)


def save_model(model: Any, path: Any, overwrite: bool = True) -> None:
    """Write a model into a ``.keras`` file, which Keras 3 opens, too.

    A model with the activation ``hard_sigmoid_keras2``, a `DropMask`, or masks joined or shown by rules that
    Keras 3 has not (`mask_mode`, `zero_output_for_mask`), opens in fastmask only.

    The file holds the architecture, the weights, and if the model is compiled, its optimizer with
    its state, losses and metrics. It replaces an older file only once it is complete.

    Parameters
    ----------
    model : Sequential or Model
        Built.
    path : str or path-like
        Ends in ``.keras``.
    overwrite : bool, default True

    Raises
    ------
    ValueError
        If the name ends in something else, or the model is not built.
    FileExistsError
        If there is such a file and `overwrite` is False.
    IsADirectoryError, FileNotFoundError
        If it is a folder, or in a folder that is not there.
    """
    file_path = checked_path(path, (".keras",), overwrite)
    require_h5py()
    require_built(model)
    config = _config_of(model)
    orders = of_config(model, config)
    metadata = {"keras_version": KERAS_VERSION, "date_saved": f"{datetime.now(UTC):%Y-%m-%d@%H:%M:%S}"}
    with replacing(file_path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_METADATA, json.dumps(metadata))
        archive.writestr(_CONFIG, json.dumps(config))
        archive.writestr(_WEIGHTS, weights_content(model, orders))


def to_json(model: Any, **options: Any) -> str:
    """Return the architecture of a model, and what it was compiled with, as Keras writes them; see `Model.to_json`."""
    return json.dumps(_config_of(model), **options)


def model_from_json(json_string: str, custom_objects: Classes = None) -> Any:
    """Return a model with new weights, made from what `to_json` of a model returned, in fastmask or in any Keras.

    Parameters
    ----------
    json_string : str
    custom_objects : mapping of str to class or function, optional
        Your own layers, losses, metrics and optimizers by name.

    Returns
    -------
    Sequential or Model
        Compiled as the other was.

    Raises
    ------
    FileFormatError
        If it is malformed, or holds what fastmask has no counterpart of, by name.
    """
    with reading("json_string"):
        config = _json(json_string, "the model")
        version = str(config.get("keras_version") or KERAS_VERSION)
        model, _ = _made(config, version, custom_objects)
        if config.get("compile_config"):
            compiled.compile_model(model, _object(config["compile_config"], "compile_config"), custom_objects)
    return model


def _config_of(model: Any) -> dict[str, Any]:
    """Return all of a model but weights and state, as Keras writes it."""
    config = keras_config(model) if model.built else layers.serialize(model)
    config |= {"build_config": {"input_shape": getattr(model, "input_shape", None)}}
    found = compiled.compile_config(model)
    return config if found is None else config | {"compile_config": found}


def weights_content(model: Any, orders: Orders) -> bytes:
    """Return the content of a ``.weights.h5`` file."""
    buffer = io.BytesIO()
    with require_h5py().File(buffer, "w") as root:
        tree.write(root, model, orders)
        if model.optimizer is not None:
            compiled.write_state(root, model, orders)
    return buffer.getvalue()


def checked_path(path: Any, endings: tuple[str, ...], overwrite: bool) -> Path:
    """Return a path to write to; ValueError, TypeError or OSError if it may not be."""
    found = file_to_write("path", path)
    if not found.name.endswith(endings):
        raise ValueError(f"path: expected one that ends in {' or '.join(map(repr, endings))}, got {str(path)!r}")
    if found.exists() and not overwrite:
        raise FileExistsError(f"path: expected one that does not exist with overwrite=False, got {str(path)!r}")
    return found


def archived_weights(path: Path) -> io.BytesIO:
    """Return the weights file in a ``.keras`` archive."""
    with zipfile.ZipFile(path) as archive:
        return io.BytesIO(content_of(archive, archive.getinfo(_WEIGHTS), h5.allowance(path.stat().st_size)))


def _load_archive(path: Path, custom_objects: Classes, compile: bool) -> Any:
    limit = _TEXT_EXPANSION * path.stat().st_size + _SPARE_TEXT
    with zipfile.ZipFile(path) as archive:
        config, metadata = (
            _json(content_of(archive, archive.getinfo(name), limit), name) for name in (_CONFIG, _METADATA)
        )
    version = str(metadata.get("keras_version") or KERAS_VERSION)
    model, orders = _build(config, version, custom_objects)
    with h5.opened(archived_weights(path)) as root:
        tree.read(root, model, orders=orders)
        if compile and config.get("compile_config"):
            compiled.compile_model(model, _object(config["compile_config"], "compile_config"), custom_objects)
            group = h5.find(root, "optimizer/vars")
            if group is not None:
                arrays = [h5.dataset(group, str(i)) for i in range(len(group))]
                compiled.restore(model, arrays, orders)
    return model


def _load_legacy(path: Path, custom_objects: Classes, compile: bool) -> Any:
    with h5.opened(path) as root:
        config = h5.text(root, "model_config")
        if config is None:
            hint = "; it holds weights alone, for load_weights of a model" if h5.find(root, "layers") else ""
            raise FileFormatError(f"there is no model_config in the file{hint}")
        version = legacy.version_of(root)
        model, orders = _build(_json(config, "model_config"), version, custom_objects)
        legacy.read(root, model, orders=orders)
        training = h5.text(root, "training_config")
        if compile and training:
            compiled.compile_model(model, _json(training, "training_config"), custom_objects)
            arrays, blocks = legacy.optimizer_arrays(root)
            compiled.restore(model, arrays, orders, blocks)
    return model


def _build(config: Any, version: str, custom_objects: Classes) -> tuple[Any, Orders]:
    """Return a built model and the order of its layers; its weights are zeros."""
    model, found = _made(config, version, custom_objects)
    if not model.built:
        raise FileFormatError("the file does not say the shape of the model's input")
    return model, of_config(model, found)


def _made(config: Any, version: str, custom_objects: Classes) -> tuple[Any, Mapping[str, Any]]:
    """Return a model, built if the shape of its input is known, and its config in the form of today."""
    found = configs.modern(config, version, custom_objects)
    if not configs.is_model(found["class_name"], custom_objects):
        raise FileFormatError(f"expected a model, got a {found['class_name']}")
    model = layers.deserialize(found, custom_objects)
    shape = _build_shape(config)
    if shape and not model.built:
        model.build(shape)
    return model, found


def _build_shape(config: Mapping[str, Any]) -> Any:
    inner, around = config["config"], config.get("build_config") or {}
    own = inner.get("build_input_shape") if isinstance(inner, Mapping) else None
    return own or around.get("input_shape")


def _json(content: bytes | str, name: str) -> Mapping[str, Any]:
    return _object(json.loads(content), name)


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise FileFormatError(f"{name}: expected an object, got {str(value)[:80]}")
    return value
