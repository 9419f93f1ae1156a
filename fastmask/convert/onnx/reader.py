"""ONNX files as graphs: everything is checked here, and nothing outside the folder of the file is read."""

from __future__ import annotations

from math import prod
from os import PathLike, fspath
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fastmask.convert.onnx.graph import Array, Graph, Node, Value
from fastmask.core.errors import FileFormatError

# Fields of other types than these (strings, complex numbers, floats of 4 and 8 bits) have no counterpart in NumPy or
# in the operators.
_KINDS = "fiub"
_OWN_DOMAINS = ("", "ai.onnx")


def require_onnx() -> ModuleType:
    """Return the package ``onnx``; ImportError that names the extra if it is not installed."""
    try:
        import onnx
    except ImportError as error:
        raise ImportError('ONNX files need onnx: install it with `pip install "fastmask[onnx]"`') from error
    module: ModuleType = onnx
    return module


def read(source: Any) -> tuple[Graph, int]:
    """Return the graph of a model, and the number of bytes that the file and its data beside it have.

    Parameters
    ----------
    source : str, path-like, bytes or onnx.ModelProto

    Raises
    ------
    FileFormatError
        If it is no ONNX model, or one that contradicts itself.
    """
    onnx = require_onnx()
    folder = None
    if isinstance(source, onnx.ModelProto):
        model, size = source, source.ByteSize()
    else:
        if isinstance(source, (str, PathLike)):
            path = Path(fspath(source))
            folder, source = path.parent, path.read_bytes()
        content = bytes(source)
        model, size = _parsed(onnx, content), len(content)
    if not model.HasField("graph"):
        raise FileFormatError("the file: expected an ONNX model with a graph, got none")
    if model.functions:
        raise FileFormatError(f"function {model.functions[0].name!r}: expected a model without functions of its own")
    reader = _Reader(onnx, {entry.domain: entry.version for entry in model.opset_import}, folder)
    graph = reader.graph(model.graph, frozenset())
    if not graph.outputs:
        raise FileFormatError("the file: expected a graph with outputs, got none")
    return graph, size + reader.outside


def _parsed(onnx: ModuleType, content: bytes) -> Any:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception as error:  # protobuf has had several classes for it
        raise FileFormatError(f"the file: expected an ONNX model, got {type(error).__name__}: {error}") from error
    return model


class _Reader:
    def __init__(self, onnx: ModuleType, versions: dict[str, int], folder: Path | None) -> None:
        self.onnx, self.versions, self.folder = onnx, versions, folder
        self.outside = 0
        self._contents: dict[Path, bytes] = {}
        self._types: dict[int, str] = {number: name for name, number in onnx.AttributeProto.AttributeType.items()}

    def graph(self, proto: Any, outer: frozenset[str]) -> Graph:
        """Return a graph, whose nodes may read the values `outer` too."""
        if proto.sparse_initializer:
            raise FileFormatError("sparse_initializer: expected dense arrays, got sparse ones")
        constants = {tensor.name: self.array(tensor) for tensor in proto.initializer}
        inputs = [self._value(entry) for entry in proto.input if entry.name not in constants]
        known = {*outer, *constants, *(value.name for value in inputs)}
        made = {*constants, *(value.name for value in inputs)}
        trainable = {name for name, array in constants.items() if array.dtype.kind == "f" and array.size > 1}
        result = Graph(inputs, [self._value(entry) for entry in proto.output], constants, [], trainable)
        for number, entry in enumerate(proto.node):
            node = self._node(entry, number, frozenset(known))
            missing = next((name for name in node.inputs if name and name not in known), None)
            if missing is not None:
                raise FileFormatError(
                    f"{node}: expected inputs that come from nodes before it, got {missing!r}, which does not"
                )
            twice = next((name for name in node.outputs if name and name in made), None)
            if twice is not None:
                raise FileFormatError(f"{node}: expected names of its own for its outputs, got {twice!r} again")
            made.update(node.outputs)
            known.update(node.outputs)
            if node.op == "Constant":
                constants[node.outputs[0]] = self._constant(node)
            else:
                result.nodes.append(node)
        lost = next((value.name for value in result.outputs if value.name not in known), None)
        if lost is not None:
            raise FileFormatError(f"output {lost!r}: expected one that a node makes, got none")
        return result

    def _node(self, proto: Any, number: int, known: frozenset[str]) -> Node:
        own = proto.domain in _OWN_DOMAINS
        op = proto.op_type if own else f"{proto.domain}.{proto.op_type}"
        version = self.versions.get("", self.versions.get("ai.onnx", 0)) if own else self.versions.get(proto.domain, 0)
        name = proto.name or (proto.output[0] if proto.output else str(number))
        attributes = {entry.name: self._attribute(entry, known) for entry in proto.attribute}
        return Node(op, list(proto.input), list(proto.output), attributes, version, name)

    def _attribute(self, proto: Any, known: frozenset[str]) -> Any:
        kind = self._types.get(proto.type)
        if kind == "GRAPH":
            return self.graph(proto.g, known)
        if kind == "TENSOR":
            return self.array(proto.t)
        if kind in ("FLOAT", "INT"):
            return proto.f if kind == "FLOAT" else proto.i
        if kind in ("FLOATS", "INTS"):
            return list(proto.floats if kind == "FLOATS" else proto.ints)
        if kind == "STRING":
            return proto.s.decode()
        if kind == "STRINGS":
            return [entry.decode() for entry in proto.strings]
        raise FileFormatError(f"attribute {proto.name!r}: expected numbers, text, a tensor or a graph, got {kind}")

    def _constant(self, node: Node) -> Array:
        for name, dtype in (("value", None), ("value_float", "f4"), ("value_floats", "f4"), ("value_int", "i8")):
            if name in node.attributes:
                return np.asarray(node.attributes[name], dtype)
        if "value_ints" in node.attributes:
            return np.asarray(node.attributes["value_ints"], np.int64)
        raise FileFormatError(f"{node}: expected numbers, got {', '.join(node.attributes) or 'nothing'}")

    def _value(self, proto: Any) -> Value:
        tensor = proto.type.tensor_type
        if not proto.type.HasField("tensor_type"):
            return Value(proto.name)
        axes: tuple[int | str | None, ...] | None = None
        if tensor.HasField("shape"):
            axes = tuple([d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim])
        return Value(proto.name, self._dtype(tensor.elem_type, proto.name) if tensor.elem_type else None, axes)

    def _dtype(self, number: int, name: str) -> np.dtype[Any]:
        try:
            dtype = np.dtype(self.onnx.helper.tensor_dtype_to_np_dtype(number))
        except KeyError:
            raise FileFormatError(f"tensor {name!r}: expected a type of numbers, got type {number}") from None
        if dtype.kind not in _KINDS or not dtype.isbuiltin:
            raise FileFormatError(f"tensor {name!r}: expected real numbers or bool of NumPy's types, got {dtype}")
        found: np.dtype[Any] = dtype
        return found

    def array(self, proto: Any) -> Array:
        """Return the array of a tensor, whose claimed shape must be that of the numbers there are."""
        dtype, shape = self._dtype(proto.data_type, proto.name), tuple(proto.dims)
        if min(shape, default=0) < 0:
            raise FileFormatError(f"tensor {proto.name!r}: expected a shape, got {shape}")
        size = prod(shape)
        if proto.data_location == self.onnx.TensorProto.EXTERNAL:
            content = self._external(proto, size * dtype.itemsize)
        elif proto.HasField("raw_data"):
            content = proto.raw_data
        else:
            found: Array = self.onnx.numpy_helper.to_array(proto)
            return found
        if len(content) != size * dtype.itemsize:
            raise FileFormatError(
                f"tensor {proto.name!r}: expected {size * dtype.itemsize} bytes for shape {shape}, got {len(content)}"
            )
        # Files are little-endian.
        return np.frombuffer(content, dtype.newbyteorder("<")).astype(dtype).reshape(shape)

    def _external(self, proto: Any, size: int) -> bytes:
        """Return the bytes of a tensor that stand in a file in the model's folder."""
        entries = {entry.key: entry.value for entry in proto.external_data}
        location = entries.get("location", "")
        if self.folder is None:
            raise FileFormatError(f"tensor {proto.name!r}: expected data within bytes, got data in file {location!r}")
        folder = self.folder.resolve()
        path = (folder / location).resolve()
        if not location or not path.is_relative_to(folder) or not path.is_file():
            raise FileFormatError(f"tensor {proto.name!r}: expected data in a file in {folder}, got {location!r}")
        start, given = int(entries.get("offset", 0)), int(entries.get("length", size))
        there = path.stat().st_size
        if given != size or start < 0 or start + size > there:
            raise FileFormatError(
                f"tensor {proto.name!r}: expected {size} bytes from {start} on in {location!r}, got {there} bytes"
            )
        if path not in self._contents:
            self._contents[path] = path.read_bytes()
            self.outside += there
        return self._contents[path][start : start + size]
