"""Where a run finds the products of its inputs and the kernel, if they are made before the first step."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from types import ModuleType
from typing import NamedTuple

from fastmask.batch.packing import Packing, TableRows
from fastmask.kernels.memory import aligned_empty
from fastmask.ops import tuning
from fastmask.ops._arrays import Array, Indices, readable_bias
from fastmask.ops._products import multiply
from fastmask.ops.rnn.spec import RNNSpec


class Dropout(NamedTuple):
    """Factors of the inputs and of the states that enter the recurrent product, the same at every step of a row.

    Attributes
    ----------
    inputs : array (1 or gates, B, F) or None
    states : array (1 or gates, B, H) or None
    """

    inputs: Array | None = None
    states: Array | None = None


def masked_values(module: ModuleType, values: Array, rows: Indices | None, plan: Packing, mask: Array) -> Array:
    """Each token in running order times its row's mask (B, F)."""
    out = aligned_empty((plan.tokens, values.shape[1]), values.dtype)
    module.scale_rows(values, rows, mask, plan.rows, out)
    return out


def masked_products(
    module: ModuleType, spec: RNNSpec, kernel: Array, bias: Array | None, tokens: Sequence[Array]
) -> Array:
    """Products of every token [N, gates * H]: one array of tokens (N, F) for the columns of each group of gates."""
    z = aligned_empty((tokens[0].shape[0], spec.columns), spec.dtype)
    width = spec.columns // len(tokens)
    for group, values in enumerate(tokens):
        columns = slice(group * width, (group + 1) * width)
        start = None if bias is None else readable_bias(module, bias[columns])
        multiply(module, values, kernel[:, columns], z[:, columns], start=start)
    return z


class TableProducts:
    """The products of a whole embedding table and a kernel, kept once as many rows have been multiplied as it has."""

    def __init__(self) -> None:
        self._multiplied: tuple[Hashable, int] = (None, 0)
        self._kept: tuple[Hashable, Array | None] = (None, None)

    def get(self, source: TableRows, key: Hashable, row_bytes: int, make: Callable[[Array], Array]) -> Array | None:
        """Return the products of the whole table, which ``make`` computes; None as long as they do not pay."""
        rows = source.table.shape[0]
        if rows * row_bytes > tuning.LARGEST_TABLE:
            return None
        key = (key, source.version)
        # One read and one write, as threads may be here at the same time.
        known, products = self._kept
        if products is not None and known == key:
            return products
        before, multiplied = self._multiplied
        multiplied = len(source.ids) + (multiplied if before == key else 0)
        self._multiplied = key, multiplied
        if multiplied <= rows:
            return None
        products = make(source.table)
        self._kept = key, products
        return products
