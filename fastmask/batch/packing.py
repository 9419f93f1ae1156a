"""Packed batches: the valid tokens of a masked batch beside their plan, :class:`Packing`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmask.batch.plan import Indices, Packing
from fastmask.core.arguments import as_array
from fastmask.kernels import packing as kernels

__all__ = ["PackedSequence", "Packing", "TableRows", "put_rows", "take_rows"]

Array = NDArray[Any]


def take_rows(rows: Array, index: Indices, fill: Array | None = None) -> Array:
    """``rows[index]`` along the first axis; ``fill`` (zeros by default) where the index is -1."""
    rows = np.ascontiguousarray(rows)
    out = np.empty((index.shape[0], *rows.shape[1:]), rows.dtype)
    kernels.gather_rows(rows, index, None if fill is None else np.ascontiguousarray(fill, rows.dtype), out)
    return out


def put_rows(rows: Array, index: Indices, count: int) -> Array:
    """An array of ``count`` rows that holds ``rows[n]`` at ``index[n]`` and zeros elsewhere."""
    rows = np.ascontiguousarray(rows)
    out = np.zeros((count, *rows.shape[1:]), rows.dtype)
    kernels.scatter_rows(rows, index, out)
    return out


class TableRows(NamedTuple):
    """Where the values of a packed batch come from: ``values[u]`` is ``table[ids[u]]``.

    Attributes
    ----------
    table : array (V, D), or ops.Quantized with a scale for each row
    ids : int64 array (U,)
    version : hashable
        Another one after each change of the table, and no other table's.
    """

    table: Any
    ids: Indices
    version: Hashable


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PackedSequence:
    """A packed batch: values of its valid tokens, and its plan.

    Parameters
    ----------
    values : array (U, ...)
        One entry for each distinct token; U is N, the number of tokens, unless there is an index.
    packing : Packing
    index : int64 array (N,), optional
        Token n is ``values[index[n]]``: equal tokens are stored and worked on once.
    fill : array like one token, optional
        What Keras shows at masked places of the padded array; zeros by default.
    repeat : bool, default False
        Masked places show the valid token before them, and ``fill`` before the first one.
    shown : int64 array (B * T - N,), optional
        Masked place m, counted row by row, shows ``values[shown[m]]``; comes with an index and
        stands above ``fill`` and ``repeat``.
    apart : bool, default False
        No two tokens share an entry of the index, and ``values`` may hold more than the tokens, such as padding.
    source : TableRows, optional
        The table whose rows ``values`` are, for operations that keep what they made of the whole table.
    """

    values: Array
    packing: Packing
    index: Indices | None = None
    fill: Array | None = None
    repeat: bool = False
    shown: Indices | None = None
    apart: bool = False
    source: TableRows | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.packing, Packing):
            raise TypeError(f"packing: expected a Packing, got {type(self.packing).__name__}")
        if self.fill is None and self.shown is None and self._is_plain():
            return
        for name in ("values", "index", "fill", "shown"):
            array = getattr(self, name)
            if not isinstance(array, (np.ndarray, np.generic)) and (array is not None or name == "values"):
                raise TypeError(f"{name}: expected an array, got {type(array).__name__}")
        if self.values.dtype.hasobject:
            raise TypeError(f"values: expected an array of numbers, got dtype {self.values.dtype}")
        if self.values.ndim == 0:
            raise ValueError("values: expected an array with one entry for each token, got shape ()")
        tokens, stored = self.packing.tokens, self.values.shape[0]
        if self.fill is not None and self.fill.shape != self.values.shape[1:]:
            raise ValueError(f"fill: expected the shape of a token, {self.values.shape[1:]}, got {self.fill.shape}")
        if self.fill is not None and not np.can_cast(self.fill.dtype, self.values.dtype, "same_kind"):
            raise TypeError(f"fill: expected numbers like the values, {self.values.dtype}, got {self.fill.dtype}")
        masked = self.packing.batch_size * self.packing.total_length - tokens
        if self.shown is not None and (self.index is None or self.shown.shape != (masked,)):
            raise ValueError(f"shown: expected an index, and shape ({masked},), got {self.shown.shape}")
        if self.index is None:
            if stored != tokens:
                raise ValueError(f"values: expected {tokens} tokens, got shape {self.values.shape}")
            return
        if self.index.shape != (tokens,) or self.index.dtype != np.int64:
            raise ValueError(f"index: expected int64 of shape ({tokens},), got {self.index.dtype} {self.index.shape}")
        index = self.index
        if not (index.flags.c_contiguous and index.flags.aligned):
            index = np.require(index, None, ("C", "A"))
            object.__setattr__(self, "index", index)
        smallest, largest, _ = kernels.extent(index)
        if index.size and (smallest < 0 or largest >= stored):
            raise ValueError(f"index: expected numbers from 0 to {stored - 1}, got {smallest} to {largest}")
        if self.shown is None or self.shown.size == 0:
            return
        if self.shown.dtype != np.int64 or self.shown.min() < -1 or self.shown.max() >= stored:
            raise ValueError(f"shown: expected int64 numbers from -1 to {stored - 1}, got "
                             f"{self.shown.dtype} from {self.shown.min()} to {self.shown.max()}")

    def _is_plain(self) -> bool:
        """Whether the values are packed, or stand in the padded grid, and are fine."""
        values, plan = self.values, self.packing
        if self.index is None:
            stored = plan.tokens
        elif self.index is plan.positions:
            stored = plan.batch_size * plan.total_length
        else:
            return False
        return (
            type(values) is np.ndarray
            and values.dtype.kind in "fiub"
            and values.ndim > 0
            and values.shape[0] == stored
        )

    def __repr__(self) -> str:
        sizes = f"tokens={self.packing.tokens}, stored={self.values.shape[0]}"
        return f"PackedSequence(shape={self.shape}, {sizes}, dtype={self.dtype})"

    @property
    def data(self) -> Array:
        """One value for each token, (N, ...)."""
        return self.values if self.index is None else take_rows(self.values, self.index)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the padded array, (B, T, ...), or with all axes of a mask that has more than two."""
        return (*self.packing.leading, self.packing.total_length, *self.values.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the values."""
        return self.values.dtype

    @property
    def batch_sizes(self) -> Indices:
        """Rows that have a step, for each step (S,)."""
        return self.packing.batch_sizes

    @property
    def sorted_indices(self) -> Indices:
        """Row of the batch at each position of the sorted batch (B,)."""
        return self.packing.sorted_indices

    @property
    def unsorted_indices(self) -> Indices:
        """Position in the sorted batch of each row (B,)."""
        return self.packing.unsorted_indices

    def with_values(self, values: Array, fill: Array | None = None) -> PackedSequence:
        """The same plan and index with other values (U, ...)."""
        return PackedSequence(values, self.packing, self.index, fill, self.repeat, self.shown)

    def expand(self) -> PackedSequence:
        """The same batch with one stored value for each token."""
        return PackedSequence(self.data, self.packing, None, self.fill, self.repeat)

    def cells(self) -> Indices:
        """The stored value that each cell of the padded grid shows, int64 (B * T,); -1 stands for ``fill``."""
        grid = self.packing.grid(self.repeat and self.shown is None)
        if self.index is None or grid.size == 0:
            return grid
        cells = np.where(grid < 0, grid, self.index[grid]) if self.index.size else grid
        if self.shown is not None:
            cells[grid < 0] = self.shown
        return cells

    def pad(self) -> Array:
        """The padded array (B, T, ...), with what Keras shows at masked places."""
        return take_rows(self.values, self.cells(), self.fill).reshape(self.shape)

    @classmethod
    def from_padded(cls, x: ArrayLike, mask: ArrayLike | None = None, copy: bool = True) -> PackedSequence:
        """Pack an array (B, T, ...); what stands where the mask (B, T) is False is not read.

        Without a mask every step counts. One of more axes, (B, S, T), is for as many axes of ``x``. Without a copy the
        tokens stay where they stand, if ``x`` is contiguous: ``values`` are (B * T, ...).
        """
        grid = x if type(x) is np.ndarray and not x.dtype.hasobject else as_array("x", x)
        shape = grid.shape
        if len(shape) < 2:
            raise ValueError(f"x: expected an array (batch, steps, ...), got shape {shape}")
        plan = Packing.full(shape[0], shape[1]) if mask is None else Packing.from_mask(mask)
        axes = len(plan.leading) + 1
        if (*plan.leading, plan.total_length) != shape[:axes]:
            raise ValueError(
                f"mask: expected shape {shape[:axes]} to go with x of shape {shape}, "
                f"got {(*plan.leading, plan.total_length)}"
            )
        cells = grid.reshape(plan.batch_size * plan.total_length, *shape[axes:])
        if copy:
            return cls(take_rows(cells, plan.positions), plan)
        return cls(cells, plan, plan.positions, apart=True)

    @classmethod
    def from_list(cls, sequences: Sequence[ArrayLike]) -> PackedSequence:
        """Pack sequences of different lengths, arrays (t_i, ...) of one dtype and token shape; no padding is made."""
        arrays = [as_array("sequences", sequence) for sequence in sequences]
        if not arrays:
            raise ValueError("sequences: expected at least one sequence, got none")
        for i, array in enumerate(arrays):
            if array.ndim < 1 or array.shape[1:] != arrays[0].shape[1:]:
                raise ValueError(
                    f"sequences: expected arrays of shape (steps, {', '.join(map(str, arrays[0].shape[1:]))}), "
                    f"got shape {array.shape} for sequence {i}"
                )
        lengths = np.array([array.shape[0] for array in arrays], np.int64)
        plan = Packing.from_lengths(lengths)
        starts = np.cumsum(lengths) - lengths
        steps = plan.positions - plan.rows * plan.total_length
        # An empty list has no dtype of its own, so that it must not turn integers into floats.
        filled = [array for array in arrays if array.shape[0]] or arrays[:1]
        try:
            tokens = np.concatenate(filled)
        except TypeError:
            kinds = sorted({str(array.dtype) for array in filled})
            raise TypeError(f"sequences: expected arrays of one dtype, got {', '.join(kinds)}") from None
        return cls(take_rows(tokens, starts[plan.rows] + steps), plan)
