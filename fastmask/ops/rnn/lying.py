"""Runs on weights as they lie in memory: nothing is packed, kept or compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastmask.ops._arrays import Array
from fastmask.ops.rnn.forward import States, Tokens, running_order
from fastmask.ops.rnn.spec import RNNSpec


def run_lying(
    cell: Any, spec: RNNSpec, tokens: Tokens, states: Sequence[Array | None] | None, every_step: bool
) -> tuple[Array | None, States]:
    """Run over a packed batch, with the bits of a run on packed weights. Nothing is checked.

    Parameters
    ----------
    cell : Cell of the compiled kernels
    spec : RNNSpec
        Of that cell.
    tokens : Tokens
    states : arrays (B, H), in the order of the batch, or None; None where they are zeros
        They are not written to.
    every_step : bool
        Whether the outputs of all steps are wanted.

    Returns
    -------
    sequence : array (N, H) or None
        In the order in which the steps ran.
    states : tuple of arrays (B, H)
        After the last valid step; where a row has none, those it started from.
    """
    plan = tokens.plan
    shape = plan.batch_size, spec.units
    after = tuple([
        np.zeros(shape, spec.dtype) if state is None else state.copy()
        for state in states or (None,) * len(spec.states)
    ])
    sequence = np.empty((plan.tokens, spec.units), spec.dtype) if every_step else None
    order = plan.batch_sizes, plan.offsets, plan.sorted_indices
    cell.run(tokens.values, running_order(spec, tokens), order, after, sequence, states is None)
    return sequence, after
