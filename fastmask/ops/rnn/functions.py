"""The recurrent operations as functions of arrays: a program made and run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastmask.batch.packing import PackedSequence
from fastmask.ops._arrays import Array, check_float, check_packed
from fastmask.ops._quantized import Quantized
from fastmask.ops.rnn.checks import check_dropout, check_states
from fastmask.ops.rnn.forward import States, Tokens
from fastmask.ops.rnn.program import RNNProgram
from fastmask.ops.rnn.spec import RNNSpec
from fastmask.ops.rnn.tape import RecurrentGradients

Result = tuple[PackedSequence | None, States]
Pullback = Callable[..., RecurrentGradients]


class _Call:
    """Arguments of an operation, checked."""

    def __init__(
        self, cell: str, x: PackedSequence, weights: tuple[Any, Any, Array | None],
        initial_state: tuple[Array, ...] | None, masks: tuple[Array | None, Array | None], **options: Any,
    ) -> None:
        values = check_float("x", check_packed("x", x).values, 2)
        kernel, recurrent_kernel, bias = weights
        recurrent, precision = recurrent_kernel, "int8"
        if not any(isinstance(matrix, Quantized) for matrix in (kernel, recurrent_kernel)):
            recurrent = check_float("recurrent_kernel", recurrent_kernel, 2, values.dtype, strided=True)
            precision = values.dtype.name
        sizes = values.shape[1], recurrent.shape[0]
        spec = RNNSpec(cell, *sizes, precision, use_bias=bias is not None, **options)
        check_float("x", values, 2, spec.dtype)
        self.program = RNNProgram(spec, kernel, recurrent, bias)
        self.plan = x.packing
        self.tokens = Tokens(values, x.packing, x.index, x.index is not None and not x.apart, x.source)
        self.dropout = check_dropout(spec, self.plan.batch_size, *masks)
        self.states = None
        if initial_state is not None:
            self.states = check_states("initial_state", initial_state, spec, self.plan.batch_size)

    def run(self, return_sequences: bool) -> Result:
        values, states = self.program.run(
            self.tokens, self.states, every_step=return_sequences, dropout=self.dropout
        )
        return self.sequence(values), states

    def vjp(self, return_sequences: bool) -> tuple[Result, Pullback]:
        (values, states), tape = self.program.vjp(self.tokens, self.states, dropout=self.dropout)
        return (self.sequence(values if return_sequences else None), states), tape.pullback

    def sequence(self, values: Array | None) -> PackedSequence | None:
        if values is None:
            return None
        plan = self.plan.reversed if self.program.spec.go_backwards else self.plan
        return PackedSequence(values, plan, repeat=True)


def simple_rnn(
    x: PackedSequence, kernel: Array, recurrent_kernel: Array, bias: Array | None = None,
    initial_state: tuple[Array, ...] | None = None, *, activation: str | None = "tanh", go_backwards: bool = False,
    return_sequences: bool = True, input_mask: Array | None = None, recurrent_mask: Array | None = None,
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

    Returns
    -------
    sequence : PackedSequence or None
        Values (N, H) in the order in which the steps ran.
    states : tuple of one array (B, H)
        The state after the last valid step; the initial state where a row has none.
    """
    call = _Call(
        "simple_rnn", x, (kernel, recurrent_kernel, bias), initial_state, (input_mask, recurrent_mask),
        activation=activation, go_backwards=go_backwards,
    )
    return call.run(return_sequences)


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
    call = _Call(
        "simple_rnn", x, (kernel, recurrent_kernel, bias), initial_state, (input_mask, recurrent_mask),
        activation=activation, go_backwards=go_backwards,
    )
    return call.vjp(return_sequences)


def lstm(
    x: PackedSequence, kernel: Array, recurrent_kernel: Array, bias: Array | None = None,
    initial_state: tuple[Array, ...] | None = None, *, activation: str | None = "tanh",
    recurrent_activation: str | None = "sigmoid", go_backwards: bool = False, return_sequences: bool = True,
    input_mask: Array | None = None, recurrent_mask: Array | None = None,
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

    Returns
    -------
    sequence : PackedSequence or None
        Values (N, H) in the order in which the steps ran.
    states : tuple of two arrays (B, H)
        h and c after the last valid step; the initial states where a row has none.
    """
    call = _Call(
        "lstm", x, (kernel, recurrent_kernel, bias), initial_state, (input_mask, recurrent_mask),
        activation=activation, recurrent_activation=recurrent_activation, go_backwards=go_backwards,
    )
    return call.run(return_sequences)


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
    call = _Call(
        "lstm", x, (kernel, recurrent_kernel, bias), initial_state, (input_mask, recurrent_mask),
        activation=activation, recurrent_activation=recurrent_activation, go_backwards=go_backwards,
    )
    return call.vjp(return_sequences)


def gru(
    x: PackedSequence, kernel: Array, recurrent_kernel: Array, bias: Array | None = None,
    initial_state: tuple[Array, ...] | None = None, *, activation: str | None = "tanh",
    recurrent_activation: str | None = "sigmoid", reset_after: bool = True, go_backwards: bool = False,
    return_sequences: bool = True, input_mask: Array | None = None, recurrent_mask: Array | None = None,
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

    Returns
    -------
    sequence : PackedSequence or None
        Values (N, H) in the order in which the steps ran.
    states : tuple of one array (B, H)
        The state after the last valid step; the initial state where a row has none.
    """
    call = _Call(
        "gru", x, (kernel, recurrent_kernel, bias), initial_state, (input_mask, recurrent_mask),
        activation=activation, recurrent_activation=recurrent_activation, reset_after=reset_after,
        go_backwards=go_backwards,
    )
    return call.run(return_sequences)


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
    call = _Call(
        "gru", x, (kernel, recurrent_kernel, bias), initial_state, (input_mask, recurrent_mask),
        activation=activation, recurrent_activation=recurrent_activation, reset_after=reset_after,
        go_backwards=go_backwards,
    )
    return call.vjp(return_sequences)
