"""Numbers, strings and arrays in lists and dicts, from and to ``.npz`` files, without pickle.

The member ``tree`` holds the structure as JSON; in it ``{"__array__": n}`` stands for the member
``array_n``. NumPy's `load` reads such a file, too.
"""

import io
import json
import zipfile
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmask.core.errors import FileFormatError, reading
from fastmask.saving.atomic import replacing
from fastmask.saving.zipped import content_of

Array = NDArray[Any]
_TREE, _REFERENCE = "tree", "__array__"


def write(path: Path, tree: Any) -> None:
    """Write a structure into a file, which takes the place of an older one once it is complete."""
    arrays: dict[str, Array] = {}

    def stored(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
            raise TypeError(f"a backup: expected numbers, strings and arrays of numbers, got {value!r:.80}")
        name = f"array_{len(arrays)}"
        arrays[name] = value
        return {_REFERENCE: name}

    content = json.dumps(tree, default=stored).encode()
    with replacing(path) as file:
        members: dict[str, Any] = {_TREE: np.frombuffer(content, np.uint8), **arrays}
        np.savez(file, **members)


def read(path: Path) -> Any:
    """Return the structure in a file.

    Raises
    ------
    FileFormatError
        If the file is malformed. Nothing in it is run, and no more memory is asked for than the file
        is long.
    FileNotFoundError
    """
    size = path.stat().st_size
    with reading(path), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > size:
            raise FileFormatError(f"its members claim more than the {size} bytes of the file")
        found = {member.filename: _array(content_of(archive, member, size)) for member in members}

        def resolved(value: dict[str, Any]) -> Any:
            return found[f"{value[_REFERENCE]}.npy"] if set(value) == {_REFERENCE} else value

        return json.loads(found[f"{_TREE}.npy"].tobytes(), object_hook=resolved)


def _array(content: bytes) -> Array:
    """Return the array in the content of a ``.npy`` file."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise FileFormatError(f"an array: expected format version 1.0, got {version}")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    rest = memoryview(content)[file.tell() :]
    if dtype.kind not in "biuf" or min(shape, default=0) < 0 or prod(shape) * dtype.itemsize != len(rest):
        raise FileFormatError(f"an array of {dtype} and shape {shape} cannot have {len(rest)} bytes")
    return np.frombuffer(rest, dtype).reshape(shape, order="F" if fortran else "C").copy()
