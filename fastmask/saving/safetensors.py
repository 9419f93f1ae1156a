"""Arrays and weights in ``.safetensors`` files, which need no package besides NumPy.

A file is eight bytes with the length of its header, the header, which is an object of JSON, and the arrays one behind
the other without a gap: https://github.com/huggingface/safetensors. They are read here because that package gives NumPy
no bfloat16, and ends the process where the memory for a header is not there.
"""

import json
import os
from collections.abc import Iterable, Mapping
from functools import partial
from math import prod
from pathlib import Path
from reprlib import repr
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmask.core.errors import FileFormatError
from fastmask.layers import Variable
from fastmask.saving import h5, tree
from fastmask.saving.atomic import replacing

ENDING = ".safetensors"

Array = NDArray[Any]
Named = list[tuple[str, list[tuple[str, Variable]]]]

_METADATA, _FORMAT, _VERSION = "__metadata__", "fastmask", "1"
_BFLOAT16 = "BF16"
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", _BFLOAT16: "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_CODES = {text: code for code, text in _DTYPES.items() if code != _BFLOAT16}
_PREFIX = 8  # bytes before the header, to a multiple of which it is filled up
_LONGEST_HEADER = 100_000_000  # as for the package
_MOST_AXES = 32  # of an array of NumPy 1


class Stored(NamedTuple):
    """An array of a file: its dtype as the format calls it, and the bytes from `start` up to `stop` of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def is_safetensors(start: bytes) -> bool:
    """Return whether a file that begins with these nine bytes can be one."""
    return start[_PREFIX:] == b"{"


def read(path: Path) -> dict[str, Array]:
    """Return all arrays of a file, bfloat16 as float32; errors as for `load_weights`."""
    with path.open("rb") as file:
        return {name: _array(file, name, stored) for name, stored in _header(file)[0].items()}


def write(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write arrays of numbers into a file, which takes the place of an older one once it is complete."""
    entries: dict[str, Any] = {_METADATA: dict(metadata)}
    # Large numbers first, so that each stands at a multiple of its size.
    order = sorted(arrays, key=lambda name: -arrays[name].itemsize)
    ends = np.cumsum([arrays[name].nbytes for name in order], dtype=np.int64).tolist()
    offsets = dict(zip(order, zip([0, *ends], ends, strict=False), strict=True))
    for name, array in arrays.items():
        code = _CODES[array.dtype.newbyteorder("<").str]
        entries[name] = {"dtype": code, "shape": array.shape, "data_offsets": offsets[name]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _PREFIX)
    with replacing(path) as file:
        file.write(len(header).to_bytes(_PREFIX, "little") + header)
        for name in order:
            array = arrays[name]
            file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())


def write_weights(model: Any, path: Path) -> None:
    """Write the weights of a built model under their paths, in whose order other models can read them."""
    arrays = {name: variable.value for _, layer in _named(model) for name, variable in layer}
    write(path, arrays, {"format": _FORMAT, "version": _VERSION, "order": json.dumps(list(arrays))})


def read_weights(path: Path, model: Any, skip_mismatch: bool) -> None:
    """Fill the weights of a built model, or none if one does not fit; see `load_weights`."""
    with path.open("rb") as file:
        stored, metadata = _header(file)
        own = metadata.get("format") == _FORMAT
        if own and metadata.get("version") != _VERSION:
            raise FileFormatError(f"version: expected {_VERSION!r}, got {metadata.get('version')!r}")
        wanted = _named(model)
        renamed = _by_position(wanted, json.loads(metadata["order"])) if own else {}
        others = _others(stored, [renamed.get(name, name) for _, layer in wanted for name, _ in layer])

        def values(layer: list[tuple[str, Variable]]) -> list[tuple[Variable, Array]]:
            more = [name for place, _ in layer for name in others.get(_folder(renamed.get(place, place)), ())]
            if more:
                raise FileFormatError(f"{more[0]}: expected no such weights in the file")
            return [_value(file, stored, renamed.get(name, name), variable) for name, variable in layer]

        h5.fill_each([(name, partial(values, layer)) for name, layer in wanted], skip_mismatch)


def _named(model: Any) -> Named:
    """Return the name of each layer with weights, and these under names of which none comes twice."""
    found: Named = []
    taken: set[str] = set()
    for entry in tree.entries(model):
        named = []
        for variable in entry.variables:
            name, number = variable.path, 1
            while name in taken:
                name, number = f"{variable.path}_{number}", number + 1
            taken.add(name)
            named.append((name, variable))
        found += [(entry.name, named)] * bool(named)
    return found


def _by_position(wanted: Named, names: list[str]) -> dict[str, str]:
    """Return the names in a file whose model had the same layers under others, as a second one has by default."""
    mine = [name for _, layer in wanted for name, _ in layer]
    if set(mine) <= set(names) or [_last(name) for name in mine] != [_last(name) for name in names]:
        return {}
    return dict(zip(mine, names, strict=True))


def _others(names: Iterable[str], wanted: Iterable[str]) -> dict[str, list[str]]:
    """Return those names in a file that are not wanted, by what stands before their last parts."""
    known = set(wanted)
    found: dict[str, list[str]] = {}
    for name in names:
        if name not in known:
            found.setdefault(_folder(name), []).append(name)
    return found


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _value(file: Any, stored: Mapping[str, Stored], name: str, variable: Variable) -> tuple[Variable, Array]:
    found = stored.get(name)
    if found is None:
        there = ", ".join(stored)[:200] or "none"
        raise FileFormatError(f"{name}: expected such weights in the file, got {there}{_hint(stored)}")
    if found.shape != variable.shape:
        raise FileFormatError(f"{name}: expected shape {variable.shape}, got {found.shape}")
    return variable, h5.fitting(variable, _array(file, name, found), name)


def _hint(names: Iterable[str]) -> str:
    foreign = any(name.endswith((".weight", "weight_ih_l0")) for name in names)
    return "; layers take those of PyTorch by set_torch_weights" if foreign else ""


def _array(file: Any, name: str, stored: Stored) -> Array:
    if stored.dtype not in _DTYPES:
        raise FileFormatError(f"{name}: expected real numbers, got {stored.dtype}")
    values = np.empty(stored.shape, _DTYPES[stored.dtype])
    file.seek(stored.start)
    if file.readinto(values.reshape(-1).view(np.uint8)) != values.nbytes:
        raise FileFormatError(f"{name}: expected {values.nbytes} bytes, but the file has become shorter")
    return h5.from_bfloat16(values) if stored.dtype == _BFLOAT16 else values.astype(values.dtype.newbyteorder("="))


def _header(file: Any) -> tuple[dict[str, Stored], dict[str, str]]:
    """Return the arrays of an open file by name, and its metadata, once they are known to be as long as it is."""
    size = os.fstat(file.fileno()).st_size
    start = _PREFIX + int.from_bytes(file.read(_PREFIX), "little")
    if not _PREFIX < start <= min(size, _PREFIX + _LONGEST_HEADER):
        raise FileFormatError(f"the header: expected one within the {size} bytes of the file, got {start - _PREFIX}")
    content = json.loads(file.read(start - _PREFIX).decode("utf-8"), object_pairs_hook=_distinct)
    if not isinstance(content, dict):
        raise FileFormatError(f"the header: expected an object, got {type(content).__name__}")
    metadata = content.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FileFormatError(f"{_METADATA}: expected an object of strings, got {repr(metadata)}")
    stored = {name: _entry(name, entry, start) for name, entry in content.items()}
    end = start
    for name, entry in sorted(stored.items(), key=lambda item: item[1][2:]):
        if entry.start != end:
            raise FileFormatError(f"{name}: expected data from byte {end} of the file on, got {entry.start}")
        end = entry.stop
    if end != size:
        raise FileFormatError(f"the arrays: expected them to end with the file, at byte {size}, got {end}")
    return stored, metadata


def _entry(name: str, entry: Any, start: int) -> Stored:
    given = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = given.get("dtype"), _sizes(given.get("shape")), _sizes(given.get("data_offsets"))
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise FileFormatError(f"{name}: expected a dtype, a shape and two offsets, got {repr(entry)}")
    length = offsets[1] - offsets[0]
    claimed = prod(shape) * np.dtype(_DTYPES[dtype]).itemsize if dtype in _DTYPES else length
    if length < 0 or length != claimed:
        raise FileFormatError(f"{name}: expected {claimed} bytes for {dtype} of shape {shape}, got {length}")
    return Stored(dtype, shape, start + offsets[0], start + offsets[1])


def _sizes(value: Any) -> tuple[int, ...] | None:
    """Return a list of a few numbers from 0 on as a tuple, None if it is none."""
    few = isinstance(value, list) and len(value) <= _MOST_AXES
    return tuple(value) if few and all(type(number) is int and number >= 0 for number in value) else None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise FileFormatError("the header: expected every name once, got one twice")
    return found
