"""The plan of a packed batch, by simple loops."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class PackPlan(NamedTuple):
    """Where each packed token comes from.

    Attributes
    ----------
    lengths : int64 [B]
        Valid steps of each row.
    sorted_indices : int64 [B]
        Rows, longest first; rows of one length keep their order.
    unsorted_indices : int64 [B]
        The inverse permutation.
    batch_sizes : int64 [S]
        Number of rows that have a valid step 0, 1, 2, ...
    positions : int64 [N]
        ``row * T + t`` of each token: step 0 of every row, then step 1 of every row that has one.
    """

    lengths: Indices
    sorted_indices: Indices
    unsorted_indices: Indices
    batch_sizes: Indices
    positions: Indices


def pack_plan(mask: Mask) -> PackPlan:
    """Plan the packing of a batch with this mask, bool [B, T], or of the rows [T] of one with more axes."""
    mask = _two_axes(mask)
    batch, total_length = mask.shape
    valid_steps = [[t for t in range(total_length) if mask[row, t]] for row in range(batch)]
    order = sorted(range(batch), key=lambda row: -len(valid_steps[row]))
    longest = max((len(steps) for steps in valid_steps), default=0)
    batch_sizes = []
    positions = []
    for step in range(longest):
        rows = [row for row in order if len(valid_steps[row]) > step]
        batch_sizes.append(len(rows))
        positions += [row * total_length + valid_steps[row][step] for row in rows]
    return PackPlan(
        lengths=np.array([len(steps) for steps in valid_steps], np.int64),
        sorted_indices=np.array(order, np.int64),
        unsorted_indices=np.array([order.index(row) for row in range(batch)], np.int64),
        batch_sizes=np.array(batch_sizes, np.int64),
        positions=np.array(positions, np.int64),
    )


def reverse_order(mask: Mask) -> Indices:
    """Packed position of the token that a backward run visits in each token's place, int64 [N]."""
    mask = _two_axes(mask)
    total_length = mask.shape[1]
    place = {position: n for n, position in enumerate(pack_plan(mask).positions.tolist())}
    visited = []
    for position in pack_plan(mask[:, ::-1]).positions.tolist():
        row, t = divmod(position, total_length)
        visited.append(place[row * total_length + total_length - 1 - t])
    return np.array(visited, np.int64)


def pack(x: npt.NDArray[Any], mask: Mask) -> npt.NDArray[Any]:
    """Values of the valid tokens of ``x`` [B, T, ...] in packed order, [N, ...]."""
    return x.reshape(mask.size, *x.shape[mask.ndim :])[pack_plan(mask).positions]


def _two_axes(mask: Mask) -> Mask:
    return mask.reshape(prod(mask.shape[:-1]), mask.shape[-1])


def unpack(
    values: npt.NDArray[Any], mask: Mask, fill: npt.ArrayLike | None = None, repeat: bool = False
) -> npt.NDArray[Any]:
    """Lay packed ``values`` [N, ...] out on the grid [B, T, ...].

    Masked places show ``fill`` (default zeros), or with ``repeat`` the last valid token before
    them and ``fill`` where there is none.
    """
    empty = np.zeros(values.shape[1:], values.dtype) if fill is None else np.asarray(fill)
    y = np.empty(mask.shape + values.shape[1:], values.dtype)
    place = {position: n for n, position in enumerate(pack_plan(mask).positions.tolist())}
    batch, total_length = mask.shape
    for row in range(batch):
        shown = empty
        for t in range(total_length):
            if mask[row, t]:
                shown = values[place[row * total_length + t]]
            y[row, t] = shown if mask[row, t] or repeat else empty
    return y
