"""The LSTM on packed tokens."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from fastmask import threads
from fastmask.kernels.memory import aligned_empty, aligned_zeros
from fastmask.ops._activations import recurrent_code
from fastmask.ops._arrays import (
    Array,
    gate_panels,
    product_panels,
)
from fastmask.ops._packed import PackedWeights
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
    c: Array
    runs: list[Any]


def _recurrent_panels(problem: Problem) -> Array:
    return problem.kept(
        "recurrent kernel", problem.recurrent_kernel,
        lambda: gate_panels(problem.kernel, problem.recurrent_kernel, 4),
    )


def _program(problem: Problem, bias: Array | None, codes: tuple[int, int]) -> Any:
    return problem.program(
        problem.kernel.LSTM, codes, problem.input_bias(bias), (_recurrent_panels(problem), None, None)
    )


def _leave_repetition(problem: Problem, bias: Array | None, codes: tuple[int, int]) -> None:
    problem.leave_repetition(_program(problem, bias, codes), 2)


def _forward(problem: Problem, bias: Array | None, codes: tuple[int, int], gates: Array | None) -> _Stored:
    plan = problem.plan
    h = problem.state_buffer(problem.initial_state[0])
    if problem.training:
        c = problem.state_buffer(problem.initial_state[1])
    else:
        c = aligned_zeros((plan.batch_size, problem.units), problem.dtype)
        if problem.initial_state[1] is not None:
            c[:] = problem.initial_state[1][plan.sorted_indices]
    runs = problem.runs(_program(problem, bias, codes), problem.input_bias(bias), gates)
    dropout = problem.dropout(4 * problem.units)
    steps = [partial(run.forward, (h, c), gates, problem.every_step, problem.zero_state, dropout) for run in runs]
    threads.run(with_products(steps, runs))
    return _Stored(h, c, runs)


def lstm(
    x: PackedSequence, kernel: Array, recurrent_kernel: Array, bias: Array | None = None,
    initial_state: tuple[Array, ...] | None = None, *, activation: str | None = "tanh",
    recurrent_activation: str | None = "sigmoid", go_backwards: bool = False, return_sequences: bool = True,
    input_mask: Array | None = None, recurrent_mask: Array | None = None, packed: PackedWeights | None = None,
) -> Result:
    """Run an LSTM (Hochreiter and Schmidhuber 1997) with Keras's gates i, f, c, o.

    Parameters
    ----------
    x : PackedSequence
        Values (U, F), float32 or float64; the other arrays have the same dtype.
    kernel : array (F, 4H)
    recurrent_kernel : array (H, 4H)
    bias : array (4H,), optional
    initial_state : tuple of two arrays (B, H), optional
        h and c in the order of the batch; zeros by default.
    activation : str or None, default "tanh"
        Of the candidate and the output; one of :data:`fastmask.ops.RECURRENT_ACTIVATIONS`; None is linear.
    recurrent_activation : str or None, default "sigmoid"
        Of the gates. Together with "tanh" the default is the fast path.
    go_backwards : bool, default False
        Run from the last valid step to the first.
    return_sequences : bool, default True
        Return the outputs of all steps.
    input_mask : array (B, F) or (4, B, F), optional
        Multiplies the inputs of every step (dropout), for all gates or for each.
    recurrent_mask : array (B, H) or (4, B, H), optional
        Multiplies the state that enters the recurrent product.
    packed : PackedWeights, optional
        From earlier calls with the same weights.

    Returns
    -------
    sequence : PackedSequence or None
        Values (N, H) in the order in which the steps ran.
    states : tuple of two arrays (B, H)
        h and c after the last valid step; the initial states where a row has none.
    """
    codes = (recurrent_code("activation", activation), recurrent_code("recurrent_activation", recurrent_activation))
    problem = Problem(x, kernel, recurrent_kernel, 4, initial_state, 2, go_backwards, return_sequences,
                      input_mask, recurrent_mask, training=False, packed=packed)
    bias = problem.check_bias(bias, (4 * problem.units,))
    if problem.small:
        return problem.run_cell(bias, *codes)
    stored = _forward(problem, bias, codes, None)
    if problem.lacks_repetition:
        _leave_repetition(problem, bias, codes)
    states = problem.final_state(stored.h), stored.c[problem.plan.unsorted_indices]
    return problem.sequence(stored.h), states


def lstm_vjp(
    x: PackedSequence, kernel: Array, recurrent_kernel: Array, bias: Array | None = None,
    initial_state: tuple[Array, ...] | None = None, *, activation: str | None = "tanh",
    recurrent_activation: str | None = "sigmoid", go_backwards: bool = False, return_sequences: bool = True,
    input_mask: Array | None = None, recurrent_mask: Array | None = None,
) -> tuple[Result, Pullback]:
    """:func:`lstm` and its pullback.

    Returns
    -------
    (sequence, states)
        As from :func:`lstm`.
    pullback : callable
        ``pullback(d_sequence=None, d_states=None)`` takes the gradients of the sequence's values (N, H) and
        of the states (h, c), None where there is none, and returns :class:`RecurrentGradients`. It can be
        called once; the arguments must not have changed until then.
    """
    codes = (recurrent_code("activation", activation), recurrent_code("recurrent_activation", recurrent_activation))
    problem = Problem(x, kernel, recurrent_kernel, 4, initial_state, 2, go_backwards, return_sequences,
                      input_mask, recurrent_mask, training=True)
    bias = problem.check_bias(bias, (4 * problem.units,))
    gates = aligned_empty((problem.plan.tokens, 4 * problem.units), problem.dtype)
    stored = _forward(problem, bias, codes, gates)
    once = Once()

    def pullback(d_sequence: Array | None = None, d_states: StateGradients | None = None) -> RecurrentGradients:
        dy = sequence_gradient(problem, d_sequence)
        dh, dc = state_gradients(problem, d_states, 2)
        once.use()
        panels = product_panels(problem.kernel, problem.recurrent_kernel.T)
        transposed = problem.kernel.Transposed(panels, None)
        form_team(problem, stored.runs)
        threads.run([
            partial(run.backward, transposed, (stored.h, stored.c), gates, dy, (dh, dc)) for run in stored.runs
        ])
        g = gradients(problem, stored.runs, stored.h, gates)
        rows = problem.plan.batch_size
        return RecurrentGradients(
            g.inputs, g.kernel, g.recurrent_kernel, None if bias is None else g.bias,
            unsort(problem, (dh[:rows], dc[:rows])),
        )

    return (problem.sequence(stored.h), (problem.final_state(stored.h), problem.final_state(stored.c))), pullback
