"""What a recurrent layer computes: the one table of cells, and the description that programs are made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from fastmask.ops._activations import recurrent_code

Shape = tuple[int, ...]


class CellKind(NamedTuple):
    """A cell of the kernels.

    Attributes
    ----------
    gates : int
        Blocks of width `units` in the kernels.
    states : tuple of str
        The first one is the output.
    code : str
        Name of the cell's number in the compiled modules.
    stored : int
        Blocks of width `units` that training keeps of every token.
    """

    gates: int
    states: tuple[str, ...]
    code: str
    stored: int


CELLS = {
    "simple_rnn": CellKind(1, ("h",), "SIMPLE_RNN", 0),
    "lstm": CellKind(4, ("h", "c"), "LSTM", 4),
    "gru": CellKind(3, ("h",), "GRU", 4),
}
_RESET_BEFORE = CELLS["gru"]._replace(code="GRU_RESET_BEFORE")


@dataclass(frozen=True)
class RNNSpec:
    """What a recurrent layer computes, apart from the numbers in its weights.

    Parameters
    ----------
    cell : {"simple_rnn", "lstm", "gru"}
    features, units : int
        Widths F of the inputs and H of the states.
    precision : {"float32", "float64", "int8"}, default "float32"
        Of the products; with int8, kernels, inputs and states are quantised, and all else is float32.
    activation, recurrent_activation : str or None
        Names of :data:`fastmask.ops.RECURRENT_ACTIVATIONS`; None is linear. A SimpleRNN has no second one.
    reset_after : bool, default True
        Whether a GRU resets after the recurrent product.
    use_bias : bool, default True
    go_backwards : bool, default False
        Whether it runs from the last valid step to the first.

    Attributes
    ----------
    gates : int
    states : tuple of str
    kernel_shape, recurrent_shape, bias_shape : tuple of int
        Of the weights in Keras's layout.
    codes : tuple of two int
        The activations by the numbers of the kernels.
    columns, recurrent_columns : int
        Of the kernels, and those that meet the states themselves: without ``reset_after`` the candidate's do not.
    resets_before : bool
        Whether it is a GRU that multiplies the states by the reset gate before the recurrent product.

    Raises
    ------
    ValueError
        If `cell` or an activation is unknown.
    """

    cell: str
    features: int
    units: int
    precision: str = "float32"
    activation: str | None = "tanh"
    recurrent_activation: str | None = "sigmoid"
    reset_after: bool = True
    use_bias: bool = True
    go_backwards: bool = False
    kind: CellKind = field(init=False, repr=False, compare=False)
    dtype: np.dtype[Any] = field(init=False, repr=False, compare=False)
    gates: int = field(init=False, repr=False, compare=False)
    states: tuple[str, ...] = field(init=False, repr=False, compare=False)
    columns: int = field(init=False, repr=False, compare=False)
    recurrent_columns: int = field(init=False, repr=False, compare=False)
    kernel_shape: Shape = field(init=False, repr=False, compare=False)
    recurrent_shape: Shape = field(init=False, repr=False, compare=False)
    bias_shape: Shape = field(init=False, repr=False, compare=False)
    codes: tuple[int, int] = field(init=False, repr=False, compare=False)
    resets_before: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.cell not in CELLS:
            raise ValueError(f"cell: expected one of {', '.join(CELLS)}, got {self.cell!r}")
        before = self.cell == "gru" and not self.reset_after
        kind = _RESET_BEFORE if before else CELLS[self.cell]
        columns = kind.gates * self.units
        second = 0 if self.cell == "simple_rnn" else recurrent_code("recurrent_activation", self.recurrent_activation)
        dtype = np.dtype("float32" if self.precision == "int8" else self.precision)
        self.__dict__.update(
            kind=kind, gates=kind.gates, states=kind.states, dtype=dtype, columns=columns,
            recurrent_columns=2 * self.units if before else columns,
            kernel_shape=(self.features, columns), recurrent_shape=(self.units, columns),
            bias_shape=(2, columns) if kind.code == "GRU" else (columns,),
            codes=(recurrent_code("activation", self.activation), second), resets_before=before,
        )
