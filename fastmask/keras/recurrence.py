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
from fastmask.batch.packing import PackedSequence
from fastmask.ops._arrays import check_float, check_shape
from fastmask.ops.rnn import RNNProgram, RNNSpec, Tokens
from fastmask.ops.rnn.checks import check_states

Array = NDArray[Any]
Arrays = tuple[Array, ...]
Pullback = Callable[..., Arrays]


@dataclass(frozen=True)
class Recurrence:
    """What one layer computes; the same for every batch.

    Parameters
    ----------
    spec : RNNSpec
    return_sequences, zero_output_for_mask : bool
        As in Keras.
    shows_initial_state : bool
        Whether the outputs before the first valid step are the initial state (Keras under JAX and NumPy) or
        zeros (Keras under TensorFlow and PyTorch).
    """

    spec: RNNSpec
    return_sequences: bool
    zero_output_for_mask: bool
    shows_initial_state: bool

    def split(self, arrays: Sequence[Any]) -> tuple[Any, Any, Any, Any, tuple[Any, ...]]:
        """Return x, kernel, recurrent kernel, bias (or None) and states from the flat arguments."""
        x, kernel, recurrent_kernel, *rest = arrays
        bias = rest.pop(0) if self.spec.use_bias else None
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
    x, *weights, initial = recurrence.split(arrays)
    packed = PackedSequence.from_padded(x, _grid(mask, x.shape))
    given = _given(recurrence.spec, packed, initial)
    values, states = RNNProgram(recurrence.spec, *weights).run(*given, every_step=recurrence.return_sequences)
    sequence = _sequence(recurrence, packed, values)
    shown, _ = _shown(recurrence, sequence, states[0], initial[0], packed)
    return shown, *states


def run_vjp(recurrence: Recurrence, arrays: Sequence[Array], mask: Array | None) -> tuple[Arrays, Pullback]:
    """Like `run`, with a pullback from gradients of all results to gradients of all `arrays`; it can be called once."""
    x, kernel, recurrent_kernel, bias, initial = recurrence.split(arrays)
    packed, spread = ops.pack_vjp(x, _grid(mask, x.shape))
    program = RNNProgram(recurrence.spec, kernel, recurrent_kernel, bias)
    (values, states), tape = program.vjp(*_given(recurrence.spec, packed, initial))
    sequence = _sequence(recurrence, packed, values)
    shown, hide = _shown(recurrence, sequence, states[0], initial[0], packed)

    def pullback(d_shown: Array, *d_states: Array) -> Arrays:
        d_sequence, d_last, d_first = hide(np.asarray(d_shown))
        first = d_states[0] if d_last is None else d_states[0] + d_last
        found = tape.pullback(d_sequence, (first, *d_states[1:]))
        d_initial = list(found.initial_state or ())
        if d_first is not None:
            d_initial[0] = d_initial[0] + d_first
        d_bias = () if bias is None else (found.bias,)
        return spread(found.inputs), found.kernel, found.recurrent_kernel, *d_bias, *d_initial

    return (shown, *states), pullback


def _given(spec: RNNSpec, packed: PackedSequence, initial: Arrays) -> tuple[Tokens, Sequence[Array | None]]:
    """Tokens and states as a program takes them."""
    values = check_float("x", packed.values, 2, spec.dtype)
    check_shape("x", values, (packed.packing.tokens, spec.features))
    return Tokens(values, packed.packing), check_states("initial_state", initial, spec, packed.packing.batch_size)


def _sequence(recurrence: Recurrence, packed: PackedSequence, values: Array | None) -> PackedSequence | None:
    """The outputs of all steps, in the order in which they ran, if they are shown."""
    if values is None or not recurrence.return_sequences:
        return None
    plan = packed.packing.reversed if recurrence.spec.go_backwards else packed.packing
    return PackedSequence(values, plan, repeat=True)


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
        # Once this returns, the backend may use the memory of weights and states again; packing has copied x.
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
        shown = plan.mask[:, 0 if recurrence.spec.go_backwards else -1]
    elif recurrence.shows_initial_state or not plan.masked:
        shown = np.ones(plan.batch_size, np.bool_)
    else:
        shown = plan.lengths > 0
    if shown.all():
        return last, lambda d: (None, d, None)
    column = shown[:, None]
    nothing = last.dtype.type(0)
    return np.where(column, last, nothing), lambda d: (None, np.where(column, d, nothing), None)
