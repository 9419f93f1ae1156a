import numpy as np
from numpy.typing import NDArray

_Indices = NDArray[np.int64]
_Bytes = NDArray[np.uint8]

def count_valid(mask: _Bytes, lengths: _Indices) -> None: ...
def sort_rows(
    lengths: _Indices,
    sorted_indices: _Indices,
    unsorted_indices: _Indices,
    batch_sizes: _Indices,
    offsets: _Indices,
    cursor: _Indices,
) -> None: ...
def fill_positions(
    mask: _Bytes,
    sorted_indices: _Indices,
    offsets: _Indices,
    total_length: int,
    positions: _Indices,
    rows: _Indices,
) -> None: ...
def fill_leading_positions(
    sorted_indices: _Indices, batch_sizes: _Indices, total_length: int, positions: _Indices, rows: _Indices
) -> None: ...
def fill_reverse(
    sorted_lengths: _Indices, batch_sizes: _Indices, offsets: _Indices, reverse: _Indices
) -> None: ...
def fill_grid(positions: _Indices, rows: int, total_length: int, repeat: bool, grid: _Indices) -> None: ...
def gather_rows(source: _Bytes, index: _Indices, fill: _Bytes, out: _Bytes) -> None: ...
def scatter_rows(source: _Bytes, index: _Indices, out: _Bytes) -> None: ...
def distinct(ids: _Indices, table: _Indices, unique: _Indices, index: _Indices) -> tuple[int, int]: ...
