"""Packed weights that calls hand on to each other."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from fastmask.ops._arrays import Array
from fastmask.packing import TableRows

if TYPE_CHECKING:
    from fastmask.ops._repeated import Repetition

# The products of a larger table are not kept: 20,000 words times the gates of an LSTM of 128 units take 39 MiB.
_LARGEST_TABLE = 64 * 2**20


class PackedWeights:
    """Where operations keep the packed form of one layer's weights from call to call.

    The kernels read weights in panels. An operation packs them at each call, unless it is given an object of this
    class in which an earlier call has left them; the result has the same bits. The object belongs to weights that
    stay as they are: once one of them changes, take a new one. Threads may share it. It takes as much memory as
    the weights, and a copy or pickle of it is empty.

    Where the inputs are rows of a table, recurrent operations also keep the products of the whole table and the
    input weights, in at most 64 MiB: once as many rows have been multiplied as the table has.

    Attributes
    ----------
    repetition : Repetition or None
        Left by a recurrent operation on padded batches, for calls like it.
    """

    def __init__(self) -> None:
        self.repetition: Repetition | None = None
        self._made: dict[Hashable, Array] = {}
        self._multiplied: dict[Hashable, int] = {}
        self._products: tuple[Hashable, Array] | None = None

    def get(self, key: Hashable, make: Callable[[], Array]) -> Array:
        """Return what stands under `key`, which `make` makes if it is not there. The key tells the array's size."""
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = make()
        return found

    def table_products(
        self, source: TableRows, key: Hashable, row_bytes: int, make: Callable[[Array], Array]
    ) -> Array | None:
        """Return the products of the whole table, which ``make`` computes; None as long as they do not pay."""
        rows = len(source.table)
        if rows * row_bytes > _LARGEST_TABLE:
            return None
        key = (key, source.version)
        # One read and one write, as threads may be here at the same time.
        kept = self._products
        if kept is not None and kept[0] == key:
            return kept[1]
        multiplied = self._multiplied.get(key, 0) + len(source.ids)
        if multiplied <= rows:
            self._multiplied = {key: multiplied}
            return None
        products = make(source.table)
        self._products = key, products
        return products

    def __reduce__(self) -> tuple[type[PackedWeights], tuple[()]]:
        return type(self), ()
