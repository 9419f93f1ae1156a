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
from fastmask.ops.rnn.inputs import Dropout, TableProducts, masked_products, masked_values
from fastmask.ops.rnn.schedule import choose, join_team, prepare, with_products
from fastmask.ops.rnn.spec import RNNSpec
from fastmask.ops.rnn.weights import RNNWeights

States = tuple[Array, ...]


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
    tables : TableProducts, optional
        Where products of whole tables are kept.

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
        every_step: bool, training: bool, tables: TableProducts | None = None,
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

        self._run(tables)

    def _run(self, tables: TableProducts | None) -> None:
        spec, module, tokens = self.spec, self.module, self.tokens
        inputs: tuple[Any, Any, Any] = tokens.values, self.rows, self.gates if spec.cell == "lstm" else None
        if tokens.shared or (self.dropout is not None and self.dropout.inputs is not None):
            inputs = self._products_before(tables)
        known, program = self.weights.packed
        if known is not module:
            program = self.weights.pack(module)
        divisible = self.recurrent_dropout is None
        self.schedule = choose(spec, module, tokens.plan, inputs[0] is None, divisible)
        self.runs = prepare(self.schedule, module, program, spec, tokens.plan, inputs)
        arguments = self.states, self.gates, self.every_step, self.zero_state, self.recurrent_dropout
        if len(self.runs) == 1 and not self.schedule.ahead:
            self.runs[0].forward(*arguments)
            return
        join_team(self.schedule, module, spec, self.runs)
        threads.run(with_products([partial(run.forward, *arguments) for run in self.runs], self.runs))

    def _products_before(self, tables: TableProducts | None) -> tuple[None, Indices | None, Array]:
        """The products of the inputs, made before the first step, and the row of each token in them."""
        weights, module, source = self.weights, self.module, self.tokens.source
        if self.dropout is not None and self.dropout.inputs is not None:
            tokens = [self.masked_values(factors) for factors in self.dropout.inputs]
            return None, None, masked_products(module, self.spec, weights.kernel, weights.input_bias, tokens)
        if source is not None and tables is not None:
            row_bytes = self.spec.columns * self.spec.dtype.itemsize
            kept = tables.get(source, module, row_bytes, partial(weights.products, module))
            if kept is not None:
                return None, source.ids if self.rows is None else source.ids[self.rows], kept
        return None, self.rows, weights.products(module, self.tokens.values)

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
