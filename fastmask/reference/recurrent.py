"""SimpleRNN, LSTM and GRU over padded batches with a mask.

A masked step changes no state. Its output repeats the previous one, and is zero before the first
valid step, whatever the initial state; with ``zero_output_for_mask`` it is always zero. Masked inputs
are never looked at, so anything may stand there.

Every function takes ``x`` [B, T, F], ``kernel`` [F, G*H], ``recurrent_kernel`` [H, G*H] (G gates in the
order of Keras), ``bias`` and ``initial_state`` (a tuple of [B, H]; zeros by default), and these keywords:

mask : bool [B, T], default None
    Valid steps; None means all.
go_backwards : bool, default False
    Flip input and mask in time first; outputs come in the order of processing.
zero_output_for_mask : bool, default False
input_mask : array [B, F] or [G, B, F], default None
    Multiplies every input step before the input kernel (dropout), for all gates or gate by gate.
recurrent_mask : array [B, H] or [G, B, H], default None
    Multiplies the state before the recurrent kernel.
activation : str, default "tanh"
recurrent_activation : str, default "sigmoid"
    Of the gates; for LSTM and GRU.

The forward functions return ``(y [B, T, H], states)``. Their ``_vjp`` twins return that and a pullback,
which takes the cotangents of ``y`` and of the states (None for zero) and returns
:class:`RecurrentGradients`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypedDict, Unpack

import numpy as np

from .activations import Array
from .cells import (
    States,
    Step,
    StepPullback,
    gate_matmul,
    gate_matmul_backward,
    gru_step_reset_after,
    gru_step_reset_before,
    lstm_step,
    simple_rnn_step,
)
from .packing import Mask


class Options(TypedDict, total=False):
    """Keywords of all recurrent functions; the text of the module explains them."""

    mask: Mask | None
    go_backwards: bool
    zero_output_for_mask: bool
    input_mask: Array | None
    recurrent_mask: Array | None
    activation: str


class GatedOptions(Options, total=False):
    """Keywords of LSTM and GRU."""

    recurrent_activation: str


class RecurrentGradients(NamedTuple):
    """Cotangents of the arguments; None where the argument was None."""

    inputs: Array
    kernel: Array
    recurrent_kernel: Array
    bias: Array | None
    initial_state: States | None


Result = tuple[Array, States]
Pullback = Callable[[Array | None, Sequence[Array | None] | None], RecurrentGradients]


class _Cell(NamedTuple):
    """A step, its number of states, and all parameters: input bias, recurrent kernel and bias."""

    step: Step
    state_count: int
    input_bias: Array | None
    recurrent_parameters: tuple[Array, ...]


class _Inputs:
    """Input in processing order, zero at masked places, with its projection."""

    def __init__(self, x: Array, options: Options) -> None:
        mask = options.get("mask")
        self.direction = -1 if options.get("go_backwards") else 1
        self.mask = np.ones(x.shape[:2], bool) if mask is None else mask[:, :: self.direction]
        self.x = np.where(self.mask[:, :, None], x[:, :: self.direction], 0)
        multiplier = options.get("input_mask")
        self.multiplier = None if multiplier is None else multiplier[..., :, None, :]

    def project(self, kernel: Array, bias: Array | None) -> Array:
        projected = gate_matmul(self.x, kernel, self.multiplier)
        return projected if bias is None else projected + bias

    def project_backward(self, kernel: Array, d_projected: Array) -> tuple[Array, Array]:
        dx, d_kernel = gate_matmul_backward(self.x, kernel, self.multiplier, d_projected)
        return dx[:, :: self.direction], d_kernel


def _scan(
    step: Step,
    projected: Array,
    mask: Mask,
    states: States,
    zero_output: bool,
    tape: list[StepPullback] | None = None,
) -> Result:
    """Run ``step`` over time; ``tape`` receives the pullback of each step."""
    batch, time, _ = projected.shape
    output = np.zeros_like(states[0])
    y = np.empty((batch, time, output.shape[-1]), projected.dtype)
    for t in range(time):
        valid = mask[:, t, None]
        new, pullback = step(projected[:, t], states)
        states = tuple(np.where(valid, n, s) for n, s in zip(new, states, strict=True))
        output = np.where(valid, new[0], 0 if zero_output else output)
        y[:, t] = output
        if tape is not None:
            tape.append(pullback)
    return y, states


def _scan_backward(
    tape: list[StepPullback],
    mask: Mask,
    dy: Array | None,
    d_states: States,
    d_parameters: States,
    d_projected: Array,
    zero_output: bool,
) -> States:
    """Run the pullbacks in reverse and return the cotangents of the first states.

    Adds to ``d_parameters`` and fills ``d_projected``.
    """
    d_output = np.zeros_like(d_states[0])
    for t in reversed(range(len(tape))):
        valid = mask[:, t, None]
        d_shown = d_output if dy is None else d_output + dy[:, t]
        d_output = np.where(valid | zero_output, 0, d_shown)
        d_new = [np.where(valid, d, 0) for d in d_states]
        d_new[0] += np.where(valid, d_shown, 0)
        d_projected[:, t], d_old, d_step = tape[t](tuple(d_new))
        d_states = tuple(np.where(valid, 0, kept) + d for kept, d in zip(d_states, d_old, strict=True))
        for total, d in zip(d_parameters, d_step, strict=True):
            total += d
    return d_states


def _run(
    cell: _Cell,
    x: Array,
    kernel: Array,
    initial_state: States | None,
    options: Options,
    tape: list[StepPullback] | None = None,
) -> tuple[_Inputs, Result]:
    inputs = _Inputs(x, options)
    states = initial_state
    if states is None:
        shape = (len(x), len(cell.recurrent_parameters[0]))
        states = tuple(np.zeros(shape, x.dtype) for _ in range(cell.state_count))
    projected = inputs.project(kernel, cell.input_bias)
    zero_output = options.get("zero_output_for_mask", False)
    return inputs, _scan(cell.step, projected, inputs.mask, states, zero_output, tape)


def _forward(cell: _Cell, x: Array, kernel: Array, initial_state: States | None, options: Options) -> Result:
    return _run(cell, x, kernel, initial_state, options)[1]


def _vjp(
    cell: _Cell, x: Array, kernel: Array, bias: Array | None, initial_state: States | None, options: Options
) -> tuple[Result, Pullback]:
    tape: list[StepPullback] = []
    inputs, (y, states) = _run(cell, x, kernel, initial_state, options, tape)

    def pullback(dy: Array | None = None, d_states: Sequence[Array | None] | None = None) -> RecurrentGradients:
        given = [None] * len(states) if d_states is None else d_states
        d_last = tuple(np.zeros_like(s) if d is None else d for d, s in zip(given, states, strict=True))
        d_projected = np.zeros((*x.shape[:2], kernel.shape[1]), x.dtype)
        d_parameters = tuple(np.zeros_like(p) for p in cell.recurrent_parameters)
        zero_output = options.get("zero_output_for_mask", False)
        d_first = _scan_backward(tape, inputs.mask, dy, d_last, d_parameters, d_projected, zero_output)
        dx, d_kernel = inputs.project_backward(kernel, d_projected)
        d_bias = np.stack([d_projected.sum(axis=(0, 1)), *d_parameters[1:]])
        return RecurrentGradients(
            inputs=dx,
            kernel=d_kernel,
            recurrent_kernel=d_parameters[0],
            bias=None if bias is None else d_bias.reshape(bias.shape),
            initial_state=None if initial_state is None else d_first,
        )

    return (y, states), pullback


def _simple_rnn_cell(recurrent_kernel: Array, bias: Array | None, options: Options) -> _Cell:
    step = simple_rnn_step(recurrent_kernel, options.get("recurrent_mask"), options.get("activation", "tanh"))
    return _Cell(step, 1, bias, (recurrent_kernel,))


def _activations(options: GatedOptions) -> tuple[str, str]:
    return options.get("activation", "tanh"), options.get("recurrent_activation", "sigmoid")


def _lstm_cell(recurrent_kernel: Array, bias: Array | None, options: GatedOptions) -> _Cell:
    step = lstm_step(recurrent_kernel, options.get("recurrent_mask"), *_activations(options))
    return _Cell(step, 2, bias, (recurrent_kernel,))


def _gru_cell(recurrent_kernel: Array, bias: Array | None, reset_after: bool, options: GatedOptions) -> _Cell:
    multiplier, names = options.get("recurrent_mask"), _activations(options)
    if not reset_after:
        step = gru_step_reset_before(recurrent_kernel, multiplier, *names)
        return _Cell(step, 1, bias, (recurrent_kernel,))
    input_bias, recurrent_bias = (None, None) if bias is None else bias
    step = gru_step_reset_after(recurrent_kernel, recurrent_bias, multiplier, *names)
    parameters = (recurrent_kernel,) if recurrent_bias is None else (recurrent_kernel, recurrent_bias)
    return _Cell(step, 1, input_bias, parameters)


def simple_rnn(
    x: Array,
    kernel: Array,
    recurrent_kernel: Array,
    bias: Array | None = None,
    initial_state: States | None = None,
    **options: Unpack[Options],
) -> Result:
    """SimpleRNN: outputs [B, T, H] and the state ``(h,)``; bias [H]."""
    return _forward(_simple_rnn_cell(recurrent_kernel, bias, options), x, kernel, initial_state, options)


def simple_rnn_vjp(
    x: Array,
    kernel: Array,
    recurrent_kernel: Array,
    bias: Array | None = None,
    initial_state: States | None = None,
    **options: Unpack[Options],
) -> tuple[Result, Pullback]:
    """:func:`simple_rnn` and its pullback."""
    return _vjp(_simple_rnn_cell(recurrent_kernel, bias, options), x, kernel, bias, initial_state, options)


def lstm(
    x: Array,
    kernel: Array,
    recurrent_kernel: Array,
    bias: Array | None = None,
    initial_state: States | None = None,
    **options: Unpack[GatedOptions],
) -> Result:
    """LSTM: outputs [B, T, H] and the states ``(h, c)``; gates i, f, c, o; bias [4H]."""
    return _forward(_lstm_cell(recurrent_kernel, bias, options), x, kernel, initial_state, options)


def lstm_vjp(
    x: Array,
    kernel: Array,
    recurrent_kernel: Array,
    bias: Array | None = None,
    initial_state: States | None = None,
    **options: Unpack[GatedOptions],
) -> tuple[Result, Pullback]:
    """:func:`lstm` and its pullback."""
    return _vjp(_lstm_cell(recurrent_kernel, bias, options), x, kernel, bias, initial_state, options)


def gru(
    x: Array,
    kernel: Array,
    recurrent_kernel: Array,
    bias: Array | None = None,
    initial_state: States | None = None,
    *,
    reset_after: bool = True,
    **options: Unpack[GatedOptions],
) -> Result:
    """GRU: outputs [B, T, H] and the state ``(h,)``; gates z, r, h.

    The bias is [2, 3H] (input, recurrent) with ``reset_after``, else [3H].
    """
    return _forward(_gru_cell(recurrent_kernel, bias, reset_after, options), x, kernel, initial_state, options)


def gru_vjp(
    x: Array,
    kernel: Array,
    recurrent_kernel: Array,
    bias: Array | None = None,
    initial_state: States | None = None,
    *,
    reset_after: bool = True,
    **options: Unpack[GatedOptions],
) -> tuple[Result, Pullback]:
    """:func:`gru` and its pullback."""
    return _vjp(_gru_cell(recurrent_kernel, bias, reset_after, options), x, kernel, bias, initial_state, options)
