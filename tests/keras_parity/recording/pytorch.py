"""torch.nn.RNN, GRU and LSTM over packed sequences in float64, with weights and gradients in Keras's layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .common import normal

LENGTHS = [3, 6, 1, 5, 2]
FEATURES, UNITS = 4, 3
KINDS: dict[str, tuple[str, dict[str, Any], int, list[int]]] = {  # class, arguments, states, Keras's gates here
    "simple_rnn": ("RNN", {"nonlinearity": "tanh"}, 1, [0]),
    "simple_rnn_relu": ("RNN", {"nonlinearity": "relu"}, 1, [0]),
    "lstm": ("LSTM", {}, 2, [0, 1, 2, 3]),
    "gru": ("GRU", {}, 1, [1, 0, 2]),
}


def keras_matrix(matrix: torch.Tensor, gates: list[int]) -> np.ndarray:
    """Turn [G*H, K] with PyTorch's gates into [K, G*H] with Keras's."""
    parts = matrix.detach().numpy().reshape(len(gates), UNITS, -1)[gates]
    return np.ascontiguousarray(parts.reshape(len(gates) * UNITS, -1).T)


def keras_layout(kind: str, tensors: list[torch.Tensor], gradients: bool) -> list[np.ndarray]:
    """Turn (w_ih, w_hh, b_ih, b_hh) of one direction into Keras's weights."""
    gates = KINDS[kind][3]
    kernel, recurrent, first, second = (keras_matrix(tensor, gates) for tensor in tensors)
    if kind == "gru":
        return [kernel, recurrent, np.concatenate([first, second])]
    # Each of two added biases has the gradient of their sum.
    return [kernel, recurrent, (first if gradients else first + second)[0]]


def case(kind: str, bidirectional: bool, with_state: bool) -> dict[str, Any]:
    """Record one module forward and backward."""
    name, arguments, count, _ = KINDS[kind]
    torch.manual_seed(0)
    module = getattr(torch.nn, name)(
        FEATURES, UNITS, batch_first=True, bidirectional=bidirectional, dtype=torch.float64, **arguments
    )
    batch, directions = len(LENGTHS), 1 + bidirectional
    x = torch.tensor(normal(batch, max(LENGTHS), FEATURES), requires_grad=True)
    shape = (directions, batch, UNITS)
    initial = [torch.tensor(normal(*shape, names=(i,)), requires_grad=True) for i in range(count if with_state else 0)]
    packed = pack_padded_sequence(x, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False)
    given = (tuple(initial) if count == 2 else initial[0]) if with_state else None
    output, states = module(packed, given)
    states = list(states) if count == 2 else [states]
    outputs = [pad_packed_sequence(output, batch_first=True)[0], *states]
    cotangents = [normal(*y.shape, names=("cotangent", i)) for i, y in enumerate(outputs)]
    sum((y * torch.tensor(c)).sum() for y, c in zip(outputs, cotangents, strict=True)).backward()
    parameters = list(module.parameters())
    per_direction = [parameters[4 * d : 4 * d + 4] for d in range(directions)]
    return {
        "kind": kind,
        "bidirectional": bidirectional,
        "lengths": LENGTHS,
        "inputs": x.detach().numpy(),
        "initial_state": [h.detach().numpy() for h in initial],
        "weights": [w for tensors in per_direction for w in keras_layout(kind, tensors, False)],
        "outputs": [y.detach().numpy() for y in outputs],
        "cotangents": cotangents,
        "packed": {
            "inputs": packed.data.detach().numpy(),
            "outputs": output.data.detach().numpy(),
            "batch_sizes": packed.batch_sizes.numpy(),
            "sorted_indices": packed.sorted_indices.numpy(),
            "unsorted_indices": packed.unsorted_indices.numpy(),
        },
        "gradients": {
            "inputs": x.grad.numpy(),
            "initial_state": [h.grad.numpy() for h in initial],
            "weights": [w for tensors in per_direction for w in keras_layout(kind, [p.grad for p in tensors], True)],
        },
    }


def record_pytorch() -> dict[str, Any]:
    """Record every kind, in one direction and two, from zeros and from given states."""
    return {
        f"{kind}-{'bidirectional' if both else 'forward'}-{'state' if state else 'zeros'}": case(kind, both, state)
        for kind in KINDS for both in (False, True) for state in (False, True)
    }  # fmt: skip
