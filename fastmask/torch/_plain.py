"""Runs of layers in PyTorch's own operators: for derivatives of derivatives, and transforms such as ``torch.vmap``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fastmask.ops.rnn import RNNSpec
from fastmask.torch._tape import Gradients, Inputs, Job, Outputs

States = tuple[Tensor, ...]
Product = Callable[[Tensor], Tensor]


def _clipped(x: Tensor) -> Tensor:
    """``x`` between 0 and 1; at both ends the derivative is 0, as in the kernels."""
    return torch.where(x >= 1, torch.ones_like(x), torch.relu(x))


_ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    # PyTorch's own can be differentiated once.
    "hard_sigmoid": lambda x: _clipped(x / 6 + 0.5),
    "hard_sigmoid_keras2": lambda x: _clipped(x * 0.2 + 0.5),
    "relu": torch.relu,
    "softsign": functional.softsign,
    "elu": functional.elu,
}


def take(source: Tensor, index: NDArray[np.int64]) -> Tensor:
    """Rows (m, F) of ``source`` (n, F) by an index (m,); zeros where it is -1."""
    return torch.cat((source, source.new_zeros(1, source.shape[1])))[torch.from_numpy(index)]


def sum_rows(rows: Tensor, index: NDArray[np.int64], count: int) -> Tensor:
    """``out[index[n]] += rows[n]`` over ``count`` rows; an index of -1 is left out."""
    places = torch.from_numpy(np.where(index < 0, count, index))
    return rows.new_zeros(count + 1, rows.shape[1]).index_add(0, places, rows)[:count]


def run(job: Job, inputs: Inputs) -> Outputs:
    """The outputs of all steps (N, H) in the order in which they ran, or None, and the final states (B, H)."""
    with torch.autocast("cpu", enabled=False):
        return _run(job, inputs)


def _run(job: Job, inputs: Inputs) -> Outputs:
    spec, plan = job.spec, job.packing
    kernel, recurrent_kernel, bias, recurrent_bias = _columns(job, inputs.weights)
    units = recurrent_kernel.shape[0]
    values = inputs.values if job.index is None else inputs.values[torch.from_numpy(job.index)]
    if spec.go_backwards:
        values = values[torch.from_numpy(plan.reverse)]
    projected = _plus(values @ kernel, bias)
    if inputs.states:
        states = tuple(state[torch.from_numpy(plan.sorted_indices)] for state in inputs.states)
    else:
        states = (projected.new_zeros(plan.batch_size, units),) * len(spec.states)

    def product(h: Tensor) -> Tensor:
        # Kernels do not multiply zeros that nobody gave: an infinite weight would make them NaN.
        known = h @ recurrent_kernel if shown or inputs.states else h.new_zeros(len(h), recurrent_kernel.shape[1])
        return _plus(known, recurrent_bias)

    shown: list[Tensor] = []
    for first, rows in zip(plan.offsets.tolist(), plan.batch_sizes.tolist(), strict=True):
        stepped = _STEPS[spec.cell](spec, projected[first : first + rows], tuple(s[:rows] for s in states), product)
        states = tuple(torch.cat((new, s[rows:])) for new, s in zip(stepped, states, strict=True))
        shown.append(stepped[0])
    sequence = torch.cat(shown) if shown else projected[:, :units]
    order = torch.from_numpy(plan.unsorted_indices)
    return sequence if job.return_sequences else None, tuple(state[order] for state in states)


def _plus(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias


def _columns(job: Job, weights: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Kernel (F, G), recurrent kernel (H, G) and the bias of each, with Keras's order of gates."""
    if job.layout == "torch" and job.spec.cell == "gru":
        weights = [None if w is None else torch.cat([w.chunk(3)[gate] for gate in (1, 0, 2)]) for w in weights]
    kernel, recurrent_kernel, bias, recurrent_bias = weights
    if job.layout == "torch":
        return kernel.t(), recurrent_kernel.t(), bias, recurrent_bias
    if bias is not None and bias.dim() == 2:
        return kernel, recurrent_kernel, bias[0], bias[1]
    return kernel, recurrent_kernel, bias, None


def _simple_rnn(spec: RNNSpec, x: Tensor, states: States, product: Product) -> States:
    return (_ACTIVATIONS[spec.activation](x + product(states[0])),)


def _lstm(spec: RNNSpec, x: Tensor, states: States, product: Product) -> States:
    activation, gate = _ACTIVATIONS[spec.activation], _ACTIVATIONS[spec.recurrent_activation]
    h, c = states
    i, f, g, o = (x + product(h)).chunk(4, -1)
    c = gate(f) * c + gate(i) * activation(g)
    return gate(o) * activation(c), c


def _gru(spec: RNNSpec, x: Tensor, states: States, product: Product) -> States:
    activation, gate = _ACTIVATIONS[spec.activation], _ACTIVATIONS[spec.recurrent_activation]
    (h,) = states
    x_update, x_reset, x_new = x.chunk(3, -1)
    h_update, h_reset, h_new = product(h).chunk(3, -1)
    update, reset = gate(x_update + h_update), gate(x_reset + h_reset)
    h_new = reset * h_new if spec.reset_after else product(reset * h).chunk(3, -1)[2]
    return (update * h + (1 - update) * activation(x_new + h_new),)


_STEPS: dict[str, Callable[[RNNSpec, Tensor, States, Product], States]] = {
    "simple_rnn": _simple_rnn, "lstm": _lstm, "gru": _gru,
}  # fmt: skip


def gradients(
    job: Job, inputs: Inputs, d_sequence: Tensor | None, d_states: Sequence[Tensor | None]
) -> Gradients:
    """Gradients of the values, the four weights and the states, differentiable if PyTorch records.

    ``inputs`` are those of the run as PyTorch saved them, with what they were computed from.
    """
    recorded = torch.is_grad_enabled()
    with torch.autocast("cpu", enabled=False), torch.enable_grad():
        # A view of each, so that one which depends on another, or is it, has a gradient of its own.
        given = [None if t is None else t.view_as(t) for t in inputs.tensors]
        sequence, states = run(job, Inputs(given[0], tuple(given[1:5]), tuple(given[5:])))
        pairs = [
            (y, d) for y, d in zip((sequence, *states), (d_sequence, *d_states), strict=True)
            if y is not None and d is not None and y.requires_grad
        ]  # fmt: skip
        wanted = [t for t in given if t is not None and t.requires_grad]
        if not pairs:
            return tuple(None if t is None else torch.zeros_like(t) for t in given)
        outputs, cotangents = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(outputs, wanted, cotangents, create_graph=recorded, materialize_grads=True))
    return tuple(next(found) if t is not None and t.requires_grad else None for t in given)
