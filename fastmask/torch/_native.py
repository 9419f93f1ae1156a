"""PyTorch's own computation under this package's forms of input.

It serves calls that the kernels have nothing for: projections, half precision, other devices; and what PyTorch refuses
gets PyTorch's error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fastmask.torch._plan import Plan, padded_plan
from fastmask.torch._rows import PackedRows
from fastmask.torch._ways import Way

_FORWARDS: dict[str, Callable[..., tuple[Any, Any]]] = {
    "LSTM": torch.nn.LSTM.forward, "GRU": torch.nn.GRU.forward,
    "RNN_TANH": torch.nn.RNN.forward, "RNN_RELU": torch.nn.RNN.forward,
}  # fmt: skip


def run(
    module: torch.nn.RNNBase, found: Way, input: Any, hx: Any, mask: Tensor | None,
    lengths: Tensor | Sequence[int] | None,
) -> tuple[Any, Any]:
    """What ``torch.nn`` makes of the input; with a mask or lengths, of its steps that count."""
    if isinstance(input, PackedRows):
        if input.packed is not None:
            return _FORWARDS[module.mode](module, input.expand(), hx)
        plan = input.plan.with_time_major(not module.batch_first)
        if hx is None:
            hx = _zeros(module, input.rows, plan.batch_size)
        output, hidden = _run_packed(module, plan, input.data, hx)
        return plan.unpack(output), hidden
    if (mask is None and lengths is None) or input.dim() not in (2, 3):
        return _FORWARDS[module.mode](module, input, hx)
    batch = 0 if module.batch_first else 1
    single = input.dim() == 2
    if single:
        input, mask = input.unsqueeze(batch), mask.unsqueeze(batch) if isinstance(mask, Tensor) else mask
        hx = _map(hx, lambda state: state.unsqueeze(1))
    if hx is None:
        hx = _zeros(module, input, input.shape[batch])
    module.check_forward_args(input, hx, None)
    plan = padded_plan(found, input.shape[:2], mask, lengths, not module.batch_first)
    output, hidden = _run_packed(module, plan, plan.pack(input), hx)
    padded = plan.unpack(output)
    if single:
        return padded.squeeze(batch), _map(hidden, lambda state: state.squeeze(1))
    return padded, hidden


def _run_packed(module: torch.nn.RNNBase, plan: Plan, values: Tensor, hx: Any) -> tuple[Tensor, Any]:
    """Packed outputs and the final states, in the order of the batch. PyTorch refuses rows without a step."""
    batch_sizes, order = plan.sizes
    rows, order = int(batch_sizes[0]) if len(batch_sizes) else 0, order.to(values.device)
    initial = _map(hx, lambda state: state.index_select(1, order))
    if not rows:
        width = (module.proj_size or module.hidden_size) * (2 if module.bidirectional else 1)
        return values.new_zeros(0, width), hx
    first = _map(initial, lambda state: state[:, :rows])
    packed, finals = _FORWARDS[module.mode](module, PackedSequence(values, batch_sizes), first)
    back = torch.argsort(order)
    if isinstance(finals, tuple):
        pairs = zip(finals, initial, strict=True)
        return packed.data, tuple(torch.cat((new, old[:, rows:]), 1).index_select(1, back) for new, old in pairs)
    return packed.data, torch.cat((finals, initial[:, rows:]), 1).index_select(1, back)


def _zeros(module: torch.nn.RNNBase, values: Tensor, batch: int) -> Any:
    runs, units = len(module._all_weights), module.hidden_size
    hidden = values.new_zeros(runs, batch, module.proj_size or units)
    return (hidden, values.new_zeros(runs, batch, units)) if module.mode == "LSTM" else hidden


def _map(states: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """``function`` of a state, or of each of several; None stays None."""
    if states is None:
        return None
    return tuple(map(function, states)) if isinstance(states, (tuple, list)) else function(states)
