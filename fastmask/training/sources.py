"""Where the batches of an epoch come from: rows in memory, or an iterable of batches."""

import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import numpy as np

from fastmask import random
from fastmask.batch.data import Batch, Layout, as_batch
from fastmask.batch.dataset import PyDataset
from fastmask.batch.rows import axes, is_column
from fastmask.core.errors import IdError

_END = object()


class Source:
    """Batches in passes over some data; an epoch is one pass, or a number of steps that may begin within one.

    Attributes
    ----------
    steps : int or None
        Batches per epoch, None if unknown.
    """

    def __init__(self, steps: int | None, spans: bool) -> None:
        self.steps, self.spans = steps, spans
        self.leave()

    def epoch(self, done: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of the next epoch, or what is left of one of which `done` are used."""
        raise NotImplementedError

    @contextmanager
    def running(self, done: int = 0) -> Iterator[Iterator[Batch]]:
        """Give the batches of an epoch and close them; an id out of range is told by its row in all data."""
        with closing(self.epoch(done)) as batches:
            try:
                yield batches
            except IdError as error:
                row = self._number(error.place[0]) if error.place else None
                if row is None:
                    raise
                raise IdError(error.message, (row, *error.place[1:]), "x") from error

    def leave(self) -> None:
        """Forget the pass that is under way."""
        self.begun: dict[str, Any] | None = None
        self.taken = 0

    def close(self) -> None:
        """Stop what makes batches."""

    def position(self) -> dict[str, Any]:
        """Return where the pass stands that is under way, in numbers; {} if none is."""
        return {} if self.begun is None else {"random": self.begun, "taken": self.taken} | self.identity()

    def resume(self, position: Mapping[str, Any]) -> None:
        """Take up a pass where another source of the same data left it.

        Raises
        ------
        ValueError
            If the data is not the same.
        """
        self.check(position)
        self.leave()
        if position:
            random.set_state(position["random"])
            self._skip(int(position["taken"]))

    def check(self, position: Mapping[str, Any]) -> None:
        """Raise ValueError if a position is one in other data, as far as that can be known without reading them."""
        for name, value in self.identity().items():
            if position and position.get(name) != value:
                raise ValueError(f"{name}: expected {position.get(name)}, as in the backup, got {value}")

    def identity(self) -> dict[str, Any]:
        """Return what tells these data from others."""
        return {}

    def _number(self, row: int) -> int | None:
        """Return the number that a row of the last batch has in all data, None if it is not known."""
        return None

    def _skip(self, count: int) -> None:
        raise NotImplementedError


class RowSource(Source):
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
    first : int, default 0
        The number of the first row, if others have been split off.
    """

    def __init__(
        self,
        rows: Batch,
        batch_size: int,
        shuffle: bool = False,
        steps: int | None = None,
        repeat: bool = False,
        first: int = 0,
    ) -> None:
        self.first = first
        self.whole = max(1, -(-len(rows) // batch_size))  # No rows are one batch, whose outputs have no rows.
        self.rows = rows
        self.batch_size = batch_size
        self.shuffle = shuffle
        spans = repeat and steps is not None
        super().__init__(steps if spans else min(self.whole, steps or self.whole), spans)

    def epoch(self, done: int = 0) -> Generator[Batch, None, None]:
        if not done and (not self.spans or self.taken == self.whole):
            self.leave()
        if self.begun is None:
            self._begin()
        steps = self.steps or 0
        count = min(steps, done + self.whole - self.taken)
        try:
            for _ in range(done, count):
                start = self.taken * self.batch_size
                part = slice(start, start + self.batch_size)
                self.chosen = part if self.order is None else self.order[part]
                self.taken += 1
                yield self.rows.take(self.chosen)
        finally:
            if not self.spans:
                self.leave()
        if count < steps:
            warnings.warn(_run_out(count, steps), stacklevel=2)

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
                "validation_split: expected a fraction that leaves rows to train and to validate on, got "
                f"{fraction!r} for {len(self.rows)} rows"
            )
        first, last = self.rows.take(slice(at)), self.rows.take(slice(at, None))
        return (
            RowSource(first, self.batch_size, self.shuffle, self.steps if self.spans else None, self.spans),
            RowSource(last, batch_size or self.batch_size, steps=steps, first=at),
        )

    def _number(self, row: int) -> int:
        return self.first + (self.chosen.start + row if isinstance(self.chosen, slice) else int(self.chosen[row]))

    def identity(self) -> dict[str, Any]:
        return {"rows": len(self.rows), "batch_size": self.batch_size}

    def _begin(self) -> None:
        self.begun, self.taken = random.get_state(), 0
        self.order = random.global_generator().permutation(len(self.rows)) if self.shuffle else None

    def _skip(self, count: int) -> None:
        self._begin()
        self.taken = count


class StreamSource(Source):
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
    targets : bool, default False
        Whether every batch has to have targets, so that a list of two or three is never x alone.
    """

    def __init__(
        self, stream: Any, layout: Layout, steps: int | None = None, shuffle: bool = False, targets: bool = False
    ) -> None:
        self.stream, self.layout, self.shuffle, self.targets = stream, layout, shuffle, targets
        self.iterator: Iterator[Any] | None = None
        self.makes_passes, self.restarts = hasattr(stream, "batches"), not isinstance(stream, Iterator)
        super().__init__(_length(stream) if steps is None else steps, spans=steps is not None)

    def epoch(self, done: int = 0) -> Generator[Batch, None, None]:
        if not (self.spans or done):
            self.close()
        count = done
        try:
            while not self.spans or count < (self.steps or 0):
                item = self._next()
                if item is _END and self.spans and self.restarts and not count:
                    item = self._next()
                if item is _END:
                    break
                count += 1
                yield self._batch(item)
        finally:
            if not self.spans:
                self.close()
        if not count:
            raise ValueError("x: expected batches in every epoch, got none, as it has run out of them")
        if self.spans and not self.makes_passes and count < (self.steps or 0):
            warnings.warn(_run_out(count, self.steps), stacklevel=2)

    def close(self) -> None:
        """Stop the iterator that is under way, unless it is the user's own."""
        iterator: Any = self.iterator
        self.iterator = None
        self.leave()
        if iterator is not self.stream and hasattr(iterator, "close"):
            iterator.close()

    def _next(self) -> Any:
        """Return what the iterator yields next, _END when it has run out; then all but an iterator begins anew."""
        if self.iterator is None:
            self.begun, self.taken = random.get_state(), 0
            self.iterator = iter(self.stream.batches(self.shuffle) if self.makes_passes else self.stream)
        item = next(self.iterator, _END)
        if item is not _END:
            self.taken += 1
        elif self.restarts:
            self.close()
        return item

    def _skip(self, count: int) -> None:
        for _ in range(count):
            if self._next() is _END:
                raise ValueError(
                    f"x: expected the {count} batches that were used before the backup, and more, got fewer"
                )

    def _batch(self, item: Any) -> Batch:
        parts = item if isinstance(item, tuple) or self._is_tuple(item) else (item,)
        if len(parts) not in (1, 2, 3):
            raise ValueError(f"x: expected batches (x, y) or (x, y, sample_weight), got {len(parts)} entries")
        x, y, weights = (*parts, None, None)[:3]
        if x is None or (self.targets and y is None):
            raise ValueError(
                f"x: expected batches (x, y) or (x, y, sample_weight), got {type(item).__name__} as batch {self.taken}"
            )
        return as_batch(x, y, weights, self.layout)

    def _is_tuple(self, item: Any) -> bool:
        """Return whether a list is what others give as a tuple, as PyTorch's loaders do, and not x alone."""
        if not isinstance(item, list) or len(item) not in (2, 3):
            return False
        first, inputs = item[0], self.layout.inputs
        if self.targets or isinstance(first, Mapping):
            return True
        if len(inputs) > 1:
            return isinstance(first, (list, tuple)) and len(first) == len(inputs)
        # One row has an axis less than a batch.
        return axes(first) >= len(inputs[0].shape or (None, None))


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
    targets: bool = False,
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
    targets
        As in `StreamSource`.
    """
    for name, value in (("batch_size", batch_size), ("steps", steps)):
        if value is not None and (not isinstance(value, (int, np.integer)) or value < 1):
            raise ValueError(f"{name}: expected a positive integer, got {value!r}")
    if is_stream(x):
        for name, value in (("y", y), ("sample_weight", sample_weight), ("batch_size", batch_size)):
            if value is not None:
                raise ValueError(f"{name}: expected None when x is an iterable of batches, got {type(value).__name__}")
        return StreamSource(x, layout, steps, shuffle, targets)
    return RowSource(as_batch(x, y, sample_weight, layout), batch_size or 32, shuffle, steps, repeat)


def _run_out(count: int, steps: int | None) -> str:
    return f"x has run out of batches after {count} of {steps} steps"


def _length(stream: Any) -> int | None:
    """Return the number of batches of an iterable, None if it does not know."""
    if isinstance(stream, PyDataset):
        return stream.num_batches
    try:
        return len(stream)
    except TypeError:
        return None


def is_stream(x: Any) -> bool:
    """Return whether `x` is an iterable of batches rather than rows."""
    if hasattr(x, "batches"):
        return True
    holds_rows = isinstance(x, (str, bytes, list, tuple, Mapping)) or hasattr(x, "__array__") or is_column(x)
    return hasattr(x, "__iter__") and not holds_rows
