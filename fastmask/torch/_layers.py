"""A call of a module: its layers on packed tokens, or PyTorch's own computation where the kernels have none."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fastmask.ops.rnn import CELLS
from fastmask.torch import _native
from fastmask.torch._checks import are_usual, differentiable, widen
from fastmask.torch._kept import KeptProgram, kept_programs
from fastmask.torch._plan import Plan, packed_plan, padded_plan
from fastmask.torch._rows import PackedRows
from fastmask.torch._tape import Inputs, Options
from fastmask.torch._ways import Way, way

States = tuple[Tensor, ...]
_CELL_OF_MODE = {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "simple_rnn", "RNN_RELU": "simple_rnn"}


def run(
    module: torch.nn.RNNBase, input: Any, hx: Any, mask: Tensor | None, lengths: Tensor | Sequence[int] | None
) -> tuple[Any, Any]:
    """What ``forward`` of the three modules does."""
    padded = isinstance(input, Tensor)
    tokens = input if padded else _tokens(input)
    weights = _weights(module)
    found = way(_read(tokens, hx, mask, lengths, weights))
    if not padded:
        _check_packed(input, mask, lengths)
    values = tokens
    if torch.is_autocast_enabled("cpu"):
        values, weights = widen(tokens), [[widen(weight) for weight in layer] for layer in weights]
    if not _suit(module, values, padded, weights):
        return _native.run(module, found, input, hx, mask, lengths)
    single = padded and values.dim() == 2
    plan, values, index = _packed(module, found, input, values, mask, lengths)
    states = _initial_states(module, hx, plan.batch_size, single, values.dtype)
    if states is None:
        return _native.run(module, found, input, hx, mask, lengths)
    kept = kept_programs(module) if found is Way.KERNELS else None
    output, finals = _run_layers(module, plan, values, index, weights, states, kept)
    last = tuple([_stack(states) for states in zip(*finals, strict=True)])
    if single:
        last = tuple(state.squeeze(1) for state in last)
    hidden = last if len(last) > 1 else last[0]
    if isinstance(input, PackedSequence):
        return PackedSequence(output, *input[1:]), hidden
    if isinstance(input, PackedRows) and input.packed is not None:
        return PackedSequence(output, *input.packed), hidden
    output = plan.unpack(output)
    return (output.squeeze(0 if module.batch_first else 1) if single else output), hidden


def _tokens(input: Any) -> Any:
    """The tensor that holds the features."""
    if isinstance(input, PackedRows):
        return input.rows
    return input.data if isinstance(input, PackedSequence) else input


def _check_packed(input: Any, mask: Any, lengths: Any) -> None:
    if not isinstance(input, (PackedSequence, PackedRows)):
        raise TypeError(f"input: expected a tensor, PackedSequence or PackedRows, got {type(input).__name__}")
    if mask is not None or lengths is not None:
        raise ValueError("mask, lengths: expected neither with packed input, which says what counts, got one")


def _weights(module: torch.nn.RNNBase) -> list[list[Tensor]]:
    """``all_weights``, in half its time."""
    own = module._parameters
    return [
        [own[name] if name in own else getattr(module, name) for name in names]  # type: ignore[misc]
        for names in module._all_weights
    ]


def _read(tokens: Any, hx: Any, mask: Any, lengths: Any, weights: list[list[Tensor]]) -> list[Any]:
    """What a call may find tensors among."""
    tensors = [tokens, *hx, mask, lengths] if isinstance(hx, (tuple, list)) else [tokens, hx, mask, lengths]
    for layer in weights:
        tensors += layer
    return tensors


def _suit(module: torch.nn.RNNBase, values: Tensor, padded: bool, weights: list[list[Tensor]]) -> bool:
    """Whether the kernels take these; PyTorch's own computation takes more, and has its errors for all else."""
    dims = values.dim()
    if module.proj_size or not (dims == 2 or (dims == 3 and padded)) or values.shape[-1] != module.input_size:
        return False
    tensors = [values]
    for layer in weights:
        tensors += layer
    return are_usual(tensors, values.dtype)


def _packed(
    module: torch.nn.RNNBase, found: Way, input: Any, values: Tensor, mask: Any, lengths: Any
) -> tuple[Plan, Tensor, Any]:
    """The plan, the values, and the index of the tokens among them."""
    if isinstance(input, PackedRows):
        return input.plan.with_time_major(not module.batch_first), values, input.index
    if isinstance(input, PackedSequence):
        return packed_plan(found, input.batch_sizes, input.sorted_indices), values, None
    if values.dim() == 2:
        batch = 0 if module.batch_first else 1
        values = values.unsqueeze(batch)
        mask = mask.unsqueeze(batch) if isinstance(mask, Tensor) else mask
    plan = padded_plan(found, values.shape[:2], mask, lengths, not module.batch_first)
    return plan, plan.pack(values), None


def _initial_states(
    module: torch.nn.RNNBase, hx: Any, batch: int, single: bool, dtype: torch.dtype
) -> list[States] | None:
    """The states of each layer and direction; None where they are not of the usual form."""
    runs = len(module._all_weights)
    if hx is None:
        return [()] * runs
    given = hx if module.mode == "LSTM" else (hx,)
    if not isinstance(given, (tuple, list)) or len(given) != len(CELLS[_CELL_OF_MODE[module.mode]].states):
        return None
    wide = [widen(state) if isinstance(state, Tensor) else state for state in given]
    shape = (runs, module.hidden_size) if single else (runs, batch, module.hidden_size)
    if not are_usual(wide, dtype) or any(state.shape != shape for state in wide):
        return None
    if single:
        wide = [state.unsqueeze(1) for state in wide]
    return list(zip(*[state.unbind() for state in wide], strict=True))


def _run_layers(
    module: torch.nn.RNNBase, plan: Plan, values: Tensor, index: Any, weights: list[list[Tensor]],
    states: list[States], kept: list[KeptProgram] | None,
) -> tuple[Tensor, list[States]]:
    directions = 2 if module.bidirectional else 1
    finals = []
    for layer in range(module.num_layers):
        outputs = []
        for direction in range(directions):
            run = layer * directions + direction
            inputs = Inputs(values, (*weights[run], None, None)[:4], states[run])
            recorded = differentiable(inputs.tensors)
            program = None if kept is None else kept[run]
            sequence, final = plan.run(_options(module.mode, direction == 1), inputs, recorded, index, program)
            outputs.append(plan.reverse(sequence) if direction else sequence)
            finals.append(final)
        values, index = (torch.cat(outputs, 1) if directions > 1 else outputs[0]), None
        if module.dropout and module.training and layer < module.num_layers - 1:
            values = torch.nn.functional.dropout(values, module.dropout)
    return values, finals


@lru_cache(maxsize=16)
def _options(mode: str, go_backwards: bool) -> Options:
    activation = "relu" if mode == "RNN_RELU" else "tanh"
    return Options(_CELL_OF_MODE[mode], "torch", activation, "sigmoid", True, go_backwards, True)


def _stack(states: States) -> Tensor:
    return torch.stack(states) if len(states) > 1 else states[0].unsqueeze(0)
