"""The plan of a packed batch: which steps of a masked batch count, and in which order a recurrent layer meets them.

A mask of more than two axes, such as ``(B, S, T)`` of the words of sentences of documents, is the plan of the ``B * S``
rows that stand behind its leading axes, and remembers these axes.

A batch ``(B, T, ...)`` with a mask is compacted row by row, the rows are sorted by length (longest first)
and the tokens laid out by time: step 0 of every row, then step 1 of every row that has one, and so on.
This is the layout of ``torch.nn.utils.rnn.PackedSequence``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmask.core.arguments import LARGEST, as_array, booleans, check_size, whole_numbers
from fastmask.core.stored import stored_property
from fastmask.kernels import packing as kernels

Indices = NDArray[np.int64]


class Packing:
    """The plan of one packed batch. Made by :meth:`from_mask`, :meth:`from_lengths` or :meth:`full`; never changed.

    Attributes
    ----------
    batch_size : int
        Rows of the batch, B.
    leading : tuple of int
        Lengths of the axes before that of the steps: (B,) for a mask (B, T). Those of a mask with more axes count
        rows too: their product is B.
    total_length : int
        Steps of the padded grid, T.
    tokens : int
        Valid tokens, N.
    masked : bool
        Whether the batch carries a mask in Keras's sense. A plan from :meth:`full` does not: every step counts.
    lengths : int64 array (B,)
        Valid tokens of each row, in the order of the batch.
    sorted_indices, unsorted_indices : int64 array (B,)
        Row of the batch at each position of the sorted batch, and the other way round.
    batch_sizes : int64 array (S,)
        Rows that have a step, for each step; S is the largest length.
    offsets : int64 array (S,)
        Tokens before each step.
    positions : int64 array (N,)
        Place ``row * T + step`` of each packed token in the padded grid.
    rows : int64 array (N,)
        Row of the batch of each packed token.
    last_steps : int64 array (B,)
        For each row of the batch its last state in an array of B initial states in sorted order, then N tokens.
    """

    batch_size: int
    leading: tuple[int, ...]
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
    last_steps: Indices

    def __init__(self) -> None:
        raise TypeError("Packing: made by from_mask, from_lengths or full, not by a call of the class")

    @classmethod
    def _laid_out(
        cls, lengths: Indices, total_length: int, longest: int, tokens: int, mask: NDArray[np.uint8] | None,
        masked: bool,
    ) -> Packing:
        """The plan of rows of these lengths: of the tokens that the mask names, or else of the first of each row."""
        batch_size = lengths.shape[0]
        if batch_size * total_length > LARGEST:
            raise ValueError(f"total_length: expected a grid of at most {LARGEST} places, "
                             f"got {batch_size} rows of {total_length} steps")
        a = batch_size
        b = a + batch_size
        c = b + longest
        d = c + longest
        e = d + tokens
        f = e + tokens
        g = f + batch_size
        # For more numbers than LARGEST the error of NumPy would not say that memory is lacking.
        memory = np.empty(min(g + longest + 1, LARGEST), np.int64)
        kernels.lay_out(mask, lengths, total_length, longest, tokens, memory)
        self = object.__new__(cls)
        self.batch_size = batch_size
        self.leading = (batch_size,)
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
        self.last_steps = memory[f:g]
        return self

    @classmethod
    def from_mask(cls, mask: ArrayLike) -> Packing:
        """The plan of a mask.

        Parameters
        ----------
        mask : bool or integer array (B, T)
            True (or nonzero) where a step counts; any pattern, rows without a valid step too. It may have more
            axes, of which the last one is that of the steps. Floats may be 0 and 1.
        """
        grid = mask if type(mask) is np.ndarray else as_array("mask", mask)
        if grid.dtype.kind == "f":
            found = booleans(grid)
            grid = grid if found is None else found
        kind = grid.dtype.kind
        if grid.ndim < 2 or kind not in "biu":
            raise ValueError(
                f"mask: expected a bool or integer array (batch, steps), got {grid.dtype} with shape {grid.shape}"
            )
        valid = np.ascontiguousarray(grid if kind == "b" else grid != 0).view(np.uint8)
        if grid.ndim > 2:
            leading, steps = grid.shape[:-1], grid.shape[-1]
            return cls.from_mask(valid.reshape(prod(leading), steps)).over(leading)
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
        counts = whole_numbers("lengths", lengths)
        smallest, longest, tokens = kernels.extent(counts)
        total = longest if total_length is None else check_size("total_length", total_length)
        if smallest < 0 or longest > total:
            raise ValueError(f"lengths: expected values from 0 to {total}, got {smallest} to {longest}")
        return cls._laid_out(counts, total, longest, tokens, None, True)

    @classmethod
    def full(cls, batch_size: int, total_length: int) -> Packing:
        """The plan of a batch without a mask: every step of every row counts."""
        rows, steps = check_size("batch_size", batch_size), check_size("total_length", total_length)
        longest = steps if rows else 0
        return cls._laid_out(np.full(rows, steps, np.int64), steps, longest, rows * longest, None, False)

    @classmethod
    def from_batch_sizes(cls, batch_sizes: ArrayLike, sorted_indices: ArrayLike | None = None) -> Packing:
        """The plan of a ``torch.nn.utils.rnn.PackedSequence``; arrays of the right form are not copied.

        Parameters
        ----------
        batch_sizes : integer array (S,)
            Rows that have a step, for each step: positive and never growing.
        sorted_indices : integer array (B,), optional
            Row of the batch at each position of the sorted batch; by default row b stands at position b. Rows behind
            the first ``batch_sizes[0]`` positions are empty.
        """
        sizes = whole_numbers("batch_sizes", batch_sizes)
        if sizes.size and (sizes[-1] < 1 or (sizes[1:] > sizes[:-1]).any()):
            raise ValueError(f"batch_sizes: expected positive numbers that never grow, got {sizes.tolist()}")
        first = int(sizes[0]) if sizes.size else 0
        order = np.arange(first) if sorted_indices is None else whole_numbers("sorted_indices", sorted_indices)
        unsorted = _inverse_order(order)
        if unsorted is None or order.size < first:
            raise ValueError(
                f"sorted_indices: expected a permutation of at least {first} rows, got {order.tolist()}"
            )
        plan = object.__new__(cls)
        plan.batch_size, plan.leading, plan.total_length, plan.masked = order.size, (order.size,), sizes.size, True
        plan.batch_sizes, plan.sorted_indices, plan.unsorted_indices = sizes, order, unsorted
        plan.offsets = np.cumsum(sizes) - sizes
        plan.tokens = int(sizes.sum())
        plan.lengths = np.searchsorted(-sizes, -np.arange(order.size))[unsorted]
        plan.positions, plan.rows = np.empty((2, plan.tokens), np.int64)
        kernels.fill_leading_positions(order, sizes, sizes.size, plan.positions, plan.rows)
        plan.last_steps = np.empty(order.size, np.int64)
        kernels.fill_last_steps(plan.lengths, unsorted, plan.offsets, plan.last_steps)
        return plan

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The mask, bool (B, T), or with the axes of the mask that the plan was made of."""
        grid = np.zeros(self.batch_size * self.total_length, np.bool_)
        grid[self.positions] = True
        return grid.reshape(*self.leading, self.total_length)

    def over(self, leading: Sequence[int]) -> Packing:
        """The same plan with its rows counted along other axes."""
        axes = tuple(leading)
        return self if axes == self.leading else self._changed(leading=axes)

    @stored_property
    def folded(self) -> Packing:
        """The plan with the first two axes of its rows made one: that of the steps of the batch, each by itself."""
        first, second, *others = self.leading
        return self.over((first * second, *others))

    @stored_property
    def outer(self) -> Packing:
        """The plan of the first two axes of a mask with more: a step counts if anything within it does."""
        rows, steps = self.leading[:2]
        if not self.masked:
            return Packing.full(rows, steps)
        within = prod(self.leading[2:])
        return Packing.from_mask((self.lengths > 0).reshape(rows, steps, within).any(axis=2))

    @stored_property
    def reverse(self) -> Indices:
        """For each packed token the one that a run from the end visits in its place; its own inverse."""
        reverse = np.empty(self.tokens, np.int64)
        kernels.fill_reverse(self.lengths[self.sorted_indices], self.batch_sizes, self.offsets, reverse)
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
        step = self.positions[self.reverse] - self.rows * self.total_length
        return self._changed(positions=self.rows * self.total_length + (self.total_length - 1 - step))

    def _changed(self, **attributes: Any) -> Packing:
        """A copy with other attributes, and without what was made of those of this one."""
        plan = object.__new__(Packing)
        plan.__dict__.update({k: v for k, v in self.__dict__.items() if not k.startswith("_")})
        for cached in ("reverse", "reversed", "folded", "outer"):
            plan.__dict__.pop(cached, None)
        plan.__dict__.update(attributes)
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


def _inverse_order(order: Indices) -> Indices | None:
    """The inverse of a permutation; None if ``order`` is none."""
    if order.size and (order.min() < 0 or order.max() >= order.size):
        return None
    inverse = np.full(order.size, -1, np.int64)
    inverse[order] = np.arange(order.size)
    return None if (inverse < 0).any() else inverse
