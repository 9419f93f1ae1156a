"""What `fit`, `evaluate` and `predict` are given, checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmask.batch.packing import PackedSequence, Packing
from fastmask.batch.rows import Values, as_rows
from fastmask.core.arguments import real_numbers
from fastmask.core.structure import aligned

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What one input of a model takes: ids or features, and their shape with the batch axis, None if unknown."""

    name: str
    ids: bool
    shape: tuple[int | None, ...] | None = None

    def is_whole(self, x: Any) -> bool:
        """Return whether what stands in a list alone is the whole input, not the one row of a batch."""
        axes = None if self.shape is None else len(self.shape)
        return (x.ndim if hasattr(x, "ndim") else _depth(x)) == axes

    def fitted(self, x: Array) -> Array:
        """Return an array with as many axes as the input: a last one of size 1 is added or taken off.

        Raises
        ------
        ValueError
            If the shape does not fit.
        """
        wanted, given = self.shape, x.shape
        if wanted is None:
            return x
        if x.ndim == len(wanted) + 1 and given[-1] == 1:
            x = x[..., 0]
        elif x.ndim == len(wanted) - 1 and wanted[-1] == 1:
            x = x[..., None]
        misfits = [own for n, own in zip(wanted[1:], x.shape[1:], strict=False) if n is not None and n != own]
        if x.ndim != len(wanted) or misfits:
            open_axes = ("B", "T") if len(wanted) > 1 and wanted[1] is None else ("B",)
            names = [*open_axes, *("?" if n is None else str(n) for n in wanted[len(open_axes) :])]
            raise ValueError(f"x: expected shape ({', '.join(names)}) for input {self.name!r}, got {given}")
        return x


@dataclass(frozen=True, slots=True)
class Layout:
    """The inputs of a model, and the names of inputs and outputs in the form in which the model has them."""

    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...] = ("y",)
    input_form: Any = "x"
    output_form: Any = "y"


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


def as_batch(x: Any, y: Any, sample_weight: Any, layout: Layout) -> Batch:
    """Return checked data.

    Parameters
    ----------
    x : array_like (B, ...), or sequence of B sequences of different lengths
        Those have shape (t_i,) for ids, else (t_i, F), or more axes as the input has. `as_rows` says what a sequence
        may be. A list or dict of these for several inputs.
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
    inputs = as_inputs(x, layout)
    if y is None and sample_weight is None:
        nothing: list[Values | None] = [None] * len(layout.outputs)
        return Batch(inputs, nothing, nothing)
    if isinstance(y, (list, tuple)) and len(y) == 1 == len(layout.outputs) and len(inputs[0]) != 1:
        y = y[0]
    if not len(inputs[0]):
        raise ValueError("x: expected at least one row with targets, got none")
    form = layout.output_form
    given = {"y": aligned("y", y, form), "sample_weight": _shared(sample_weight, form, len(layout.outputs))}
    checked = {name: [_per_row(name, value) for value in values] for name, values in given.items()}
    for name, parts in checked.items():
        for part in parts:
            if part is not None and len(part) != len(inputs[0]):
                raise ValueError(
                    f"x, {name}: expected the same number of rows, got {len(inputs[0])} and {len(part)}"
                )
    return Batch(inputs, checked["y"], checked["sample_weight"])


def as_inputs(x: Any, layout: Layout) -> list[Values]:
    """Return checked data for each input; arguments and errors as for `as_batch`."""
    specs = layout.inputs
    if len(specs) == 1 and type(x) is np.ndarray and x.dtype != np.object_:
        return [_input(x, specs[0])]
    alone = len(specs) == 1 and isinstance(x, (list, tuple)) and len(x) == 1 and specs[0].is_whole(x[0])
    parts = list(x) if alone else aligned("x", x, layout.input_form, required=True)
    inputs = [_input(entry, spec) for entry, spec in zip(parts, specs, strict=True)]
    for part in inputs:
        if len(part) != len(inputs[0]):
            raise ValueError(f"x: expected as many rows in each input, got {len(inputs[0])} and {len(part)}")
    return inputs


def _shared(weights: Any, names: Any, count: int) -> list[Any]:
    """Return the sample weights of each output; those that are not given by output hold for all."""
    listed = isinstance(weights, (list, tuple)) and len(weights) in (count, len(names))
    by_output = isinstance(weights, Mapping) or (listed and any(w is None or _has_axes(w) for w in weights))
    return aligned("sample_weight", weights, names) if by_output and count > 1 else [weights] * count


def _depth(x: Any) -> int:
    """Return how many lists stand one in another."""
    depth = 0
    while isinstance(x, (list, tuple)) and len(x):
        x, depth = x[0], depth + 1
    return depth + np.ndim(x)


def _has_axes(values: Any) -> bool:
    return isinstance(values, (list, tuple, Mapping)) or np.ndim(values) > 0


def _input(x: Any, spec: InputSpec) -> Values:
    values: Values = x
    if type(x) is not np.ndarray or x.dtype.kind not in "biufc":
        values = as_rows("x", x)
        values = _sequences(values, spec) if isinstance(values, list) else values
    if not isinstance(values, list):
        if values.ndim == 0:
            raise ValueError(f"x: expected an axis of rows, got {x!r}")
        return spec.fitted(values)
    longest = None if spec.shape is None else spec.shape[1]
    for i, row in enumerate(values):
        if longest is not None and len(row) > longest:
            raise ValueError(f"x[{i}]: expected at most {longest} steps for input {spec.name!r}, got {len(row)}")
    return values


def _followed(inputs: list[list[Array]], plan: Packing) -> list[Array]:
    """Return the input whose sequences have the lengths of a plan; failing that, one that could have."""
    plan = plan if len(plan.leading) == 1 else plan.outer
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


def _sequences(rows: list[Array], spec: InputSpec) -> Values:
    """Return sequences as a list of arrays, rows of plain features as one array, and so no rows at all."""
    ids, shape = spec.ids, spec.shape or ()
    if not rows:
        if not shape:
            raise ValueError("x: expected at least one row to build the model with, got none")
        return np.zeros([0, *(n or 0 for n in shape[1:])], np.int64 if ids else np.float32)
    axes = max(len(shape) - 1, 1 if ids else 2)
    within = shape[2 : axes + 1 if ids else axes]
    if not ids and all(row.ndim < 2 for row in rows):
        if len({row.shape for row in rows}) > 1:
            raise ValueError(
                "x: expected sequences of shape (t_i, F) or rows of one length, got rows of "
                f"{sorted({row.shape for row in rows})[:5]}"
            )
        return np.array(rows)
    for i, row in enumerate(rows):
        if row.ndim != axes or (within and not _fits(within, row.shape[1:])):
            names = ["t", *("?" if n is None else str(n) for n in within), *([] if ids else ["F"])]
            wanted = f"({', '.join(names)}{',' if axes == 1 else ''}){' of ids' if ids else ''}"
            raise ValueError(f"x[{i}]: expected shape {wanted}, got {row.shape}")
    return [row.astype(np.int64) for row in rows] if ids and not any(map(len, rows)) else rows


def _fits(wanted: Sequence[int | None], shape: Sequence[int]) -> bool:
    return all(n in (None, own) for n, own in zip(wanted, shape, strict=False))


def _per_row(name: str, values: Any) -> Any:
    if values is None:
        return None
    rows: Any = as_rows(name, values)
    if isinstance(rows, list) and not any(row.ndim for row in rows):
        rows = np.array(rows)
    for array in rows if isinstance(rows, list) else [rows]:
        real_numbers(name, array)
    if isinstance(rows, np.ndarray) and rows.ndim == 0:
        raise ValueError(f"{name}: expected an axis of rows, got {values!r}")
    return rows
