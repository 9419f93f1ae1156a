"""Packed batches: the valid tokens of a masked batch in the order in which a recurrent layer meets them.

A batch ``(B, T, ...)`` with a mask is compacted row by row, the rows are sorted by length (longest first)
and the tokens laid out by time: step 0 of every row, then step 1 of every row that has one, and so on.
This is the layout of ``torch.nn.utils.rnn.PackedSequence``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmask.arguments import LARGEST, as_array, check_size
from fastmask.kernels import packing as kernels
from fastmask.stored import stored_property

__all__ = ["PackedSequence", "Packing"]

Indices = NDArray[np.int64]
Array = NDArray[Any]

class Packing:
    """The plan of one packed batch. Made by :meth:`from_mask`, :meth:`from_lengths` or :meth:`full`; never changed.

    Attributes
    ----------
    batch_size : int
        Rows of the batch, B.
    total_length : int
        Steps of the padded grid, T.
    tokens : int
        Valid tokens, N.
    masked : bool
        Whether the batch carries a mask in Keras's sense. A plan from :meth:`full` does not: every step counts.
    lengths : int64 array (B,)
        Valid tokens of each row, in the order of the batch.
    sorted_indices, unsorted_indices : int64 array (B,)
        Row of the batch at each place of the sorted batch, and the other way round.
    batch_sizes : int64 array (S,)
        Rows that have a step, for each step; S is the largest length.
    offsets : int64 array (S,)
        Tokens before each step.
    positions : int64 array (N,)
        Place ``row * T + step`` of each packed token in the padded grid.
    rows : int64 array (N,)
        Row of the batch of each packed token.
    """

    batch_size: int
    total_length: int
    tokens: int
    masked: bool
    lengths: Indices
    sorted_indices: Indices
    unsorted_indices: Indices
    batch_sizes: Indices
    offsets: Indices
    positions: Indices
    rows: Indices

    def __init__(self) -> None:
        raise TypeError("Packing: made by from_mask, from_lengths or full, not by a call of the class.")

    @classmethod
    def _laid_out(
        cls, lengths: Indices, total_length: int, longest: int, tokens: int, mask: NDArray[np.uint8] | None,
        masked: bool,
    ) -> Packing:
        """The plan of rows of so many tokens; those that the mask names, or their first."""
        batch_size = lengths.shape[0]
        if batch_size * total_length > LARGEST:
            raise ValueError(f"total_length: expected a grid of at most {LARGEST} places, "
                             f"got {batch_size} rows of {total_length} steps.")
        a, b, c, d, e, f = accumulate((batch_size, batch_size, longest, longest, tokens, tokens))
        # NumPy's error for too many numbers is about memory up to LARGEST of them.
        memory = np.empty(min(f + longest + 1, LARGEST), np.int64)
        kernels.lay_out(mask, lengths, total_length, longest, tokens, memory)
        self = object.__new__(cls)
        self.batch_size = batch_size
        self.total_length = total_length
        self.masked = masked
        self.lengths = lengths
        self.tokens = tokens
        self.sorted_indices = memory[:a]
        self.unsorted_indices = memory[a:b]
        self.batch_sizes = memory[b:c]
        self.offsets = memory[c:d]
        self.positions = memory[d:e]
        self.rows = memory[e:f]
        return self

    @classmethod
    def from_mask(cls, mask: ArrayLike) -> Packing:
        """The plan of a mask.

        Parameters
        ----------
        mask : bool or integer array (B, T)
            True (or nonzero) where a step counts; any pattern, rows without a valid step too.
        """
        grid = as_array("mask", mask)
        if grid.ndim != 2 or grid.dtype.kind not in "biu":
            raise ValueError(
                f"mask: expected a bool or integer array (batch, steps), got {grid.dtype} with shape {grid.shape}."
            )
        valid = np.ascontiguousarray(grid if grid.dtype == bool else grid != 0).view(np.uint8)
        lengths = np.empty(valid.shape[0], np.int64)
        longest, tokens = kernels.count_valid(valid, lengths)
        return cls._laid_out(lengths, valid.shape[1], longest, tokens, valid, True)

    @classmethod
    def from_lengths(cls, lengths: ArrayLike, total_length: int | None = None) -> Packing:
        """The plan of rows whose first ``lengths[b]`` steps count.

        Parameters
        ----------
        lengths : integer array (B,)
        total_length : int, optional
            Steps of the padded grid; the largest length by default.
        """
        return cls._leading(lengths, total_length, masked=True)

    @classmethod
    def full(cls, batch_size: int, total_length: int) -> Packing:
        """The plan of a batch without a mask: every step of every row counts."""
        rows, steps = check_size("batch_size", batch_size), check_size("total_length", total_length)
        return cls._leading(np.full(rows, steps, np.int64), steps, masked=False)

    @classmethod
    def _leading(cls, lengths: ArrayLike, total_length: int | None, masked: bool) -> Packing:
        counts = as_array("lengths", lengths)
        if counts.ndim != 1 or (counts.dtype.kind not in "iu" and counts.size):
            raise ValueError(f"lengths: expected integers of shape (batch,), got {counts.dtype} {counts.shape}.")
        counts = np.require(counts, np.int64, ("C", "A"))
        smallest, longest, tokens = kernels.extent(counts)
        total = longest if total_length is None else check_size("total_length", total_length)
        if smallest < 0 or longest > total:
            raise ValueError(f"lengths: expected values from 0 to {total}, got {smallest} to {longest}.")
        return cls._laid_out(counts, total, longest, tokens, None, masked)

    @classmethod
    def from_batch_sizes(cls, batch_sizes: ArrayLike, sorted_indices: ArrayLike | None = None) -> Packing:
        """The plan of a ``torch.nn.utils.rnn.PackedSequence``; arrays of the right form are not copied.

        Parameters
        ----------
        batch_sizes : integer array (S,)
            Rows that have a step, for each step: positive and never growing.
        sorted_indices : integer array (B,), optional
            Row of the batch at each place of the sorted batch; by default row b stands at place b. Rows behind
            the first ``batch_sizes[0]`` places are empty.
        """
        sizes = _whole_numbers("batch_sizes", batch_sizes)
        if sizes.size and (sizes[-1] < 1 or (sizes[1:] > sizes[:-1]).any()):
            raise ValueError(f"batch_sizes: expected positive numbers that never grow, got {sizes.tolist()}.")
        first = int(sizes[0]) if sizes.size else 0
        order = np.arange(first) if sorted_indices is None else _whole_numbers("sorted_indices", sorted_indices)
        unsorted = _inverse_order(order)
        if unsorted is None or order.size < first:
            raise ValueError(
                f"sorted_indices: expected a permutation of at least {first} rows, got {order.tolist()}."
            )
        plan = object.__new__(cls)
        plan.batch_size, plan.total_length, plan.masked = order.size, sizes.size, True
        plan.batch_sizes, plan.sorted_indices, plan.unsorted_indices = sizes, order, unsorted
        plan.offsets = np.cumsum(sizes) - sizes
        plan.tokens = int(sizes.sum())
        plan.lengths = np.searchsorted(-sizes, -np.arange(order.size))[unsorted]
        plan.positions, plan.rows = np.empty((2, plan.tokens), np.int64)
        kernels.fill_leading_positions(order, sizes, sizes.size, plan.positions, plan.rows)
        return plan

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The mask, bool (B, T)."""
        grid = np.zeros(self.batch_size * self.total_length, np.bool_)
        grid[self.positions] = True
        return grid.reshape(self.batch_size, self.total_length)

    @stored_property
    def sorted_lengths(self) -> Indices:
        """Valid tokens of each row, longest first."""
        return self.lengths[self.sorted_indices]

    @stored_property
    def last_steps(self) -> Indices:
        """For each row of the batch its last state in an array of B initial states in sorted order, then N tokens."""
        last = np.empty(self.batch_size, np.int64)
        kernels.fill_last_steps(self.lengths, self.unsorted_indices, self.offsets, last)
        return last

    @stored_property
    def reverse(self) -> Indices:
        """For each packed token the one that a run from the end visits in its place; its own inverse."""
        reverse = np.empty(self.tokens, np.int64)
        kernels.fill_reverse(self.sorted_lengths, self.batch_sizes, self.offsets, reverse)
        return reverse

    @stored_property
    def previous(self) -> Indices:
        """For each packed token the row of the state before it in an array of B initial states, then N tokens."""
        previous = np.empty(self.tokens, np.int64)
        kernels.fill_previous(self.batch_sizes, self.batch_size, previous)
        return previous

    @stored_property
    def reversed(self) -> Packing:
        """The plan of the batch flipped in time, whose token order is that of a run from the end."""
        plan = object.__new__(Packing)
        plan.__dict__.update({k: v for k, v in self.__dict__.items() if not k.startswith("_")})
        for cached in ("reverse", "reversed"):
            plan.__dict__.pop(cached, None)
        step = self.positions[self.reverse] - self.rows * self.total_length
        plan.positions = self.rows * self.total_length + (self.total_length - 1 - step)
        return plan

    def grid(self, repeat: bool = False) -> Indices:
        """Packed token of each cell of the padded grid, int64 (B * T,), -1 where there is none.

        Parameters
        ----------
        repeat : bool, default False
            Give a masked cell the last valid token before it in its row.
        """
        grid = np.empty(self.batch_size * self.total_length, np.int64)
        kernels.fill_grid(self.positions, self.batch_size, self.total_length, repeat, grid)
        return grid


def _whole_numbers(name: str, values: ArrayLike) -> Indices:
    array = np.asarray(values)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise ValueError(f"{name}: expected integers in one dimension, got {array.dtype} {array.shape}.")
    return np.ascontiguousarray(array, np.int64)


def _inverse_order(order: Indices) -> Indices | None:
    """The inverse of a permutation; None if ``order`` is none."""
    if order.size and (order.min() < 0 or order.max() >= order.size):
        return None
    inverse = np.full(order.size, -1, np.int64)
    inverse[order] = np.arange(order.size)
    return None if (inverse < 0).any() else inverse


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
    """

    values: Array
    packing: Packing
    index: Indices | None = None
    fill: Array | None = None
    repeat: bool = False
    shown: Indices | None = None
    apart: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.packing, Packing):
            raise TypeError(f"packing: expected a Packing, got {type(self.packing).__name__}.")
        if self._is_plain():
            return
        for name in ("values", "index", "fill", "shown"):
            array = getattr(self, name)
            if not isinstance(array, (np.ndarray, np.generic)) and (array is not None or name == "values"):
                raise TypeError(f"{name}: expected an array, got {type(array).__name__}.")
        if self.values.dtype.hasobject:
            raise TypeError(f"values: expected an array of numbers, got dtype {self.values.dtype}.")
        if self.values.ndim == 0:
            raise ValueError("values: expected an array with one entry for each token, got shape ().")
        tokens, stored = self.packing.tokens, self.values.shape[0]
        if self.fill is not None and self.fill.shape != self.values.shape[1:]:
            raise ValueError(f"fill: expected the shape of a token, {self.values.shape[1:]}, got {self.fill.shape}.")
        masked = self.packing.batch_size * self.packing.total_length - tokens
        if self.shown is not None and (self.index is None or self.shown.shape != (masked,)):
            raise ValueError(f"shown: expected an index and places of shape ({masked},), got {self.shown.shape}.")
        if self.index is None:
            if stored != tokens:
                raise ValueError(f"values: expected {tokens} tokens, got shape {self.values.shape}.")
            return
        if self.index.shape != (tokens,) or self.index.dtype != np.int64:
            raise ValueError(f"index: expected int64 of shape ({tokens},), got {self.index.dtype} {self.index.shape}.")
        index = self.index
        if not (index.flags.c_contiguous and index.flags.aligned):
            index = np.require(index, None, ("C", "A"))
            object.__setattr__(self, "index", index)
        smallest, largest, _ = kernels.extent(index)
        if index.size and (smallest < 0 or largest >= stored):
            raise ValueError(f"index: expected places among {stored} values.")
        if self.shown is None or self.shown.size == 0:
            return
        if self.shown.dtype != np.int64 or self.shown.min() < -1 or self.shown.max() >= stored:
            raise ValueError(f"shown: expected int64 places among {stored} values, got {self.shown.dtype}.")

    def _is_plain(self) -> bool:
        """Whether there are values only, and they are fine."""
        values = self.values
        return (
            self.index is None
            and self.fill is None
            and self.shown is None
            and type(values) is np.ndarray
            and values.dtype.kind in "fiub"
            and values.ndim > 0
            and values.shape[0] == self.packing.tokens
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
        """Shape of the padded array, (B, T, ...)."""
        return (self.packing.batch_size, self.packing.total_length, *self.values.shape[1:])

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
        """Row of the batch at each place of the sorted batch (B,)."""
        return self.packing.sorted_indices

    @property
    def unsorted_indices(self) -> Indices:
        """Place in the sorted batch of each row (B,)."""
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

        Without a mask every step counts. Without a copy the tokens stay where they stand, if ``x`` is contiguous:
        ``values`` are (B * T, ...).
        """
        grid = as_array("x", x)
        if grid.ndim < 2:
            raise ValueError(f"x: expected an array (batch, steps, ...), got shape {grid.shape}.")
        if mask is None:
            plan = Packing.full(grid.shape[0], grid.shape[1])
        else:
            plan = Packing.from_mask(mask)
            if (plan.batch_size, plan.total_length) != grid.shape[:2]:
                raise ValueError(
                    f"mask: expected shape {grid.shape[:2]} to go with x of shape {grid.shape}, "
                    f"got {(plan.batch_size, plan.total_length)}."
                )
        places = grid.reshape(plan.batch_size * plan.total_length, *grid.shape[2:])
        if copy:
            return cls(take_rows(places, plan.positions), plan)
        return cls(places, plan, plan.positions, apart=True)

    @classmethod
    def from_list(cls, sequences: Sequence[ArrayLike]) -> PackedSequence:
        """Pack sequences of different lengths, arrays (t_i, ...) of one dtype and token shape; no padding is made."""
        arrays = [as_array("sequences", sequence) for sequence in sequences]
        if not arrays:
            raise ValueError("sequences: expected at least one sequence, got none.")
        for i, array in enumerate(arrays):
            if array.ndim < 1 or array.shape[1:] != arrays[0].shape[1:]:
                raise ValueError(
                    f"sequences: expected arrays of shape (steps, {', '.join(map(str, arrays[0].shape[1:]))}), "
                    f"got shape {array.shape} at place {i}."
                )
        lengths = np.array([array.shape[0] for array in arrays], np.int64)
        plan = Packing.from_lengths(lengths)
        starts = np.cumsum(lengths) - lengths
        steps = plan.positions - plan.rows * plan.total_length
        # An empty list has no dtype to speak of: it must not turn integers into floats.
        filled = [array for array in arrays if array.shape[0]] or arrays[:1]
        try:
            tokens = np.concatenate(filled)
        except TypeError:
            kinds = sorted({str(array.dtype) for array in filled})
            raise TypeError(f"sequences: expected arrays of one dtype, got {', '.join(kinds)}.") from None
        return cls(take_rows(tokens, starts[plan.rows] + steps), plan)
