"""Models from ONNX files."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import Any

from fastmask.convert.onnx.building import Builder
from fastmask.convert.onnx.folding import dequantise, fold
from fastmask.convert.onnx.graph import Graph
from fastmask.convert.onnx.loops import find_loops
from fastmask.convert.onnx.masks import find_masks
from fastmask.convert.onnx.patterns import find_dense, find_embeddings
from fastmask.convert.onnx.reader import read, require_onnx
from fastmask.convert.onnx.recurrences import find_recurrences
from fastmask.convert.onnx.running import require_known
from fastmask.convert.onnx.unrolled import find_unrolled
from fastmask.core import budget
from fastmask.core.errors import reading
from fastmask.models import Model

__all__ = ["from_onnx"]

# Weights, and what is worked out of them while the file is read, are at most so many times as large as the file.
_EXPANSION, _SPARE = 16, 1 << 24


def from_onnx(source: Any) -> Model:
    """Return the model of an ONNX file, with its inputs, outputs and weights.

    Parameters
    ----------
    source : str, path-like, bytes or onnx.ModelProto
        Weights that a file keeps beside it (external data) must stand in its folder or one within.

    Returns
    -------
    Model
        Layers of fastmask stand where operators are an `Embedding`, `Dense` or recurrent layer, or a loop over its
        cell; every other operator is a layer of its own, which trains if it has a gradient.

    Raises
    ------
    FileFormatError
        If the file is malformed, asks for much more memory than its size, or holds an operator or a type of numbers
        that fastmask does not have, by name.
    ImportError
        If onnx is missing (``pip install "fastmask[onnx]"``).
    FileNotFoundError

    Notes
    -----
    Operators from opset 9 on are known. A mask that the exporter lost is not found again. Reading runs nothing of a
    file but operators, on constants and small made-up batches, within bounds.
    Where an input or output has another first axis than the batch (time, or the directions of states), the model
    predicts one batch as a whole, and does not train.
    """
    path = Path(fspath(source)) if isinstance(source, (str, PathLike)) else None
    if path is not None:
        path.open("rb").close()  # a missing file is a FileNotFoundError
    if path is None and not isinstance(source, (bytes, bytearray, memoryview, require_onnx().ModelProto)):
        raise TypeError(f"source: expected a path, bytes or an onnx.ModelProto, got {type(source).__name__}")
    require_onnx()
    with reading(path or Path("ONNX model")):
        graph, size = read(source)
        with budget.placeholders(_EXPANSION * size + _SPARE):
            return model_of(graph)


def model_of(graph: Graph) -> Model:
    """Return the model of a graph, which is changed on the way."""
    dequantise(graph)
    require_known(graph)
    fold(graph)
    find_loops(graph)
    find_unrolled(graph)
    find_embeddings(graph)
    find_recurrences(graph)
    find_dense(graph)
    find_masks(graph)
    return Builder(graph).model()
