"""Names of files as users give them."""

import os
from pathlib import Path
from typing import Any


def path_text(name: str, value: Any) -> str:
    """Return a path as a string; TypeError or ValueError with the name of the argument if it is none."""
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise TypeError(f"{name}: expected a str or a path-like object, got {value!r:.80}")
    text = os.fsdecode(value)
    if not text:
        raise ValueError(f"{name}: expected the name of a file or a folder, got an empty one")
    return text


def file_to_read(name: str, value: Any) -> Path:
    """Return the path of a file; IsADirectoryError if there is a folder."""
    path = Path(path_text(name, value))
    if path.is_dir():
        hint = ""
        if (path / "saved_model.pb").exists():
            hint = ", a SavedModel of TensorFlow: load it with Keras 2 (tf_keras) and save it into a .keras file"
        raise IsADirectoryError(f"{name}: expected a file, got the folder {str(path)!r}{hint}")
    return path


def file_to_write(name: str, value: Any) -> Path:
    """Return the path of a file; IsADirectoryError or FileNotFoundError if none can be there."""
    path = Path(path_text(name, value))
    if path.is_dir():
        raise IsADirectoryError(f"{name}: expected a file, got the folder {str(path)!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{name}: expected a file in a folder that exists, got {str(path)!r}")
    return path
