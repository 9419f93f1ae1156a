"""The recurrent layers: SimpleRNN, LSTM and GRU."""

from typing import Any

import numpy as np

from fastmask import initializers, ops
from fastmask.layers.base import checks
from fastmask.layers.base.arguments import own_arguments
from fastmask.layers.base.checks import Array
from fastmask.layers.rnn.base import Recurrent


class SimpleRNN(Recurrent):
    """Fully connected recurrent layer.

    ``h' = activation(x @ kernel + bias + h @ recurrent_kernel)``

    Parameters
    ----------
    units, activation, use_bias, ..., **kwargs
        As for `LSTM`, which has two more; `seed` comes last here, as in Keras.

    Notes
    -----
    Weights kernel (F, H), recurrent_kernel (H, H), bias (H,); one state, h. The rest is as for
    `LSTM`.
    """

    op = "simple_rnn"
    gates = 1
    drops_all = True

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        seed: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**own_arguments(locals()))


class Gated(Recurrent):
    """Base of the layers whose gates have an activation of their own."""

    def __init__(self, recurrent_activation: Any, use_cudnn: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        checks.choice("use_cudnn", use_cudnn, ("auto", True, False))
        self.recurrent_activation = checks.activation_name(
            "recurrent_activation", recurrent_activation, ops.RECURRENT_ACTIVATIONS
        )

    def options(self) -> dict[str, Any]:
        return super().options() | {"recurrent_activation": self.recurrent_activation}


class LSTM(Gated):
    """Long short-term memory.

    ``i, f, g, o = x @ kernel + h @ recurrent_kernel + bias``, cut into four;
    ``c' = s(f) * c + s(i) * a(g)`` and ``h' = s(o) * a(c')`` with a, s the two activations.

    Parameters
    ----------
    units : int
        Width H of the output and of each state.
    activation : str, default "tanh"
        One of ``fastmask.ops.RECURRENT_ACTIVATIONS``; None is linear.
    recurrent_activation : str, default "sigmoid"
        The one of the gates.
    use_bias : bool, default True
    kernel_initializer : str or callable, default "glorot_uniform"
    recurrent_initializer : str or callable, default "orthogonal"
    bias_initializer : str or callable, default "zeros"
    unit_forget_bias : bool, default True
        Whether the bias of the forget gate starts at one, not at what `bias_initializer` gives.
    kernel_regularizer, recurrent_regularizer, bias_regularizer : str or Regularizer, optional
        See `fastmask.regularizers`.
    kernel_constraint, recurrent_constraint, bias_constraint : str or callable, optional
        See `fastmask.constraints`.
    activity_regularizer
        Only None yet.
    dropout, recurrent_dropout : float, default 0.0
        Fraction of the inputs and states dropped while training, the same at every step of a row.
    seed : int or SeedGenerator, optional
        For dropout.
    return_sequences : bool, default False
        Whether to return the outputs of all steps (B, T, H), not just the last one (B, H).
    return_state : bool, default False
        Whether to return ``(y, h, c)``.
    go_backwards : bool, default False
        Whether to go from the last step to the first. All outputs are in that order then, but their
        mask is still that of the input, as in Keras. A packed batch of them shows zeros at masked places.
    stateful : bool, default False
        Whether a batch starts from the final states of the one before, row by row, until
        ``reset_states()``. An `initial_state` passed to a call comes first.
    unroll : bool, default False
        Accepted for Keras's sake, as is `use_cudnn`.
    zero_output_for_mask : bool, default False
        Whether masked steps show zeros, not the output before them. The last output is zero too
        then in rows whose last step is masked.
    **kwargs
        See `Layer`.

    Notes
    -----
    Input (B, T, F) with an optional mask (B, T), or packed. Weights kernel (F, 4H),
    recurrent_kernel (H, 4H), bias (4H,). Masked steps change no state and are never read. A row
    without a valid step gives zeros and keeps its initial states.
    """

    op = "lstm"
    gates = 4
    state_names = ("h", "c")

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        unit_forget_bias: bool = True,
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: Any = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        use_cudnn: Any = "auto",
        **kwargs: Any,
    ) -> None:
        arguments = own_arguments(locals())
        self.unit_forget_bias = bool(arguments.pop("unit_forget_bias"))
        super().__init__(**arguments)

    def initial_bias(self, shape: tuple[int, ...], dtype: Any) -> Array:
        if not self.unit_forget_bias:
            return super().initial_bias(shape, dtype)
        parts = [
            super().initial_bias((self.units,), dtype),
            initializers.Ones()((self.units,), dtype),
            super().initial_bias((2 * self.units,), dtype),
        ]
        return np.concatenate(parts)


class GRU(Gated):
    """Gated recurrent unit.

    With gx and gh the inputs and the states times their kernels plus bias, cut into three (z, r,
    n): ``z, r = s(gx + gh)``, ``n = a(gx + r * gh)`` and ``h' = z * h + (1 - z) * n``, a and s the
    two activations. With ``reset_after=False``, r multiplies the states before their product with
    the kernel.

    Parameters
    ----------
    units, activation, recurrent_activation, use_bias, ..., **kwargs
        As for `LSTM`, but for `unit_forget_bias`.
    reset_after : bool, default True
        Whether the reset gate acts after the product with the recurrent kernel.

    Notes
    -----
    Weights kernel (F, 3H), recurrent_kernel (H, 3H), bias (2, 3H) with one row for inputs and one
    for states, or (3H,) with ``reset_after=False``; one state, h. The rest is as for `LSTM`.
    """

    op = "gru"
    gates = 3

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: Any = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        reset_after: bool = True,
        use_cudnn: Any = "auto",
        **kwargs: Any,
    ) -> None:
        arguments = own_arguments(locals())
        self.reset_after = bool(arguments.pop("reset_after"))
        super().__init__(**arguments)

    def options(self) -> dict[str, Any]:
        return super().options() | {"reset_after": self.reset_after}
