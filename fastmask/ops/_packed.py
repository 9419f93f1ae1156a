"""Packed weights that calls hand on to each other."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from fastmask.ops._arrays import Array


class PackedWeights:
    """Where operations keep the packed form of one layer's weights from call to call.

    The kernels read weights in panels. An operation packs them at each call, unless it is given an object of this
    class in which an earlier call has left them; the result has the same bits. The object belongs to weights that
    stay as they are: once one of them changes, take a new one. Threads may share it. It takes as much memory as
    the weights, and a copy or pickle of it is empty.
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, Array] = {}

    def get(self, key: Hashable, make: Callable[[], Array]) -> Array:
        """Return what stands under `key`, which `make` makes if it is not there. The key tells the array's size."""
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = make()
        return found

    def __reduce__(self) -> tuple[type[PackedWeights], tuple[()]]:
        return type(self), ()
