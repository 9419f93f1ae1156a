"""Rows of a table by id, each distinct id of a batch taken once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmask import kernels
from fastmask.batch.packing import PackedSequence, Packing, TableRows, take_rows
from fastmask.core.arguments import as_array, integers
from fastmask.core.errors import IdError
from fastmask.kernels import packing
from fastmask.ops._arrays import Array, Indices, check_float, check_shape
from fastmask.ops._products import segment_sum
from fastmask.ops._quantized import Quantized


class SparseRows(NamedTuple):
    """An array (V, D) that is zero but for some rows.

    Attributes
    ----------
    ids : int64 array (U,)
        Which rows, each once.
    rows : array (U, D)
    shape : tuple of int
        (V, D)
    """

    ids: Indices
    rows: Array
    shape: tuple[int, int]

    def dense(self) -> Array:
        """The whole array (V, D)."""
        out = np.zeros(self.shape, self.rows.dtype)
        out[check_ids("ids", self.ids, self.shape[0])] = self.rows
        return out


def check_ids(name: str, ids: object, count: int) -> Indices:
    """``ids`` as int64 (U,); TypeError or IndexError unless they are whole numbers from 0 to ``count`` - 1."""
    array = as_array(name, ids)  # type: ignore[arg-type]
    found = array if array.dtype.kind in "iu" else integers(array)
    if found is None or array.ndim != 1:
        raise TypeError(f"{name}: expected integer ids of shape (U,), got {array.dtype} with shape {array.shape}")
    if found.size and not (found.min() >= 0 and found.max() < count):
        raise IndexError(f"{name}: expected ids from 0 to {count - 1}, got {found.min()} to {found.max()}")
    return found.astype(np.int64, copy=False)


def distinct_ids(
    ids: NDArray[Any], vocabulary: int, plan: Packing | None = None, index: Indices | None = None
) -> tuple[Indices, Indices]:
    """The distinct ids in order of appearance, and the place of each id among them.

    TypeError unless the ids are whole numbers. IndexError for an illegal one, which names its place in the batch: ids
    of more than one axis begin with that of the rows, or token n of a plan has the ids ``ids[n]``, or
    ``ids[index[n]]`` with an index.
    """
    found = ids if ids.dtype.kind in "iu" else integers(ids)
    if found is None:
        raise TypeError(f"ids: expected integers, got {ids.dtype}")
    if found.dtype == np.uint64 and found.size and found.max() > np.iinfo(np.int64).max:
        raise _illegal(found, vocabulary, plan, index)
    unique, places, bad = packing.distinct(np.require(found.reshape(-1), np.int64, ("C", "A")), vocabulary)
    if bad >= 0:
        raise _illegal(found, vocabulary, plan, index)
    return unique, places


def _illegal(ids: NDArray[Any], vocabulary: int, plan: Packing | None, index: Indices | None) -> IdError:
    """The error of ids of which one is out of range: it names the first one in the batch, and where that is."""
    wrong = np.argwhere((ids < 0) | (ids >= vocabulary))
    entry, place = wrong[0], wrong[0] if ids.ndim > 1 else wrong[0, :0]
    if plan is not None:
        entries = np.arange(len(ids)) if index is None else index
        tokens = np.flatnonzero(np.isin(entries, wrong[:, 0]))
        place = wrong[0, :0]
        if tokens.size:
            token = tokens[plan.positions[tokens].argmin()]
            entry = wrong[wrong[:, 0] == entries[token]][0]
            cell = np.unravel_index(plan.positions[token], (*plan.leading, plan.total_length))
            place = np.array([*cell, *entry[1:]])
    return IdError(f"ids: expected ids from 0 to {vocabulary - 1}, got {ids[tuple(entry)]}", place.tolist())


def embedding(
    ids: ArrayLike | PackedSequence, embeddings: ArrayLike | Quantized, version: Hashable = None,
    fill: Array | None = None,
) -> Array | PackedSequence:
    """The rows of a table that ids name.

    Parameters
    ----------
    ids : integer array of any shape, or PackedSequence of integers
        From 0 to V - 1; anything else is an IndexError. Floats that are all whole numbers will do, others are a
        TypeError.
    embeddings : float32 or float64 array (V, D), or Quantized with a scale for each row
    version : hashable, optional
        Another one after each change of the table, and no other table's. With it a packed result tells its
        `source`, so that a recurrent program can keep the products of the whole table.
    fill : array (D,), optional
        What masked places of a packed result show.

    Returns
    -------
    array of shape ``ids.shape + (D,)``, or PackedSequence
        From a PackedSequence comes one whose values are the rows of the distinct ids (U, D), with an index.
    """
    if isinstance(embeddings, Quantized):
        return _look_up(ids, embeddings, version, fill)[0]
    table = check_float("embeddings", embeddings, 2)
    return _look_up(ids, table, version, fill)[0]


def embedding_vjp(
    ids: ArrayLike | PackedSequence, embeddings: ArrayLike, fill: Array | None = None
) -> tuple[Array | PackedSequence, Callable[[ArrayLike], SparseRows]]:
    """:func:`embedding` and its pullback.

    The pullback maps the gradient of the result (of its values, for a PackedSequence) to :class:`SparseRows`.
    """
    table = check_float("embeddings", embeddings, 2)
    out, unique, index = _look_up(ids, table, None, fill)
    shape = (table.shape[0], table.shape[1])

    def pullback(dy: ArrayLike) -> SparseRows:
        gradient = check_float("dy", dy, None, table.dtype)
        if isinstance(out, PackedSequence):
            check_shape("dy", gradient, (unique.size, shape[1]))
            return SparseRows(unique, gradient, shape)
        check_shape("dy", gradient, out.shape)
        flat = gradient.reshape(index.size, shape[1])
        return SparseRows(unique, segment_sum(kernels.module(table.dtype), flat, index, unique.size), shape)

    return out, pullback


def rows_of(table: Array | Quantized, ids: Any) -> Array:
    """Rows of a table, as NumPy's index `ids` names them; those of a quantised one in float32."""
    return table.rows(ids) if isinstance(table, Quantized) else table[ids]


def _look_up(
    ids: ArrayLike | PackedSequence, table: Array | Quantized, version: Hashable, fill: Array | None
) -> tuple[Array | PackedSequence, Indices, Indices]:
    """The result, the distinct ids, and the place of each given id among them."""
    given = ids.values if isinstance(ids, PackedSequence) else as_array("ids", ids)
    plan, own = (ids.packing, ids.index) if isinstance(ids, PackedSequence) else (None, None)
    unique, index = distinct_ids(given, table.shape[0], plan, own)
    rows = rows_of(table, unique) if isinstance(table, Quantized) else take_rows(table, unique)
    if not isinstance(ids, PackedSequence):
        return take_rows(rows, index).reshape(*given.shape, table.shape[1]), unique, index
    if given.ndim != 1:
        raise ValueError(f"ids: expected one id for each token, got values of shape {given.shape}")
    places = index if ids.index is None else index[ids.index]
    source = None if version is None else TableRows(table, unique, version)
    return PackedSequence(rows, ids.packing, places, fill, ids.repeat, source=source), unique, index
