"""Direct ways from a recurrent layer's call to the kernels, past all that only other calls need."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fastmask import kernels, ops
from fastmask.layers.calls import Call, Gradients, Pullback
from fastmask.layers.checks import Array
from fastmask.layers.flow import cotangents
from fastmask.ops._cell_gradients import PASSES, passes_through
from fastmask.ops._cells import is_small
from fastmask.ops._recurrent_gradients import Once
from fastmask.packing import Packing

if TYPE_CHECKING:
    from fastmask.layers.recurrent_base import Recurrent

# Plans of batches without a mask are kept, eight of them, up to so many tokens: 64 KiB each.
_MOST_TOKENS = 2048


def is_direct(layer: "Recurrent", x: Any, mask: Any) -> bool:
    """Whether `x` (B, T, F) is an array, and `mask` too, as the kernels take them."""
    if not (type(x) is np.ndarray and x.ndim == 3 and layer.built and layer.one_step and x.dtype == layer.dtype):
        return False
    rows, steps, features = x.shape
    flags = x.flags
    return (
        features == layer.features
        and rows * steps * features > 0
        and flags.c_contiguous
        and flags.aligned
        and (mask is None or _is_plain(mask, (rows, steps)))
        and not (layer.zero_output_for_mask and mask is not None)
    )


def _is_plain(mask: Any, shape: tuple[int, int]) -> bool:
    return type(mask) is np.ndarray and mask.dtype == np.bool_ and mask.shape == shape and mask.flags.c_contiguous


def is_short(layer: "Recurrent", x: Any, mask: Any, initial_state: Any) -> bool:
    """Whether so few rows and steps run sooner without packed weights: of a mask, a cell passes over masked steps."""
    rows, steps, features = x.shape
    weights = (features + layer.units) * layer.gates * layer.units
    return is_small(rows * steps, weights, True, mask is None and initial_state is None and repeats(layer))


def repeats(layer: "Recurrent") -> bool:
    """Whether calls of the layer without a given state are alike: from states of zeros to the last output."""
    return not (layer.stateful or layer.return_sequences or layer.go_backwards)


def run_cell(layer: "Recurrent", x: Any, mask: Any, initial_state: Any) -> Any:
    """Return the output of the layer for `x` (B, T, F) and keep its states if it is stateful."""
    states = layer.initial_states(initial_state, x.shape[0])
    y, after = _cell_of(layer).run(
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


def _cell_of(layer: "Recurrent") -> ops.Cell:
    cell = layer.prepared.cell
    bias = None if layer.bias is None else layer.bias.value
    if cell is None or not cell.holds(layer.kernel.value, layer.recurrent_kernel.value, bias):
        weights = layer.kernel.value, layer.recurrent_kernel.value, bias
        cell = layer.prepared.cell = ops.Cell(layer.op, *weights, **layer.cell_options())
    return cell


def forward(layer: "Recurrent", x: Any, call: Call) -> tuple[Any, Pullback | None] | None:
    """Return what ``layer.forward`` returns, for calls from states of zeros to the last output; None for others."""
    if call.initial_state is not None or not repeats(layer) or (call.training and layer.stochastic):
        return None
    if not is_direct(layer, x, call.mask):
        return None
    if call.keep:
        return None if layer.return_state else _vjp(layer, x, call.mask)
    y = _run_again(layer, x, call.mask)
    return None if y is None else (y, None)


def _run_again(layer: "Recurrent", x: Array, mask: Any) -> Any:
    again = layer.prepared.repetition(layer.kernel, layer.recurrent_kernel, layer.bias)
    if again is None or again.module is not kernels.module(layer.dtype):
        return None
    plan = _plan_of(x, mask, bool)
    if plan is None:
        return None
    states = again(x.reshape(-1, x.shape[2]), plan)
    return (states[0].copy(), *states) if layer.return_state else states[0]


def _vjp(layer: "Recurrent", x: Array, mask: Any) -> tuple[Any, Pullback] | None:
    cell = _cell_of(layer)
    plan = _plan_of(x, mask, partial(passes_through, cell))
    if plan is None:
        return None
    layer.prepared.forget()
    way = PASSES[layer.op](cell, x.reshape(-1, x.shape[2]), plan)
    y, once = way.output, Once()

    def pullback(dy: Any) -> Gradients:
        (d,) = cotangents(dy, y, layer.dtype)
        once.use()
        inputs, weights = way.pullback(cast(Array, d))
        return Gradients(inputs.reshape(x.shape), weights, None)

    return y, pullback


def _plan_of(x: Array, mask: Any, takes: Callable[[int], bool]) -> Packing | None:
    """The plan of a batch; None if so many tokens are not taken."""
    rows, steps = x.shape[:2]
    if mask is None:
        if not takes(rows * steps):
            return None
        return _kept_plan(rows, steps) if rows * steps <= _MOST_TOKENS else Packing.full(rows, steps)
    # Most masks leave more than a quarter.
    if not takes(rows * steps // 4 + 1):
        return None
    plan = Packing.from_mask(mask)
    return plan if takes(plan.tokens) else None


_kept_plan = lru_cache(maxsize=8)(Packing.full)
