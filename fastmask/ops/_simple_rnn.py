"""The simple recurrent layer on packed tokens."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastmask import threads
from fastmask.kernels.memory import aligned_empty
from fastmask.ops._activations import recurrent_code
from fastmask.ops._arrays import Array, product_panels
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


def _recurrent_panels(problem: Problem) -> Array:
    matrix = problem.recurrent_kernel
    return problem.kept("recurrent kernel", matrix, lambda: product_panels(problem.kernel, matrix))


def _program(problem: Problem, bias: Array | None, code: int) -> Any:
    kernel = problem.kernel
    return problem.program(
        kernel.SIMPLE_RNN, (code, 0), problem.input_bias(bias), (_recurrent_panels(problem), None, None)
    )


def _leave_repetition(problem: Problem, bias: Array | None, code: int) -> None:
    problem.leave_repetition(_program(problem, bias, code), 1)


def _forward(problem: Problem, bias: Array | None, code: int) -> tuple[Array, list[Any]]:
    h = problem.state_buffer(problem.initial_state[0])
    runs = problem.runs(_program(problem, bias, code), problem.input_bias(bias), None)
    dropout = problem.dropout(problem.units)
    steps = [partial(run.forward, (h,), None, problem.every_step, problem.zero_state, dropout) for run in runs]
    threads.run(with_products(steps, runs))
    return h, runs


def simple_rnn(
    x: PackedSequence, kernel: Array, recurrent_kernel: Array, bias: Array | None = None,
    initial_state: tuple[Array, ...] | None = None, *, activation: str | None = "tanh", go_backwards: bool = False,
    return_sequences: bool = True, input_mask: Array | None = None, recurrent_mask: Array | None = None,
    packed: PackedWeights | None = None,
) -> Result:
    """Run a simple recurrent layer, ``h' = activation(x @ kernel + bias + h @ recurrent_kernel)``.

    Parameters
    ----------
    x : PackedSequence
        Values (U, F), float32 or float64; the other arrays have the same dtype.
    kernel : array (F, H)
    recurrent_kernel : array (H, H)
    bias : array (H,), optional
    initial_state : tuple of one array (B, H), optional
        In the order of the batch; zeros by default.
    activation : str or None, default "tanh"
        One of :data:`fastmask.ops.RECURRENT_ACTIVATIONS`; None is linear.
    go_backwards : bool, default False
        Run from the last valid step to the first.
    return_sequences : bool, default True
        Return the outputs of all steps.
    input_mask : array (B, F), optional
        Multiplies the inputs of every step (dropout).
    recurrent_mask : array (B, H), optional
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
    code = recurrent_code("activation", activation)
    problem = Problem(x, kernel, recurrent_kernel, 1, initial_state, 1, go_backwards, return_sequences,
                      input_mask, recurrent_mask, training=False, packed=packed)
    bias = problem.check_bias(bias, (problem.units,))
    if problem.small:
        return problem.run_cell(bias, code)
    h = _forward(problem, bias, code)[0]
    if problem.lacks_repetition:
        _leave_repetition(problem, bias, code)
    return problem.sequence(h), (problem.final_state(h),)


def simple_rnn_vjp(
    x: PackedSequence, kernel: Array, recurrent_kernel: Array, bias: Array | None = None,
    initial_state: tuple[Array, ...] | None = None, *, activation: str | None = "tanh", go_backwards: bool = False,
    return_sequences: bool = True, input_mask: Array | None = None, recurrent_mask: Array | None = None,
) -> tuple[Result, Pullback]:
    """:func:`simple_rnn` and its pullback.

    Returns
    -------
    (sequence, states)
        As from :func:`simple_rnn`.
    pullback : callable
        ``pullback(d_sequence=None, d_states=None)`` takes the gradients of the sequence's values (N, H) and
        of the states, None where there is none, and returns :class:`RecurrentGradients`. It can be called
        once; the arguments must not have changed until then.
    """
    code = recurrent_code("activation", activation)
    problem = Problem(x, kernel, recurrent_kernel, 1, initial_state, 1, go_backwards, return_sequences,
                      input_mask, recurrent_mask, training=True)
    bias = problem.check_bias(bias, (problem.units,))
    h, runs = _forward(problem, bias, code)
    once = Once()

    def pullback(d_sequence: Array | None = None, d_states: StateGradients | None = None) -> RecurrentGradients:
        dy = sequence_gradient(problem, d_sequence)
        (dh,) = state_gradients(problem, d_states, 1)
        once.use()
        d = aligned_empty((problem.plan.tokens, problem.units), problem.dtype)
        panels = product_panels(problem.kernel, problem.recurrent_kernel.T)
        transposed = problem.kernel.Transposed(panels, None)
        form_team(problem, runs)
        threads.run([partial(run.backward, transposed, (h,), d, dy, (dh,)) for run in runs])
        g = gradients(problem, runs, h, d)
        return RecurrentGradients(
            g.inputs, g.kernel, g.recurrent_kernel, None if bias is None else g.bias,
            unsort(problem, (dh[: problem.plan.batch_size],)),
        )

    return (problem.sequence(h), (problem.final_state(h),)), pullback
