"""HDF5 read with suspicion: only hard links, only plain arrays, nothing larger than expected."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from math import prod
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmask.core.errors import FileFormatError, require_h5py
from fastmask.layers.base.variable import Variable, fill

Array = NDArray[Any]

# Arrays may be stored compressed, but hardly by more than this; a file that claims more is refused.
LARGEST_EXPANSION = 100
_SPARE_BYTES = 1 << 22
# HDF5 unpacks a chunk by turns into two buffers, each up to half as large again as the chunk, beside the packed bytes.
_BUFFERS = 4
# A collection of strings in the file: signature, version 1, three zeros (HDF5 File Format Specification, III.E).
_HEAP = b"GCOL\x01\0\0\0"


def allowance(file_size: int) -> int:
    """Return how many bytes of weights, and of layers and metrics around them, a file of a size may hold."""
    return LARGEST_EXPANSION * file_size + _SPARE_BYTES


@contextmanager
def opened(source: Path | BytesIO) -> Iterator[Any]:
    """Open a file for reading; FileFormatError if HDF5 would read it for ever."""
    with require_h5py().File(source, "r") as root:
        length = root.id.get_create_plist().get_sizes()[1]
        if isinstance(source, BytesIO):
            _check_heaps(source.getvalue(), length)
        else:
            with source.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
                _check_heaps(content, length)
        yield root


def _check_heaps(content: bytes | mmap, length: int) -> None:
    """Walk through all collections of strings as HDF5 does, which goes nowhere from an object of size 0.

    length : bytes in which the file stores sizes.
    """
    header = -(-(8 + length) // 8) * 8
    start = content.find(_HEAP)
    while start >= 0:
        end = start + int.from_bytes(content[start + 8 : start + 8 + length], "little")
        place = start + header
        while place + header <= min(end, len(content)):
            size = int.from_bytes(content[place + 8 : place + 8 + length], "little")
            # The object with number 0 is free space, whose size includes its header.
            used = content[place : place + 2] != b"\0\0"
            step = header + -(-size // 8) * 8 if used else size
            if not header <= step <= end - place:
                raise FileFormatError("a string in the file has no plausible size")
            place += step
        start = content.find(_HEAP, start + 1)


def find(group: Any, path: str) -> Any:
    """Return the member of a group at a path, or None; FileFormatError for a link that is not hard."""
    h5py = require_h5py()
    found = group
    for name in filter(None, path.split("/")):
        if not isinstance(found, h5py.Group) or name == "." or name not in found:
            return None
        if not isinstance(found.get(name, getlink=True), h5py.HardLink):
            raise FileFormatError(f"{path!r}: expected what is stored in the file itself, got a link")
        found = found[name]
    return found


def subgroup(group: Any, path: str) -> Any:
    """Return the group at a path; FileFormatError if there is none."""
    found = find(group, path)
    if not isinstance(found, require_h5py().Group):
        raise FileFormatError(f"there is no group {path!r} in {group.name!r}")
    return found


def dataset(group: Any, path: str) -> Any:
    """Return the dataset at a path, not read yet; FileFormatError if there is no plain one."""
    found = find(group, path)
    if not isinstance(found, require_h5py().Dataset):
        raise FileFormatError(f"there is no array {path!r} in {group.name!r}")
    if found.is_virtual or found.external:
        raise FileFormatError(f"array {path!r}: expected one that is stored in the file itself, got one from elsewhere")
    if found.shape is None or (found.chunks and np.greater(found.chunks, found.shape).any()):
        raise FileFormatError(f"array {path!r} has no regular shape")
    return found


def read(stored: Any, shape: tuple[int, ...], what: str) -> Array:
    """Return the values of a dataset, whose shape is checked before anything is read.

    Raises
    ------
    FileFormatError
        If it has another shape or holds no numbers.
    MemoryError
        If memory is short.
    """
    if stored.shape != shape:
        raise FileFormatError(f"{what}: expected shape {shape}, got {stored.shape}")
    dtype = stored.dtype
    bfloat = dtype.kind == "V" and dtype.itemsize == 2 and text(stored, "dtype") == "bfloat16"
    if not (bfloat or (dtype.kind in "fiub" and dtype.itemsize <= 16)):
        raise FileFormatError(f"{what}: expected real numbers, got {dtype}")
    try:
        values: Array = np.asarray(stored[()])
    except OSError:
        _require_room(stored)
        raise
    return from_bfloat16(values.view(np.uint16)) if bfloat else values


def from_bfloat16(bits: Array) -> Array:
    """Return numbers of bfloat16, whose bits are given as uint16, in float32."""
    wide: Array = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return wide


def _require_room(stored: Any) -> None:
    """Raise MemoryError if there is no room for what HDF5 needs to unpack a part of a dataset: it does not say so."""
    part = prod(stored.chunks or ()) * stored.dtype.itemsize
    np.empty(_BUFFERS * part, np.uint8)


def fitting(variable: Variable, values: Array, what: str) -> Array:
    """Return values as an array that a variable may be filled with; FileFormatError if they do not fit."""
    try:
        return variable.checked(values, what)
    except (TypeError, ValueError) as error:
        raise FileFormatError(str(error)) from error


def read_for(variable: Variable, stored: Any, what: str) -> tuple[Variable, Array]:
    """Return a variable and the values of a dataset that it may be filled with; errors as in `read` and `fitting`."""
    return variable, fitting(variable, read(stored, variable.shape, what), what)


def fill_each(readers: Iterable[tuple[str, Callable[[], list[tuple[Variable, Array]]]]], skip_mismatch: bool) -> None:
    """Fill variables with what a function for each layer of a name returns, or none if one does not fit.

    Raises
    ------
    FileFormatError
        If that of a layer does; with `skip_mismatch` a warning, and the weights of that layer stay.
    """
    found: list[tuple[Variable, Array]] = []
    for name, values in readers:
        try:
            found += values()
        except FileFormatError as error:
            if not skip_mismatch:
                raise
            warnings.warn(f"weights of {name!r} are left as they are: {error}", stacklevel=6)
    fill(found)


def text(holder: Any, name: str) -> str | None:
    """Return an attribute that is a string, or None if there is none."""
    value = _attribute(holder, name)
    if value is None:
        return None
    if isinstance(value, np.ndarray) and value.shape == ():
        value = value[()]
    return _decoded(value, name)


def strings(group: Any, name: str) -> list[str]:
    """Return an attribute that is a list of strings, or was cut into several; [] if there is none."""
    whole = _attribute(group, name)
    if whole is not None:
        return [_decoded(value, name) for value in np.atleast_1d(whole)]
    found: list[str] = []
    for number in range(len(group.attrs)):
        part = _attribute(group, f"{name}{number}")
        if part is None:
            break
        found += [_decoded(value, name) for value in np.atleast_1d(part)]
    return found


def _attribute(holder: Any, name: str) -> Any:
    if name not in holder.attrs:
        return None
    stored = holder.attrs.get_id(name)
    kind = stored.get_type()
    size = 0 if stored.shape is None else prod(stored.shape) * kind.get_size()
    if size > holder.file.id.get_filesize():
        raise FileFormatError(f"attribute {name!r} is larger than the file")
    if size == 0:  # Keras stores [] as floats
        return np.empty(0)
    # HDF5 crashes on some types that it cannot convert.
    if not isinstance(kind, require_h5py().h5t.TypeStringID):
        raise FileFormatError(f"attribute {name!r}: expected text, got {type(kind).__name__}")
    return holder.attrs[name]


def _decoded(value: Any, name: str) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if not isinstance(value, str):
        raise FileFormatError(f"attribute {name!r}: expected text, got {type(value).__name__}")
    return str(value)
