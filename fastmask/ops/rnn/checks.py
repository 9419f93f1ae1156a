"""Checks of what a run is given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastmask.ops._arrays import Array, check_float, check_list, check_shape
from fastmask.ops.rnn.inputs import Dropout
from fastmask.ops.rnn.spec import RNNSpec


def check_states(
    name: str, states: Sequence[Array | None] | None, spec: RNNSpec, batch_size: int
) -> list[Array | None]:
    """States (B, H) or gradients of them, checked; None for each that is not given."""
    count = len(spec.states)
    if states is None:
        return [None] * count
    if len(check_list(name, states)) != count:
        raise ValueError(f"{name}: expected {count} arrays, got {len(states)}")
    checked: list[Array | None] = []
    for i, state in enumerate(states):
        if state is None:
            checked.append(None)
            continue
        array = check_float(f"{name}[{i}]", state, 2, spec.dtype)
        check_shape(f"{name}[{i}]", array, (batch_size, spec.units))
        checked.append(array)
    return checked


def check_dropout(
    spec: RNNSpec, batch_size: int, input_mask: Array | None, recurrent_mask: Array | None
) -> Dropout | None:
    """Dropout from masks (B, width) or (gates, B, width), checked; None if there are none."""
    if input_mask is None and recurrent_mask is None:
        return None
    return Dropout(
        _check_mask("input_mask", input_mask, spec, batch_size, spec.features),
        _check_mask("recurrent_mask", recurrent_mask, spec, batch_size, spec.units),
    )


def _check_mask(name: str, mask: Array | None, spec: RNNSpec, batch_size: int, width: int) -> Array | None:
    if mask is None:
        return None
    checked = check_float(name, mask, None, spec.dtype)
    if checked.ndim == 2:
        checked = checked[None]
    if checked.shape not in ((1, batch_size, width), (spec.gates, batch_size, width)):
        raise ValueError(
            f"{name}: expected shape {(batch_size, width)} or {(spec.gates, batch_size, width)}, got {np.shape(mask)}"
        )
    return checked
