"""What `fit`, `evaluate` and `predict` are given, checked and cut into batches."""

import warnings
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmask.random import global_generator

Array = NDArray[Any]
Values = Array | list[Array]  # an array whose first axis counts rows, or one array per row


@dataclass(frozen=True, slots=True)
class Rows:
    """Inputs, targets and sample weights of the same rows."""

    x: Values
    y: Values | None = None
    weights: Values | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.x)

    @property
    def lengths(self) -> list[int] | None:
        """Steps of each row if `x` is a list of sequences, else None."""
        return [len(row) for row in self.x] if isinstance(self.x, list) else None

    def take(self, chosen: slice | Array) -> "Rows":
        """Return some of the rows."""
        return Rows(_take(self.x, chosen), _take(self.y, chosen), _take(self.weights, chosen))


class RowSource:
    """Batches of rows that are all in memory.

    Parameters
    ----------
    rows : Rows
    batch_size : int
        The last batch of a pass over the rows may be smaller.
    shuffle : bool, default False
        Whether every pass has a new order, drawn from the seeded generator of the package.
    steps : int, optional
        Batches per epoch; by default those of one pass.
    repeat : bool, default False
        Whether an epoch of `steps` batches starts where the one before stopped, in pass after
        pass, instead of anew.
    """

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        shuffle: bool = False,
        steps: int | None = None,
        repeat: bool = False,
    ) -> None:
        whole = -(-len(rows) // batch_size)
        self.rows = rows
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.endless = self._forever() if repeat and steps is not None else None
        self.steps = steps if self.endless is not None else min(whole, steps or whole)

    def epoch(self) -> Iterator[Rows]:
        """Yield the batches of the next epoch."""
        return islice(self._once() if self.endless is None else self.endless, self.steps)

    def split(
        self, fraction: float, batch_size: int | None, steps: int | None
    ) -> tuple["RowSource", "RowSource"]:
        """Return sources of the first rows, batched as here, and of the last `fraction` of them.

        Raises
        ------
        ValueError
            If one of the two would be empty.
        """
        at = int(len(self.rows) * (1.0 - fraction))
        if not 0 < at < len(self.rows):
            raise ValueError(
                "validation_split must leave rows to train and to validate on, got "
                f"{fraction!r} for {len(self.rows)} rows"
            )
        repeat = self.endless is not None
        first, last = self.rows.take(slice(at)), self.rows.take(slice(at, None))
        return (
            RowSource(first, self.batch_size, self.shuffle, self.steps if repeat else None, repeat),
            RowSource(last, batch_size or self.batch_size, steps=steps),
        )

    def _once(self) -> Iterator[Rows]:
        order = global_generator().permutation(len(self.rows)) if self.shuffle else None
        for start in range(0, len(self.rows), self.batch_size):
            chosen = slice(start, start + self.batch_size)
            yield self.rows.take(chosen if order is None else order[chosen])

    def _forever(self) -> Iterator[Rows]:
        while True:
            yield from self._once()


class StreamSource:
    """Batches that an iterable makes: tuples (x, y) or (x, y, sample_weight), or x alone.

    Parameters
    ----------
    stream : iterable
    ids : bool
        As in `as_rows`.
    steps : int, optional
        Batches per epoch. By default an epoch is one iteration over `stream`.
    """

    def __init__(self, stream: Iterable[Any], ids: bool, steps: int | None = None) -> None:
        self.stream = stream
        self.ids = ids
        self.iterator = None if steps is None else iter(stream)
        self.steps = len(stream) if steps is None and isinstance(stream, Sized) else steps

    def epoch(self) -> Iterator[Rows]:
        """Yield the batches of the next epoch."""
        items = iter(self.stream) if self.iterator is None else islice(self.iterator, self.steps)
        count = 0
        for item in items:
            count += 1
            yield as_rows(*(item if isinstance(item, tuple) else (item,)), ids=self.ids)
        if not count:
            raise ValueError("x must yield batches in every epoch, but it has run out of them")
        if self.iterator is not None and count < (self.steps or 0):
            warnings.warn(f"x has run out of batches after {count} of {self.steps} steps", stacklevel=2)


def source(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    ids: bool,
    batch_size: int | None = None,
    shuffle: bool = False,
    steps: int | None = None,
    repeat: bool = False,
) -> RowSource | StreamSource:
    """Return the batches of data in memory or of an iterable.

    Parameters
    ----------
    x, y, sample_weight, ids
        As in `as_rows`; or `x` is an iterable of batches and the others are None.
    batch_size : int, optional
        32 by default; not for iterables, which make their own batches.
    shuffle, steps, repeat
        As in `RowSource`.
    """
    for name, value in (("batch_size", batch_size), ("steps", steps)):
        if value is not None and (not isinstance(value, (int, np.integer)) or value < 1):
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    if is_stream(x):
        for name, value in (("y", y), ("sample_weight", sample_weight), ("batch_size", batch_size)):
            if value is not None:
                raise ValueError(f"{name} must be None when x is an iterable of batches")
        return StreamSource(x, ids, steps)
    rows = as_rows(x, y, sample_weight, ids=ids)
    return RowSource(rows, batch_size or 32, shuffle, steps, repeat)


def is_stream(x: Any) -> bool:
    """Return whether `x` is an iterable of batches rather than rows."""
    return (
        hasattr(x, "__iter__") and not isinstance(x, (list, tuple)) and not hasattr(x, "__array__")
    )


def as_rows(x: Any, y: Any = None, sample_weight: Any = None, *, ids: bool) -> Rows:
    """Return checked data.

    Parameters
    ----------
    x : array_like (B, ...), or sequence of B sequences of different lengths
        Those have shape (t_i,) if `ids`, else (t_i, F). An array of objects is a sequence too.
    y : array_like (B, ...), or sequence of B arrays, optional
    sample_weight : array_like (B,) or (B, T), or sequence of B arrays (t_i,), optional
    ids : bool
        Whether the model takes ids.

    Raises
    ------
    ValueError
        If the arguments do not have the same number of rows or a shape is impossible.
    TypeError
        If `y` or `sample_weight` does not hold real numbers.
    """
    inputs = _sequences(x, ids) if _is_rows(x) else np.asarray(x)
    if not isinstance(inputs, list) and inputs.ndim == 0:
        raise ValueError(f"x must have an axis of rows, got {x!r}")
    if not len(inputs):
        raise ValueError("x must have at least one row")
    rows = Rows(inputs, _per_row("y", y), _per_row("sample_weight", sample_weight))
    for name, values in (("y", rows.y), ("sample_weight", rows.weights)):
        if values is not None and len(values) != len(rows):
            raise ValueError(
                f"x and {name} must have the same number of rows, got {len(rows)} and {len(values)}"
            )
    return rows


def _take(values: Any, chosen: slice | Array) -> Any:
    if isinstance(values, list) and not isinstance(chosen, slice):
        return [values[i] for i in chosen]
    return None if values is None else values[chosen]


def _sequences(x: Sequence[Any], ids: bool) -> Values:
    """Return sequences as a list of arrays, or rows of plain features as one array."""
    rows = _arrays(x)
    if not ids and all(row.ndim < 2 for row in rows):
        if len({row.shape for row in rows}) > 1:
            raise ValueError(
                "x must hold sequences of shape (t_i, F) or rows of one length, got rows of "
                f"{sorted({row.shape for row in rows})[:5]}"
            )
        return np.array(rows)
    for i, row in enumerate(rows):
        if row.ndim != (1 if ids else 2):
            wanted = "(t,) of ids" if ids else "(t, F)"
            raise ValueError(f"x[{i}] must have shape {wanted}, got {row.shape}")
    return [row.astype(np.int64) for row in rows] if ids and not any(map(len, rows)) else rows


def _per_row(name: str, values: Any) -> Any:
    if values is None:
        return None
    rows = _arrays(values) if _is_rows(values) else np.asarray(values)
    if isinstance(rows, list) and not any(row.ndim for row in rows):
        rows = np.array(rows)
    for array in rows if isinstance(rows, list) else [rows]:
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    if isinstance(rows, np.ndarray) and rows.ndim == 0:
        raise ValueError(f"{name} must have an axis of rows, got {values!r}")
    return rows


def _is_rows(values: Any) -> bool:
    """Return whether `values` holds rows one by one: a list, or an array of objects."""
    return isinstance(values, (list, tuple)) or getattr(values, "dtype", None) == np.object_


def _arrays(values: Sequence[Any]) -> list[Array]:
    """Return the entries as arrays; empty ones get the dtype and token shape of the others."""
    rows = [np.asarray(row) for row in values]
    empty = next((row[:0] for row in rows if row.size and row.ndim), None)
    return rows if empty is None else [row if row.size else empty for row in rows]
