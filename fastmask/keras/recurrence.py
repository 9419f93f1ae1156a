"""A call of a recurrent layer as a function of padded arrays, with its gradient: what all of Keras's backends share."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmask import ops
from fastmask.packing import PackedSequence

Array = NDArray[Any]
Arrays = tuple[Array, ...]
Pullback = Callable[..., Arrays]

_STATES = {"lstm": 2, "gru": 1, "simple_rnn": 1}


@dataclass(frozen=True)
class Recurrence:
    """What one layer computes; the same for every batch.

    Parameters
    ----------
    op : {"lstm", "gru", "simple_rnn"}
    activation, recurrent_activation : str
        Names of `fastmask.ops.RECURRENT_ACTIVATIONS`; a SimpleRNN has no second one.
    use_bias, go_backwards, return_sequences, zero_output_for_mask, reset_after : bool
        As in Keras.
    shows_initial_state : bool
        Whether the outputs before the first valid step are the initial state (Keras under JAX and NumPy) or
        zeros (Keras under TensorFlow and PyTorch).
    """

    op: str
    activation: str
    recurrent_activation: str | None
    use_bias: bool
    go_backwards: bool
    return_sequences: bool
    zero_output_for_mask: bool
    reset_after: bool
    shows_initial_state: bool

    @property
    def states(self) -> int:
        """Number of states."""
        return _STATES[self.op]

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments for the operation of `fastmask.ops`."""
        found: dict[str, Any] = {
            "activation": self.activation,
            "go_backwards": self.go_backwards,
            "return_sequences": self.return_sequences,
        }
        if self.op != "simple_rnn":
            found["recurrent_activation"] = self.recurrent_activation
        if self.op == "gru":
            found["reset_after"] = self.reset_after
        return found

    def split(self, arrays: Sequence[Any]) -> tuple[Any, Any, Any, Any, tuple[Any, ...]]:
        """Return x, kernel, recurrent kernel, bias (or None) and states from the flat arguments."""
        x, kernel, recurrent_kernel, *rest = arrays
        bias = rest.pop(0) if self.use_bias else None
        return x, kernel, recurrent_kernel, bias, tuple(rest)


def run(recurrence: Recurrence, arrays: Sequence[Array], mask: Array | None) -> Arrays:
    """Run a layer.

    Parameters
    ----------
    recurrence : Recurrence
    arrays : sequence of float32 or float64 arrays
        x (B, T, F), kernel, recurrent kernel, the bias if there is one, initial states (B, H).
    mask : array (B, T) or (B, T, 1) of any dtype, or None
        Zero where a step does not count.

    Returns
    -------
    tuple of arrays
        Outputs (B, T, H) in processing order, or the last one (B, H) without `return_sequences`; then the
        final states (B, H).
    """
    x, kernel, recurrent_kernel, bias, initial = recurrence.split(arrays)
    packed = PackedSequence.from_padded(x, _grid(mask, x.shape))
    function = getattr(ops, recurrence.op)
    sequence, states = function(packed, kernel, recurrent_kernel, bias, initial, **recurrence.options)
    shown, _ = _shown(recurrence, sequence, states[0], initial[0], packed)
    return shown, *states


def run_vjp(recurrence: Recurrence, arrays: Sequence[Array], mask: Array | None) -> tuple[Arrays, Pullback]:
    """Like `run`, with a pullback from gradients of all results to gradients of all `arrays`; it can be called once."""
    x, kernel, recurrent_kernel, bias, initial = recurrence.split(arrays)
    packed, spread = ops.pack_vjp(x, _grid(mask, x.shape))
    function = getattr(ops, f"{recurrence.op}_vjp")
    (sequence, states), backward = function(packed, kernel, recurrent_kernel, bias, initial, **recurrence.options)
    shown, hide = _shown(recurrence, sequence, states[0], initial[0], packed)

    def pullback(d_shown: Array, *d_states: Array) -> Arrays:
        d_sequence, d_last, d_first = hide(np.asarray(d_shown))
        first = d_states[0] if d_last is None else d_states[0] + d_last
        found = backward(d_sequence, (first, *d_states[1:]))
        d_initial = list(found.initial_state)
        if d_first is not None:
            d_initial[0] = d_initial[0] + d_first
        d_bias = () if bias is None else (found.bias,)
        return spread(found.inputs), found.kernel, found.recurrent_kernel, *d_bias, *d_initial

    return (shown, *states), pullback


class Pullbacks:
    """Pullbacks of the latest runs of one layer call, by handle.

    Graphs of TensorFlow and JAX carry arrays alone, so a graph carries the handle. Each pullback is taken once;
    where it is gone (a second backward, a loop around the layer), the forward pass runs again.

    Parameters
    ----------
    recurrence : Recurrence
    """

    # A step of training goes forward and backward before the next one; the second covers a step that overlaps.
    _KEPT = 2

    def __init__(self, recurrence: Recurrence) -> None:
        self._recurrence = recurrence
        self._lock = Lock()
        self._handles = count(1)
        self._kept: OrderedDict[int, Pullback] = OrderedDict()

    def forward(self, arrays: Sequence[Array], mask: Array | None) -> tuple[Arrays, int]:
        """Return what `run` returns, and the handle of a pullback."""
        # The memory of weights and states may be the backend's to use again once this returns; x is packed, so copied.
        results, pullback = run_vjp(self._recurrence, [arrays[0], *(array.copy() for array in arrays[1:])], mask)
        with self._lock:
            handle = next(self._handles) % (1 << 31)
            self._kept[handle] = pullback
            while len(self._kept) > self._KEPT:
                self._kept.popitem(last=False)
        return results, handle

    def backward(self, handle: int, arrays: Sequence[Array], mask: Array | None, d_results: Sequence[Array]) -> Arrays:
        """Return the gradients of `arrays`, which are those of the forward run."""
        with self._lock:
            pullback = self._kept.pop(handle, None)
        if pullback is None:
            _, pullback = run_vjp(self._recurrence, arrays, mask)
        return pullback(*d_results)


def _grid(mask: Array | None, shape: tuple[int, ...]) -> Array | None:
    """Return a mask as bool (B, T)."""
    if mask is None:
        return None
    grid = mask if mask.ndim == 2 else mask[..., 0]
    grid = grid if grid.dtype == bool else grid != 0
    return np.broadcast_to(grid, shape[:2]) if grid.shape[0] == 1 else grid


Hide = Callable[[Array], tuple[Array | None, Array | None, Array | None]]


def _shown(
    recurrence: Recurrence, sequence: PackedSequence | None, last: Array, initial: Array, packed: PackedSequence
) -> tuple[Array, Hide]:
    """Return what a layer shows, and what turns its gradient into those of sequence, last and initial state."""
    if sequence is None:
        return _shown_last(recurrence, last, packed)
    if recurrence.zero_output_for_mask:
        sequence = PackedSequence(sequence.values, sequence.packing)
    padded, unpad = ops.unpack_vjp(sequence)
    if not (recurrence.shows_initial_state and sequence.repeat and packed.packing.masked):
        return padded, lambda d: (unpad(d), None, None)
    leading = (sequence.packing.grid(repeat=True) < 0).reshape(padded.shape[:2])
    rows, steps = np.nonzero(leading)
    padded[rows, steps] = initial[rows]

    def hide(d: Array) -> tuple[Array, None, Array]:
        d_initial = np.zeros_like(initial)
        np.add.at(d_initial, rows, d[rows, steps])
        return unpad(d), None, d_initial

    return padded, hide


def _shown_last(recurrence: Recurrence, last: Array, packed: PackedSequence) -> tuple[Array, Hide]:
    plan = packed.packing
    if recurrence.zero_output_for_mask and plan.masked and plan.total_length:
        shown = plan.mask[:, 0 if recurrence.go_backwards else -1]
    elif recurrence.shows_initial_state or not plan.masked:
        shown = np.ones(plan.batch_size, np.bool_)
    else:
        shown = plan.lengths > 0
    if shown.all():
        return last, lambda d: (None, d, None)
    column = shown[:, None]
    nothing = last.dtype.type(0)
    return np.where(column, last, nothing), lambda d: (None, np.where(column, d, nothing), None)
