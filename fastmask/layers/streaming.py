"""One step of a recurrent layer, past all that only whole batches need."""

from typing import TYPE_CHECKING, Any

import numpy as np

from fastmask import ops

if TYPE_CHECKING:
    from fastmask.layers.recurrent_base import Recurrent

# More rows than that share a reading of the weights sooner than they make up for packing them.
MOST_ROWS = 4


def streams(layer: "Recurrent", x: Any) -> bool:
    """Whether a call on `x` without mask or dropout is one step of a few rows of a layer that can take it so."""
    return (
        type(x) is np.ndarray
        and x.ndim == 3
        and x.shape[1] == 1
        and 0 < x.shape[0] <= MOST_ROWS
        and layer.built
        and layer.one_step
        and x.dtype == layer.dtype
        and x.shape[2] == layer.features
        and x.shape[2] > 0
        and x.flags.c_contiguous
        and x.flags.aligned
    )


def step(layer: "Recurrent", x: Any, initial_state: Any) -> Any:
    """Return the output of the layer for `x` (B, 1, F) and keep its states if it is stateful."""
    states = layer.initial_states(initial_state, x.shape[0])
    cell = layer.cell
    bias = None if layer.bias is None else layer.bias.value
    if cell is None or not cell.holds(layer.kernel.value, layer.recurrent_kernel.value, bias):
        weights = layer.kernel.value, layer.recurrent_kernel.value, bias
        cell = layer.cell = ops.Cell(layer.op, *weights, **layer.cell_options())
    after = cell.step(x[:, 0], states)
    if layer.stateful:
        # What the caller gets is the caller's to change.
        layer.states = tuple(state.copy() for state in after) if layer.return_state else (after[0].copy(), *after[1:])
    y = after[0][:, None] if layer.return_sequences else after[0]
    return (y, *after) if layer.return_state else y
