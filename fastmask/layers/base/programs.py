"""What a layer makes from its weights and keeps until one of them changes."""

from collections.abc import Callable
from typing import Generic, TypeVar

from fastmask.layers.base.variable import Variable

Program = TypeVar("Program")


class Kept(Generic[Program]):
    """A program on some weights, as long as they stay as they are.

    A copy or pickle is empty: a copy of the layer has weights of its own.
    """

    def __init__(self) -> None:
        self._kept: tuple[tuple[int | None, ...], Program | None] = ((), None)

    def get(self, make: Callable[[], Program], *weights: Variable | None) -> Program:
        """Return the program on these weights, which ``make`` makes if they have changed."""
        # One read and one write of the pair: threads may be here at the same time. What another thread makes while
        # this one's versions are still in force is the same.
        versions = tuple([weight.version for weight in weights if weight is not None])
        known, program = self._kept
        if program is None or known != versions:
            program = make()
            if None not in versions:
                self._kept = versions, program
        return program

    def __reduce__(self) -> tuple[type["Kept[Program]"], tuple[()]]:
        return type(self), ()
