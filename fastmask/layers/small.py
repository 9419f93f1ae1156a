"""Short runs of a recurrent layer over few rows, past all that only larger batches need."""

from typing import TYPE_CHECKING, Any

import numpy as np

from fastmask import ops
from fastmask.ops._cells import is_small

if TYPE_CHECKING:
    from fastmask.layers.recurrent_base import Recurrent


def takes(layer: "Recurrent", x: Any, mask: Any) -> bool:
    """Whether a call without dropout is a short run of a layer that can take it so."""
    if not (type(x) is np.ndarray and x.ndim == 3 and layer.built and layer.one_step and x.dtype == layer.dtype):
        return False
    rows, steps, features = x.shape
    flags = x.flags
    weights = (features + layer.units) * layer.gates * layer.units
    return (
        features == layer.features
        and rows * steps * features > 0
        and is_small(rows * steps, weights, packed=True)
        and flags.c_contiguous
        and flags.aligned
        and (mask is None or _is_plain(mask, (rows, steps)))
        and not (layer.zero_output_for_mask and mask is not None)
    )


def _is_plain(mask: Any, shape: tuple[int, int]) -> bool:
    return type(mask) is np.ndarray and mask.dtype == np.bool_ and mask.shape == shape and mask.flags.c_contiguous


def run(layer: "Recurrent", x: Any, mask: Any, initial_state: Any) -> Any:
    """Return the output of the layer for `x` (B, T, F) and keep its states if it is stateful."""
    states = layer.initial_states(initial_state, x.shape[0])
    cell = layer.prepared.cell
    bias = None if layer.bias is None else layer.bias.value
    if cell is None or not cell.holds(layer.kernel.value, layer.recurrent_kernel.value, bias):
        weights = layer.kernel.value, layer.recurrent_kernel.value, bias
        cell = layer.prepared.cell = ops.Cell(layer.op, *weights, **layer.cell_options())
    y, after = cell.run(
        x, mask, states, go_backwards=layer.go_backwards, return_sequences=layer.return_sequences
    )
    if layer.stateful:
        # What the caller gets is the caller's to change.
        given = len(after) if layer.return_state else int(y is None)
        layer.states = (*[state.copy() for state in after[:given]], *after[given:])
    if y is None:
        y = after[0].copy() if layer.return_state else after[0]
        if states is not None and mask is not None:
            y = np.where(mask.any(axis=1)[:, None], y, y.dtype.type(0))
    return (y, *after) if layer.return_state else y
