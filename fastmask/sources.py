"""Where the batches of an epoch come from: rows in memory, or an iterable of batches."""

import warnings
from collections.abc import Generator, Iterator, Mapping, Sized
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmask.data import Batch, Layout, as_batch
from fastmask.random import global_generator

Array = NDArray[Any]


class RowSource:
    """Batches of rows that are all in memory.

    Parameters
    ----------
    rows : Batch
    batch_size : int
        The last batch of a pass over the rows may be smaller.
    shuffle : bool, default False
        Whether every pass has a new order, drawn from the seeded generator of the package.
    steps : int, optional
        Batches per epoch; by default those of one pass.
    repeat : bool, default False
        Whether an epoch of `steps` batches starts where the one before stopped, instead of anew.
        As in Keras it ends with the pass over the rows, short of batches or not.
    """

    def __init__(
        self,
        rows: Batch,
        batch_size: int,
        shuffle: bool = False,
        steps: int | None = None,
        repeat: bool = False,
    ) -> None:
        whole = -(-len(rows) // batch_size)
        self.rows = rows
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.resumes = repeat and steps is not None
        self.steps = steps if self.resumes else min(whole, steps or whole)
        self.waiting: list[slice | Array] = []

    def epoch(self) -> Generator[Batch, None, None]:
        """Yield the batches of the next epoch."""
        if not (self.resumes and self.waiting):
            self.waiting = self._pass()
        chosen, self.waiting = self.waiting[: self.steps], self.waiting[self.steps :]
        for rows in chosen:
            yield self.rows.take(rows)
        if len(chosen) < (self.steps or 0):
            warnings.warn(_run_out(len(chosen), self.steps), stacklevel=2)

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
        first, last = self.rows.take(slice(at)), self.rows.take(slice(at, None))
        return (
            RowSource(first, self.batch_size, self.shuffle, self.steps if self.resumes else None, self.resumes),
            RowSource(last, batch_size or self.batch_size, steps=steps),
        )

    def _pass(self) -> list[slice | Array]:
        """Return the rows of each batch of a pass."""
        order = global_generator().permutation(len(self.rows)) if self.shuffle else None
        starts = range(0, len(self.rows), self.batch_size)
        chosen = [slice(start, start + self.batch_size) for start in starts]
        return [*chosen] if order is None else [order[part] for part in chosen]


class StreamSource:
    """Batches that an iterable makes: tuples (x, y) or (x, y, sample_weight), or x alone.

    Parameters
    ----------
    stream : iterable, or object with a method ``batches(shuffle)`` that returns an iterator
    layout : Layout
        As in `as_batch`.
    steps : int, optional
        Batches per epoch. By default an epoch is one iteration over `stream`.
    shuffle : bool, default False
        For ``batches``.
    """

    def __init__(self, stream: Any, layout: Layout, steps: int | None = None, shuffle: bool = False) -> None:
        self.stream, self.layout, self.shuffle = stream, layout, shuffle
        self.iterator = None if steps is None else self._once()
        self.steps = len(stream) if steps is None and isinstance(stream, Sized) else steps

    def epoch(self) -> Generator[Batch, None, None]:
        """Yield the batches of the next epoch."""
        count = 0
        with closing(self._items()) as items:
            for item in items:
                count += 1
                parts = item if isinstance(item, tuple) else (item,)
                if len(parts) not in (1, 2, 3):
                    raise ValueError(f"x must yield (x, y) or (x, y, sample_weight), got {len(parts)} entries")
                x, y, weights = (*parts, None, None)[:3]
                yield as_batch(x, y, weights, self.layout)
        if not count:
            raise ValueError("x must yield batches in every epoch, but it has run out of them")
        begins_anew = self.iterator is None or hasattr(self.stream, "batches")
        if not begins_anew and count < (self.steps or 0):
            warnings.warn(_run_out(count, self.steps), stacklevel=2)

    def _items(self) -> Generator[Any, None, None]:
        """Yield what the next epoch is made of; a dataset that has run out begins anew."""
        if self.iterator is None:
            items = self._once()
            try:
                yield from items
            finally:
                self._stop(items)
            return
        taken = 0
        for taken, item in enumerate(islice(self.iterator, self.steps), 1):  # noqa: B007
            yield item
        if taken < (self.steps or 0) and hasattr(self.stream, "batches"):
            self.iterator = self._once()
            if not taken:
                yield from islice(self.iterator, self.steps)

    def _once(self) -> Iterator[Any]:
        batches = getattr(self.stream, "batches", None)
        return iter(self.stream) if batches is None else iter(batches(self.shuffle))

    def close(self) -> None:
        """Stop an iterator that spans epochs."""
        if self.iterator is not None:
            self._stop(self.iterator)

    def _stop(self, iterator: Any) -> None:
        """Close an iterator unless it is the user's own."""
        if iterator is not self.stream and hasattr(iterator, "close"):
            iterator.close()


Source = RowSource | StreamSource


def source(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    layout: Layout,
    batch_size: int | None = None,
    shuffle: bool = False,
    steps: int | None = None,
    repeat: bool = False,
) -> Source:
    """Return the batches of data in memory or of an iterable.

    Parameters
    ----------
    x, y, sample_weight, layout
        As in `as_batch`; or `x` is an iterable of batches and the others are None.
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
        return StreamSource(x, layout, steps, shuffle)
    return RowSource(as_batch(x, y, sample_weight, layout), batch_size or 32, shuffle, steps, repeat)


def _run_out(count: int, steps: int | None) -> str:
    return f"x has run out of batches after {count} of {steps} steps"


def is_stream(x: Any) -> bool:
    """Return whether `x` is an iterable of batches rather than rows."""
    if hasattr(x, "batches"):
        return True
    return hasattr(x, "__iter__") and not isinstance(x, (list, tuple, Mapping)) and not hasattr(x, "__array__")
