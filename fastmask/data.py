"""What `fit`, `evaluate` and `predict` are given, checked and cut into batches."""

import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmask.packing import PackedSequence, Packing
from fastmask.random import global_generator

Array = NDArray[Any]
Values = Array | list[Array]  # an array whose first axis counts rows, or one array per row


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What one input of a model takes: ids or features, and how many axes, None if unknown."""

    name: str
    ids: bool
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """The inputs of a model and the names of its outputs; `listed` if the one input stands in a list."""

    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    listed: bool = False


@dataclass(frozen=True, slots=True)
class Rows:
    """An input, and targets and sample weights of one output, of the same rows."""

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


@dataclass(frozen=True, slots=True)
class Batch:
    """All inputs, targets and sample weights of the same rows: an entry per input or output, None if not given."""

    x: list[Values]
    y: list[Values | None]
    weights: list[Values | None]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.x[0])

    def take(self, chosen: slice | Array) -> "Batch":
        """Return some of the rows."""
        return Batch(*([_take(values, chosen) for values in part] for part in (self.x, self.y, self.weights)))

    def rows(self, index: int, output: Any = None) -> Rows:
        """Return what belongs to output number `index`, with the input whose sequences it follows."""
        listed = [x for x in self.x if isinstance(x, list)]
        x = self.x[0]
        if listed and isinstance(output, PackedSequence):
            x = _followed(listed, output.packing)
        return Rows(x, self.y[index], self.weights[index])


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
        Whether an epoch of `steps` batches starts where the one before stopped, in pass after
        pass, instead of anew.
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
        self.endless = self._forever() if repeat and steps is not None else None
        self.steps = steps if self.endless is not None else min(whole, steps or whole)

    def epoch(self) -> Generator[Batch, None, None]:
        """Yield the batches of the next epoch."""
        yield from islice(self._once() if self.endless is None else self.endless, self.steps)

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

    def _once(self) -> Iterator[Batch]:
        order = global_generator().permutation(len(self.rows)) if self.shuffle else None
        for start in range(0, len(self.rows), self.batch_size):
            chosen = slice(start, start + self.batch_size)
            yield self.rows.take(chosen if order is None else order[chosen])

    def _forever(self) -> Iterator[Batch]:
        while True:
            yield from self._once()


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
            warnings.warn(f"x has run out of batches after {count} of {self.steps} steps", stacklevel=2)

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
) -> RowSource | StreamSource:
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


def is_stream(x: Any) -> bool:
    """Return whether `x` is an iterable of batches rather than rows."""
    if hasattr(x, "batches"):
        return True
    return hasattr(x, "__iter__") and not isinstance(x, (list, tuple, Mapping)) and not hasattr(x, "__array__")


def as_batch(x: Any, y: Any, sample_weight: Any, layout: Layout) -> Batch:
    """Return checked data.

    Parameters
    ----------
    x : array_like (B, ...), or sequence of B sequences of different lengths
        Those have shape (t_i,) for ids, else (t_i, F). An array of objects is a sequence too.
        A list or dict of these for several inputs.
    y : array_like (B, ...), or sequence of B arrays, optional
        A list or dict of these for several outputs.
    sample_weight : array_like (B,) or (B, T), or sequence of B arrays (t_i,), optional
        Also a list or dict of these for several outputs; otherwise it is for all of them.
    layout : Layout

    Raises
    ------
    ValueError
        If the arguments do not have the same number of rows or a shape is impossible.
    TypeError
        If `y` or `sample_weight` does not hold real numbers.
    """
    names = [spec.name for spec in layout.inputs]
    alone = layout.listed and isinstance(x, (list, tuple)) and len(x) == 1
    alone = alone and np.ndim(x[0]) == layout.inputs[0].rank
    x = list(x) if alone else split("x", x, names, required=True)
    inputs = [_input(entry, spec) for entry, spec in zip(x, layout.inputs, strict=True)]
    if isinstance(y, (list, tuple)) and len(y) == 1 == len(layout.outputs) and len(inputs[0]) != 1:
        y = y[0]
    given = {"y": split("y", y, layout.outputs), "sample_weight": _shared(sample_weight, layout.outputs)}
    checked = {name: [_per_row(name, value) for value in values] for name, values in given.items()}
    batch = Batch(inputs, checked["y"], checked["sample_weight"])
    rows = len(batch)
    for name, parts in (("x", batch.x), *checked.items()):
        for part in parts:
            if part is not None and len(part) != rows:
                raise ValueError(f"x and {name} must have the same number of rows, got {rows} and {len(part)}")
    return batch


def split(argument: str, values: Any, names: Sequence[str], required: bool = False) -> list[Any]:
    """Return an entry for each name from a dict, a list, or what is given for a single one."""
    if isinstance(values, Mapping):
        missing = [name for name in names if name not in values] if required else []
        unknown = [] if required else [name for name in values if name not in names]
        if missing or unknown:
            raise ValueError(
                f"{argument} must have the keys {', '.join(names)}, got {', '.join(map(str, values)) or 'none'}"
            )
        return [values.get(name) for name in names]
    if len(names) == 1:
        return [values]
    if values is None and not required:
        return [None] * len(names)
    if not isinstance(values, (list, tuple)) or len(values) != len(names):
        found = f"{len(values)} entries" if isinstance(values, (list, tuple)) else type(values).__name__
        raise ValueError(
            f"{argument} must be a list or dict with one entry for each of {', '.join(names)}, got {found}"
        )
    return list(values)


def _shared(weights: Any, outputs: Sequence[str]) -> list[Any]:
    """Return the sample weights of each output; those that are not given by output hold for all."""
    count = len(outputs)
    listed = isinstance(weights, (list, tuple)) and len(weights) == count
    by_output = isinstance(weights, Mapping) or (listed and any(w is None or np.ndim(w) for w in weights))
    return split("sample_weight", weights, outputs) if by_output and count > 1 else [weights] * count


def _input(x: Any, spec: InputSpec) -> Values:
    values = _sequences(x, spec.ids) if _is_rows(x) else np.asarray(x)
    if not isinstance(values, list) and values.ndim == 0:
        raise ValueError(f"x must have an axis of rows, got {x!r}")
    if not len(values):
        raise ValueError("x must have at least one row")
    return values


def _followed(inputs: list[list[Array]], plan: Packing) -> list[Array]:
    """Return the input whose sequences have the lengths of a plan; failing that, one that could have."""
    lengths = [np.array([len(row) for row in rows]) for rows in inputs]
    for rows, own in zip(inputs, lengths, strict=True):
        if np.array_equal(own, plan.lengths):
            return rows
    fits = (own.max() == plan.total_length and np.all(own >= plan.lengths) for own in lengths)
    return next((rows for rows, fit in zip(inputs, fits, strict=True) if fit), inputs[0])


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
