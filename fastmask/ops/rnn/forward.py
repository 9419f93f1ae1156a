"""One forward pass of a recurrent layer on packed weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastmask import kernels, threads
from fastmask.batch.packing import Packing, TableRows
from fastmask.kernels.memory import aligned_empty
from fastmask.ops._arrays import Array, Indices
from fastmask.ops.rnn.inputs import Dropout, masked_products, masked_values
from fastmask.ops.rnn.schedule import choose, join_team, prepare, with_products
from fastmask.ops.rnn.spec import RNNSpec
from fastmask.ops.rnn.weights import RNNWeights

States = tuple[Array, ...]
Inputs = tuple[Array | None, Indices | None, Array | None]


@dataclass(slots=True)
class Tokens:
    """The tokens of a run, unchecked.

    Attributes
    ----------
    values : array (U, F)
    plan : Packing
    index : int64 array (N,) or None
        Token n is ``values[index[n]]``, or row n.
    shared : bool
        Whether tokens share values, whose products are then made once, before the first step.
    source : TableRows or None
        The table whose rows the values are.
    """

    values: Array
    plan: Packing
    index: Indices | None = None
    shared: bool = False
    source: TableRows | None = None


def running_order(spec: RNNSpec, tokens: Tokens) -> Indices | None:
    """Row of the values of each token in the order in which the layer runs; None: token n is row n."""
    if not spec.go_backwards:
        return tokens.index
    return tokens.plan.reverse if tokens.index is None else tokens.index[tokens.plan.reverse]


class Forward:
    """A forward pass, which runs all steps: its buffers, and the runs of the kernels.

    Parameters
    ----------
    weights : RNNWeights
    tokens : Tokens
    states : sequence of arrays (B, H) or None, or None
        To start from; None stands for zeros.
    dropout : Dropout or None
    every_step : bool
        Whether the states of every step are kept.
    training : bool
        Whether to keep what a backward pass reads.
    inputs : tuple, optional
        Values, the row of each token in them, and products, as the kernels take them, if they are known.

    Attributes
    ----------
    states : tuple of arrays
        Buffers that hold the initial states in sorted order and behind them those of all tokens, or of a second half
        that steps read and write in turn with the first; the c of an LSTM in inference is one state a row.
    gates : array (N, stored * H) or None
        What training keeps of every token.
    """

    def __init__(
        self, weights: RNNWeights, tokens: Tokens, states: Sequence[Array | None] | None, dropout: Dropout | None,
        every_step: bool, training: bool, inputs: Inputs | None = None,
    ) -> None:
        spec = weights.spec
        self.weights, self.spec, self.tokens, self.dropout = weights, spec, tokens, dropout
        self.module = kernels.module(spec.dtype)
        self.every_step, self.training, self.zero_state = every_step, training, states is None
        self.rows = running_order(spec, tokens) if spec.go_backwards else tokens.index
        plan, batch, stored = tokens.plan, tokens.plan.batch_size, spec.kind.stored * spec.units
        self.gates = aligned_empty((plan.tokens, stored), spec.dtype) if training and stored else None
        buffers = []
        behind = plan.tokens if every_step else batch
        for state in states or (None,) * len(spec.states):
            buffer = aligned_empty((batch + behind, spec.units), spec.dtype)
            buffer[:batch] = 0 if state is None else state[plan.sorted_indices]
            buffers.append(buffer)
            behind = plan.tokens if training else 0
        self.states = tuple(buffers)
        self.recurrent_dropout: Any = None
        if dropout is not None and dropout.states is not None:
            self.recurrent_dropout = weights.dropout(self.module, dropout.states[:, plan.sorted_indices])

        self._run(self._inputs() if inputs is None else inputs)

    def _inputs(self) -> Inputs:
        """What the kernels' runs take of the tokens."""
        weights, module, tokens = self.weights, self.module, self.tokens
        if self.dropout is not None and self.dropout.inputs is not None:
            masked = [self.masked_values(factors) for factors in self.dropout.inputs]
            return None, None, masked_products(module, self.spec, weights.kernel, weights.input_bias, masked)
        if tokens.shared:
            return None, self.rows, weights.products(module, tokens.values)
        return tokens.values, self.rows, None

    def _run(self, inputs: Inputs) -> None:
        spec, module, plan = self.spec, self.module, self.tokens.plan
        if inputs[2] is None and spec.cell == "lstm":
            inputs = *inputs[:2], self.gates
        self.schedule = choose(spec, module, plan, inputs[0] is None, self.recurrent_dropout is None)
        self.runs = prepare(self.schedule, module, self.weights.program(module), plan, inputs)
        arguments = self.states, self.gates, self.every_step, self.zero_state, self.recurrent_dropout
        if len(self.runs) == 1 and not self.schedule.ahead:
            self.runs[0].forward(*arguments)
            return
        join_team(self.schedule, module, spec, self.runs)
        threads.run(with_products([partial(run.forward, *arguments) for run in self.runs], self.runs))

    def masked_values(self, factors: Array) -> Array:
        """Each token in running order times its row's factors (B, F)."""
        return masked_values(self.module, self.tokens.values, self.rows, self.tokens.plan, factors)

    @property
    def sequence(self) -> Array:
        """The outputs of all steps (N, H) in the order in which they ran."""
        return self.states[0][self.tokens.plan.batch_size :]

    def final_states(self) -> States:
        """The states (B, H) after the last valid steps, in the order of the batch."""
        plan, (h, *more) = self.tokens.plan, self.states
        # Of two halves, a row of odd length ends in the second.
        last = plan.last_steps if self.every_step else plan.unsorted_indices + (plan.lengths & 1) * plan.batch_size
        behind = plan.last_steps if self.training else plan.unsorted_indices
        return (h.take(last, axis=0), *[state.take(behind, axis=0) for state in more])
