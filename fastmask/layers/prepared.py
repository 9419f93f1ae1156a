"""What a layer makes from its weights and keeps between calls."""

from typing import Any

from fastmask.layers.variable import Variable
from fastmask.ops import Cell, PackedWeights
from fastmask.ops._repeated import Repetition


class Prepared:
    """The packed weights of a layer, until one of them changes or training begins.

    A copy or pickle is empty: a copy of the layer has weights of its own.

    Attributes
    ----------
    cell : Cell or None
        Of a recurrent layer; it reads the weights where they lie, so it outlives their changes.
    """

    def __init__(self) -> None:
        self.cell: Cell | None = None
        self._packed: tuple[tuple[int | None, ...], PackedWeights | None] = ((), None)

    def options(self, keep: bool, *weights: Variable | None) -> dict[str, Any]:
        """Return the argument ``packed`` of an operation on `weights`; none if it is to `keep` a pullback."""
        if keep:
            self.forget()
            return {}
        return {"packed": self._packed_from(tuple([w.version for w in weights if w is not None]))}

    def forget(self) -> None:
        """Give up the packed weights: training begins."""
        self._packed = (), None

    def repetition(self, *weights: Variable | None) -> Repetition | None:
        """Return what an earlier operation on these weights has left for calls like it, if they are as they were."""
        known, packed = self._packed
        current = known == tuple([w.version for w in weights if w is not None])
        return packed.repetition if packed is not None and current else None

    def _packed_from(self, versions: tuple[int | None, ...]) -> PackedWeights:
        # One read and one write of the pair: threads may be here at the same time. What another thread packs while
        # this one's versions are still in force is the same.
        known, packed = self._packed
        if packed is None or known != versions:
            packed = PackedWeights()
            if None not in versions:
                self._packed = versions, packed
        return packed

    def __reduce__(self) -> tuple[type["Prepared"], tuple[()]]:
        return type(self), ()
