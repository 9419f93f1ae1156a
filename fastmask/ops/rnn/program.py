"""A recurrent layer as a program: checked once, packed at first need, run many times."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any

from fastmask import kernels
from fastmask.ops import tuning
from fastmask.ops._arrays import Array
from fastmask.ops._quantized import Quantized
from fastmask.ops.rnn.forward import Forward, Inputs, States, Tokens, running_order
from fastmask.ops.rnn.inputs import Dropout, TableProducts
from fastmask.ops.rnn.lying import run_lying
from fastmask.ops.rnn.schedule import choose
from fastmask.ops.rnn.spec import RNNSpec
from fastmask.ops.rnn.tape import Tape
from fastmask.ops.rnn.weights import RNNWeights

InitialStates = Sequence[Array | None] | None


class RNNProgram:
    """A recurrent layer on some weights, which are kept and not copied.

    A short first run reads the weights where they lie, and a change of them counts. Longer runs pack them, once: then
    a changed weight wants a new program. Threads may share a program. A copy or pickle has packed nothing.

    Parameters
    ----------
    spec : RNNSpec
    kernel : array (F, gates * H), float32 or float64 as the spec says, or a `Quantized`
    recurrent_kernel : array (H, gates * H), or a `Quantized`
    bias : array (gates * H,), for a GRU that resets after the product (2, gates * H); or None

    Raises
    ------
    TypeError, ValueError
        If an array does not fit.
    """

    def __init__(
        self, spec: RNNSpec, kernel: Array | Quantized, recurrent_kernel: Array | Quantized, bias: Array | None = None
    ) -> None:
        if not isinstance(spec, RNNSpec):
            raise TypeError(f"spec: expected an RNNSpec, got {type(spec).__name__}")
        self.spec = spec
        self.weights = RNNWeights(spec, kernel, recurrent_kernel, bias)
        self._tables = TableProducts()
        self._has_run = False

    def run(
        self, tokens: Tokens, states: InitialStates = None, *, every_step: bool = True, dropout: Dropout | None = None
    ) -> tuple[Array | None, States]:
        """Run over a packed batch. Nothing is checked.

        Parameters
        ----------
        tokens : Tokens
        states : arrays (B, H), in the order of the batch; None where they are zeros
            They are not written to.
        every_step : bool, default True
            Whether the outputs of all steps are wanted.
        dropout : Dropout, optional

        Returns
        -------
        sequence : array (N, H) or None
            In the order in which the steps ran.
        states : tuple of arrays (B, H)
            After the last valid step; where a row has none, those it started from.
        """
        later, self._has_run = self._has_run, True
        spec, plan, weights = self.spec, tokens.plan, self.weights
        inputs: Inputs | None = None
        if dropout is None:
            few, operations = tuning.FEW_TOKENS_AT_FIRST, tuning.FEW_OPERATIONS_AT_FIRST
            if later:
                few, operations = tuning.FEW_TOKENS, tuning.FEW_OPERATIONS
            is_short = plan.tokens <= few or 2 * plan.tokens * weights.size <= operations
            if is_short and plan.tokens > 0 and weights.lie_whole:
                return self.run_few(tokens, states, every_step)
            module = kernels.module(spec.dtype)
            inputs = tokens.values, tokens.index, None
            if tokens.shared or spec.go_backwards or weights.quantized:
                inputs = self._inputs(module, tokens)
            ranges, parts, ahead, capacity = choose(spec, module, plan, inputs[0] is None, True)
            if len(ranges) == parts == 1 and not ahead:
                initial = None if states is None else tuple(states)
                program = weights.program(module)
                return module.infer(program, plan, inputs, initial, every_step, capacity)  # type: ignore[no-any-return]
        forward = Forward(weights, tokens, states, dropout, every_step, False, inputs)
        return forward.sequence if every_step else None, forward.final_states()

    def _inputs(self, module: ModuleType, tokens: Tokens) -> Inputs:
        """Values and the row of each token in them, or the products of values that tokens share, or of their table."""
        rows, source, spec = running_order(self.spec, tokens), tokens.source, self.spec
        if not tokens.shared:
            return self.weights.operands(module, tokens.values), rows, None
        if source is not None:
            row_bytes = spec.columns * spec.dtype.itemsize
            kept = self._tables.get(source, module, row_bytes, partial(self.weights.products, module))
            if kept is not None:
                return None, source.ids if rows is None else source.ids[rows], kept
        if len(tokens.values) >= tokens.plan.tokens:
            return self.weights.operands(module, tokens.values), rows, None  # no two tokens share one
        return None, rows, self.weights.products(module, tokens.values)

    def vjp(
        self, tokens: Tokens, states: InitialStates = None, *, dropout: Dropout | None = None
    ) -> tuple[tuple[Array, States], Tape]:
        """:meth:`run` with the outputs of all steps, and the tape that takes gradients back.

        What was given, and the sequence, must not change until the tape has been used.
        """
        self._has_run = True
        forward = Forward(self.weights, tokens, states, dropout, every_step=True, training=True)
        return (forward.sequence, forward.final_states()), Tape(forward)

    def run_few(
        self, tokens: Tokens, states: InitialStates, every_step: bool
    ) -> tuple[Array | None, States]:
        """The same bits without packed weights."""
        cell = self.weights.cell(kernels.module(self.spec.dtype))
        return run_lying(cell, self.spec, tokens, states, every_step)

    def __reduce__(self) -> tuple[Any, ...]:
        weights = self.weights
        kernels = weights.quantized or (weights.kernel, weights.recurrent_kernel)
        return type(self), (self.spec, *kernels, weights.bias)
