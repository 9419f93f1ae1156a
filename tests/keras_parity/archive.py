"""Recorded cases in one compact .npz file.

A case is a tree of dicts and lists whose leaves are arrays, numbers, strings, booleans or None. An .npz member
costs a few hundred bytes, so a file has one flat member per dtype and a JSON index that says where each array lies;
equal arrays are stored once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parent / "data"
ARRAY = "__array__"


def save(name: str, cases: dict[str, Any]) -> Path:
    """Write ``cases`` (case name -> tree) to ``data/<name>.npz`` and return the path."""
    chunks: dict[str, list[np.ndarray]] = {}
    sizes: dict[str, int] = {}
    known: dict[tuple[str, bytes], int] = {}

    def place(array: np.ndarray) -> dict[str, Any]:
        dtype, content = array.dtype.name, array.tobytes()
        if (dtype, content) not in known:
            known[dtype, content] = sizes.get(dtype, 0)
            sizes[dtype] = sizes.get(dtype, 0) + array.size
            chunks.setdefault(dtype, []).append(array.ravel())
        return {ARRAY: [dtype, known[dtype, content], list(array.shape)]}

    def encode(tree: Any) -> Any:
        if isinstance(tree, np.generic):
            return tree.item()
        if isinstance(tree, np.ndarray):
            return place(tree)
        if isinstance(tree, dict):
            return {key: encode(value) for key, value in tree.items()}
        if isinstance(tree, (list, tuple)):
            return [encode(value) for value in tree]
        return tree

    index = json.dumps(encode(cases), separators=(",", ":"))
    members = {dtype: np.concatenate(parts) for dtype, parts in chunks.items()}
    path = DATA / f"{name}.npz"
    np.savez_compressed(path, index=np.frombuffer(index.encode(), np.uint8), **members)
    return path


def load(name: str) -> dict[str, Any]:
    """Read ``data/<name>.npz`` back: case name -> tree."""
    with np.load(DATA / f"{name}.npz") as members:
        flat = {key: members[key] for key in members.files}

    def decode(tree: Any) -> Any:
        if isinstance(tree, dict) and ARRAY in tree:
            dtype, start, shape = tree[ARRAY]
            return flat[dtype][start : start + int(np.prod(shape))].reshape(shape).copy()
        if isinstance(tree, dict):
            return {key: decode(value) for key, value in tree.items()}
        if isinstance(tree, list):
            return [decode(value) for value in tree]
        return tree

    cases: dict[str, Any] = decode(json.loads(bytes(flat["index"]).decode()))
    return cases
