"""Weights alone: ``.weights.h5`` and ``.safetensors`` written and read, legacy weight files read."""

from typing import Any

from fastmask.core.errors import reading, require_h5py
from fastmask.core.paths import file_to_read
from fastmask.saving import archive, foreign, h5, legacy, safetensors, tree
from fastmask.saving.atomic import replacing
from fastmask.saving.masks import keras_config
from fastmask.saving.order import of_config, require_built


def save_weights(model: Any, path: Any, overwrite: bool = True) -> None:
    """Write the weights of a model into a ``.weights.h5`` or ``.safetensors`` file.

    The former has the state of the optimizer, too. In the latter, which needs no h5py, the arrays have the paths of the
    weights for names.

    Parameters and errors as for `save_model`, but for the ending.
    """
    path = archive.checked_path(path, (".weights.h5", safetensors.ENDING), overwrite)
    require_built(model)
    if path.name.endswith(safetensors.ENDING):
        safetensors.write_weights(model, path)
        return
    require_h5py()
    with replacing(path) as file:
        file.write(archive.weights_content(model, of_config(model, keras_config(model))))


def load_weights(model: Any, path: Any, skip_mismatch: bool = False) -> None:
    """Fill the weights of a model from a file; the optimizer stays as it is.

    Parameters
    ----------
    model : Sequential or Model
        Built, with the layers in the order of the file.
    path : str or path-like
        A ``.weights.h5``, ``.safetensors`` or ``.keras`` file, or a legacy ``.h5`` with weights or a whole model;
        known by its content. The arrays of a ``.safetensors`` file have the paths of the weights for names; of a model
        with the same layers under other names, in its order, where fastmask wrote the file.
    skip_mismatch : bool, default False
        Whether layers whose arrays do not fit are passed over with a warning.

    Raises
    ------
    FileFormatError
        If the file is malformed or does not fit the model; no weight has changed then.
    MemoryError
        If memory is short; no weight has changed then either.
    ValueError
        If the model is not built.
    ImportError, OSError
        As for `load_model`.
    """
    require_built(model)
    path = file_to_read("path", path)
    with path.open("rb") as file:
        start = file.read(9)
    if safetensors.is_safetensors(start) or path.name.endswith(safetensors.ENDING):
        with reading(path):
            safetensors.read_weights(path, model, skip_mismatch)
        return
    require_h5py()
    with reading(path):
        foreign.refuse(path)
        source = archive.archived_weights(path) if start[:2] == b"PK" else path
        with h5.opened(source) as root:
            read = legacy.read if legacy.is_legacy(root) else tree.read
            read(root, model, skip_mismatch, of_config(model, keras_config(model)))
