"""Models from ONNX files."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import Any

from fastmask.convert.onnx.building import Builder
from fastmask.convert.onnx.folding import dequantise, fold
from fastmask.convert.onnx.loops import find_loops
from fastmask.convert.onnx.patterns import find_dense, find_embeddings
from fastmask.convert.onnx.reader import read, require_onnx
from fastmask.convert.onnx.recurrences import find_recurrences
from fastmask.convert.onnx.running import require_known
from fastmask.core import budget
from fastmask.core.errors import reading
from fastmask.models import Model

__all__ = ["from_onnx"]

# Weights, and what is worked out of them while the file is read, are at most so many times as large as the file.
_EXPANSION, _SPARE = 16, 1 << 24


def from_onnx(source: Any) -> Model:
    """Return the model of an ONNX file."""
    require_onnx()
    named = isinstance(source, (str, PathLike))
    if named:
        # So that a missing file is a FileNotFoundError.
        Path(fspath(source)).open("rb").close()
    with reading(Path(fspath(source)) if named else Path("ONNX model")):
        graph, size = read(source)
        with budget.placeholders(_EXPANSION * size + _SPARE):
            dequantise(graph)
            require_known(graph)
            fold(graph)
            find_loops(graph)
            find_embeddings(graph)
            find_recurrences(graph)
            find_dense(graph)
            return Builder(graph).model()
