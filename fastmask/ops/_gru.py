"""The GRU on packed tokens."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from fastmask import threads
from fastmask.kernels.memory import aligned_empty
from fastmask.ops._activations import recurrent_code
from fastmask.ops._arrays import (
    Array,
    gate_panels,
    product_panels,
    readable_bias,
)
from fastmask.ops._packed import PackedWeights
from fastmask.ops._products import Task, gradient_tasks
from fastmask.ops._recurrent import Problem, Result
from fastmask.ops._recurrent_gradients import (
    Once,
    Pullback,
    RecurrentGradients,
    StateGradients,
    gradients,
    sequence_gradient,
    state_gradients,
    unsort,
)
from fastmask.ops._sharing import form_team, with_products
from fastmask.packing import PackedSequence


class _Stored(NamedTuple):
    h: Array
    runs: list[object]
    dropouts: list[object]
    reset_mask: Array | None


class _Gru(Problem):
    """A GRU's problem: two biases and masks of the recurrent side that depend on where the reset stands."""

    reset_after: bool
    first_bias: Array | None
    recurrent_bias: Array | None

    def set_bias(self, bias: Array | None, reset_after: bool) -> None:
        self.reset_after = reset_after
        checked = self.check_bias(bias, (2, 3 * self.units) if reset_after else (3 * self.units,))
        self.first_bias = self.recurrent_bias = None
        if checked is not None:
            first, second = (checked[0], checked[1]) if reset_after else (checked, None)
            self.first_bias = self.input_bias(first)
            if second is not None:
                self.recurrent_bias = self.kept("recurrent bias", second, partial(readable_bias, self.kernel, second))

    @property
    def divisible(self) -> bool:
        """Without reset_after a step has two products, one after the other."""
        return super().divisible and self.reset_after

    def take_reset_mask(self) -> Array | None:
        """Without reset_after the last recurrent mask belongs to r * h; sorted rows."""
        if self.reset_after or self.recurrent_mask is None:
            return None
        mask = np.ascontiguousarray(self.recurrent_mask[-1][self.plan.sorted_indices])
        if self.recurrent_mask.shape[0] == 3:
            self.recurrent_mask = self.recurrent_mask[:2]
        return mask

    def recurrent_panels(self) -> tuple[Array, Array | None]:
        """The gates' columns that meet h itself, and without ``reset_after`` those that meet r * h."""
        module, recurrent = self.kernel, self.recurrent_kernel
        gates, columns = 3 if self.reset_after else 2, slice(self.recurrent_columns)
        panels = self.kept(
            f"{gates} gates", recurrent,
            lambda: gate_panels(module, recurrent[:, columns], gates),
        )
        if self.reset_after:
            return panels, None
        return panels, self.kept(
            "candidate", recurrent, lambda: product_panels(module, recurrent[:, 2 * self.units :])
        )

    @property
    def recurrent_columns(self) -> int:
        """Columns of the recurrent kernel that meet h itself."""
        return (3 if self.reset_after else 2) * self.units


def _gates(problem: _Gru) -> Array:
    """A row for each token in training; otherwise for each row of the batch, as scratch."""
    rows = problem.plan.tokens if problem.training else max(1, problem.plan.batch_size)
    return aligned_empty((rows, 4 * problem.units), problem.dtype)


def _forward(problem: _Gru, codes: tuple[int, int], gates: Array | None) -> _Stored:
    kernel = problem.kernel
    h = problem.state_buffer(problem.initial_state[0])
    reset_mask = problem.take_reset_mask()
    runs = problem.runs(problem.first_bias, None)
    dropouts = problem.dropouts(problem.recurrent_columns, len(runs))
    panels, candidate = problem.recurrent_panels()
    steps = [
        partial(kernel.gru_forward, run, panels, candidate, problem.recurrent_bias, h, gates, problem.training, *codes,
                problem.reset_after, problem.every_step, problem.zero_state, dropout, reset_mask)
        for run, dropout in zip(runs, dropouts, strict=True)
    ]
    threads.run(with_products(steps, runs))
    return _Stored(h, runs, dropouts, reset_mask)


def _leave_repetition(problem: _Gru, codes: tuple[int, int]) -> None:
    kernel, bias, (panels, _) = problem.kernel, problem.recurrent_bias, problem.recurrent_panels()
    problem.leave_repetition(
        problem.first_bias, 1,
        lambda run, states: kernel.gru_forward(
            run, panels, None, bias, states[0], None, False, *codes, True, False, True, None, None
        ),
    )


def _run_backward(
    problem: _Gru, stored: _Stored, gates: Array, dy: Array | None, dh: Array, codes: tuple[int, int]
) -> None:
    kernel, units = problem.kernel, problem.units
    matrix = problem.recurrent_kernel
    transposed = product_panels(kernel, matrix[:, : problem.recurrent_columns].T)
    candidate = reset = None
    if not problem.reset_after:
        candidate = product_panels(kernel, matrix[:, 2 * units :].T)
        reset = aligned_empty(dh.shape, problem.dtype)
    form_team(problem, stored.runs)
    threads.run([
        partial(kernel.gru_backward, run, transposed, candidate, gates, stored.h, dy, dh, reset, *codes,
                problem.reset_after, problem.zero_state, dropout, stored.reset_mask)
        for run, dropout in zip(stored.runs, stored.dropouts, strict=True)
    ])


def _gradients(problem: _Gru, stored: _Stored, d: Array, dh: Array) -> RecurrentGradients:
    units = problem.units
    candidate: list[Array] = []
    tasks: list[Task] = []
    if not problem.reset_after:
        candidate.append(aligned_empty((units, units), problem.dtype))
        tasks = gradient_tasks(problem.kernel, d[:, 3 * units :], d[:, :units], candidate[0])
    # The gradients of the candidate are the largest: they come last in the sums over the gates.
    g = gradients(
        problem, stored.runs, stored.h, d, first=units, columns=problem.recurrent_columns,
        recurrent_bias=problem.recurrent_bias is not None, more=tasks,
    )
    bias = None if problem.first_bias is None else g.bias
    if bias is not None and g.recurrent_bias is not None:
        bias = np.stack([bias, g.recurrent_bias])
    whole = np.concatenate([g.recurrent_kernel, *candidate], axis=1) if candidate else g.recurrent_kernel
    state = unsort(problem, (dh[: problem.plan.batch_size],))
    return RecurrentGradients(g.inputs, g.kernel, whole, bias, state)


def gru(
    x: PackedSequence, kernel: Array, recurrent_kernel: Array, bias: Array | None = None,
    initial_state: tuple[Array, ...] | None = None, *, activation: str | None = "tanh",
    recurrent_activation: str | None = "sigmoid", reset_after: bool = True, go_backwards: bool = False,
    return_sequences: bool = True, input_mask: Array | None = None, recurrent_mask: Array | None = None,
    packed: PackedWeights | None = None,
) -> Result:
    """Run a GRU (Cho et al. 2014) with Keras's gates z, r and candidate.

    Parameters
    ----------
    x : PackedSequence
        Values (U, F), float32 or float64; the other arrays have the same dtype.
    kernel : array (F, 3H)
    recurrent_kernel : array (H, 3H)
    bias : array (2, 3H) with ``reset_after``, (3H,) without, optional
        With ``reset_after`` row 0 belongs to the inputs and row 1 to the state.
    initial_state : tuple of one array (B, H), optional
        In the order of the batch; zeros by default.
    activation : str or None, default "tanh"
        Of the candidate; one of :data:`fastmask.ops.RECURRENT_ACTIVATIONS`; None is linear.
    recurrent_activation : str or None, default "sigmoid"
        Of the gates. Together with "tanh" the default is the fast path.
    reset_after : bool, default True
        Multiply by the reset gate after the recurrent product (as cuDNN does) or before it.
    go_backwards : bool, default False
        Run from the last valid step to the first.
    return_sequences : bool, default True
        Return the outputs of all steps.
    input_mask : array (B, F) or (3, B, F), optional
        Multiplies the inputs of every step (dropout), for all gates or for each.
    recurrent_mask : array (B, H) or (3, B, H), optional
        Multiplies the state that enters the recurrent product.
    packed : PackedWeights, optional
        From earlier calls with the same weights.

    Returns
    -------
    sequence : PackedSequence or None
        Values (N, H) in the order in which the steps ran.
    states : tuple of one array (B, H)
        The state after the last valid step; the initial state where a row has none.
    """
    codes = (recurrent_code("activation", activation), recurrent_code("recurrent_activation", recurrent_activation))
    problem = _Gru(x, kernel, recurrent_kernel, 3, initial_state, 1, go_backwards, return_sequences,
                   input_mask, recurrent_mask, training=False, packed=packed)
    if reset_after and problem.small:
        return problem.run_cell(problem.check_bias(bias, (2, 3 * problem.units)), *codes)
    problem.set_bias(bias, reset_after)
    stored = _forward(problem, codes, None if reset_after else _gates(problem))
    if reset_after and problem.lacks_repetition:
        _leave_repetition(problem, codes)
    return problem.sequence(stored.h), (problem.final_state(stored.h),)


def gru_vjp(
    x: PackedSequence, kernel: Array, recurrent_kernel: Array, bias: Array | None = None,
    initial_state: tuple[Array, ...] | None = None, *, activation: str | None = "tanh",
    recurrent_activation: str | None = "sigmoid", reset_after: bool = True, go_backwards: bool = False,
    return_sequences: bool = True, input_mask: Array | None = None, recurrent_mask: Array | None = None,
) -> tuple[Result, Pullback]:
    """:func:`gru` and its pullback.

    Returns
    -------
    (sequence, states)
        As from :func:`gru`.
    pullback : callable
        ``pullback(d_sequence=None, d_states=None)`` takes the gradients of the sequence's values (N, H) and
        of the states, None where there is none, and returns :class:`RecurrentGradients`. It can be called
        once; the arguments must not have changed until then.
    """
    codes = (recurrent_code("activation", activation), recurrent_code("recurrent_activation", recurrent_activation))
    problem = _Gru(x, kernel, recurrent_kernel, 3, initial_state, 1, go_backwards, return_sequences,
                   input_mask, recurrent_mask, training=True)
    problem.set_bias(bias, reset_after)
    gates = _gates(problem)
    stored = _forward(problem, codes, gates)
    once = Once()

    def pullback(d_sequence: Array | None = None, d_states: StateGradients | None = None) -> RecurrentGradients:
        dy = sequence_gradient(problem, d_sequence)
        (dh,) = state_gradients(problem, d_states, 1)
        once.use()
        _run_backward(problem, stored, gates, dy, dh, codes)
        return _gradients(problem, stored, gates, dh)

    return (problem.sequence(stored.h), (problem.final_state(stored.h),)), pullback
