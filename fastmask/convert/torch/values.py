"""What stands for the tensors of a forward while it is turned into a graph of layers."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastmask import layers
from fastmask.convert.torch.modules import make_cell
from fastmask.layers.base.symbolic import KerasTensor

Need = tuple[str, int]
"""What is asked of a recurrent module: its "sequence", "both" directions of a layer, or "h" or "c" of one of them."""


class NoCounterpartError(ValueError):
    """A part of a module that fastmask has no layers for."""


class Value(NamedTuple):
    """A tensor with the batch before the time, and what comes first in PyTorch: "batch", "time", or it is "packed"."""

    tensor: KerasTensor
    layout: str = "batch"

    def axis(self, dim: Any) -> int | None:
        """Return the axis of a dimension in PyTorch; None if it has no such axis."""
        rank = self.tensor.ndim
        if not isinstance(dim, int) or not -rank <= dim < rank or self.layout == "packed":
            return None
        return 1 - dim % rank if self.layout == "time" and dim % rank < 2 else dim % rank


class Argument(NamedTuple):
    """An argument of the forward, which becomes an input where a layer takes it."""

    node: Any


class Unknown(NamedTuple):
    """A size, a device, or the result of what has no counterpart: an error only where a layer takes it."""

    what: str


class Zeros(NamedTuple):
    """Zeros of some shape."""


class Pair(tuple[Any, ...]):
    """What a recurrent module returns: its output and its states."""


class Output(NamedTuple):
    """The outputs of all steps of a recurrent module."""

    of: Recurrence


class Mapped(NamedTuple):
    """Such outputs after a layer that takes each step by itself."""

    of: Any
    layer: Any


class Stack(NamedTuple):
    """The last states of all layers and directions; `kind` is "h" or "c"."""

    of: Recurrence
    kind: str


class Final(NamedTuple):
    """The last state of one layer and direction."""

    of: Recurrence
    kind: str
    place: int


class Recurrence:
    """A call of a recurrent module.

    Parameters
    ----------
    stack : RecurrentStack
    x : Value
    starts : list of tuple of KerasTensor, or None, for each layer
        Its initial states.
    """

    def __init__(self, stack: RecurrentStack, x: Value, starts: list[Any]) -> None:
        self.stack, self.layout = stack, x.layout
        self._found: dict[Need, KerasTensor] = {}
        y: Any = x.tensor
        for number, (layer, start) in enumerate(zip(stack.layers, starts, strict=True)):
            if number and stack.dropouts:
                y = stack.dropouts[number - 1](y)
            y = layer(y, initial_state=start)
            if isinstance(y, tuple):
                y, *states = y
                self._found |= dict(zip(stack.states_of(number), states, strict=True))
            if not layer.return_sequences:
                self._found["h" if stack.directions == 1 else "both", number] = y
        self._found["sequence", 0] = y

    def take(self, kind: str, place: int = 0) -> KerasTensor:
        """Return what is needed, and keep in mind that it was."""
        self.stack.taken.add((kind, place))
        if kind == "both" and ("both", place) not in self._found:
            pair = [self._found["h", 2 * place], self._found["h", 2 * place + 1]]
            self._found["both", place] = layers.Concatenate()(pair)
        return self._found[kind, place]


class RecurrentStack:
    """The layers of a recurrent module.

    Parameters
    ----------
    module : torch.nn.RNNBase
    name : str
    needs : set of Need, or None
        What is needed of them; None stands for everything.
    **options
        Arguments of every layer.

    Attributes
    ----------
    taken : set of Need
        What has been taken of them.
    """

    def __init__(self, module: Any, name: str, needs: set[Need] | None, **options: Any) -> None:
        self.module, self.needs = module, needs
        self.taken: set[Need] = set()
        self.kinds = "hc" if module.mode == "LSTM" else "h"
        self.directions = 2 if module.bidirectional else 1
        self.layers: list[Any] = []
        last = module.num_layers - 1
        for number in range(module.num_layers):
            sequences = number < last or self._needs("sequence", 0)
            states = self._needs_states(number, sequences)
            self.layers.append(make_cell(module, f"{name}_l{number}", sequences, states, **options))
        names = [f"{name}_dropout_l{number}" for number in range(last if module.dropout else 0)]
        self.dropouts = [layers.Dropout(module.dropout, name=own, **options) for own in names]

    def states_of(self, number: int) -> list[Need]:
        """Return the states of a layer in the order in which it returns them."""
        first = number * self.directions
        return [(kind, place) for place in range(first, first + self.directions) for kind in self.kinds]

    def _needs(self, kind: str, place: int) -> bool:
        return self.needs is None or (kind, place) in self.needs

    def _needs_states(self, number: int, sequences: bool) -> bool:
        """Return whether a layer must return its states, or what it returns as its output is all that is needed."""
        wanted = {need for need in self.states_of(number) if self._needs(*need)}
        if self.directions == 2:
            return bool(wanted) or (sequences and self._needs("both", number))
        return bool(wanted if sequences else wanted - {("h", number)})
