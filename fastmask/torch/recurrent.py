"""``LSTM``, ``GRU`` and ``RNN`` with the arguments, parameters and results of those in ``torch.nn``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fastmask.ops.rnn import CELLS
from fastmask.torch._checks import are_usual, check_shape, check_tensor, differentiable, widen
from fastmask.torch._kept import KeptProgram, kept_programs
from fastmask.torch._plan import Plan, packed_plan, padded_plan
from fastmask.torch._rows import PackedRows
from fastmask.torch._tape import Inputs, Options
from fastmask.torch._ways import Unscriptable, Way, way

__all__ = ["GRU", "LSTM", "RNN"]
States = tuple[Tensor, ...]


class Recurrent(Unscriptable, torch.nn.RNNBase):
    """What the three layers share. They are ``torch.nn.RNNBase``, but not ``torch.nn.LSTM`` and its relatives:
    torch.compile refuses these by their class."""

    _cell: ClassVar[str]

    def __init__(
        self, mode: str, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0,
        device: Any = None, dtype: torch.dtype | None = None,
    ) -> None:
        if proj_size:
            raise ValueError(f"proj_size: expected 0, as there are no projections here, got {proj_size}; "
                             "use torch.nn.LSTM for them")
        super().__init__(mode, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
                         device=device, dtype=dtype)

    def forward(
        self, input: Tensor | PackedSequence | PackedRows, hx: Any = None, *, mask: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> tuple[Any, Any]:
        """Run the layers.

        Parameters
        ----------
        input : tensor, PackedSequence or PackedRows
            A tensor is (T, B, F), (B, T, F) with ``batch_first``, or (T, F) for one sequence; float32 or float64
            like the parameters. PackedRows come from :class:`fastmask.torch.Embedding`.
        hx : tensor (D * L, B, H), or a pair of them for an LSTM, optional
            Initial states of L layers in D directions, in the order of the batch; zeros by default. Without the
            dimension B for one sequence.
        mask : bool tensor, optional
            Which steps of a tensor count: the shape of the input without its features. Any pattern; what stands in
            other places is not read.
        lengths : integer tensor (B,) or sequence of int, optional
            How many leading steps count, instead of a mask. Rows may be empty.

        Returns
        -------
        output : tensor or PackedSequence
            (T, B, D * H) and so on, in the form of the input, zeros where a step does not count; for a
            PackedSequence one with the same plan.
        states : tensor (D * L, B, H), or a pair of them for an LSTM
            After the last step that counts, in the order of the batch; a row without any keeps its initial state.

        Raises
        ------
        TypeError, ValueError
            Where a tensor has another dtype, device or shape.
        RuntimeError
            Where the call is recorded by TorchScript, an ONNX exporter or ``torch.fx.symbolic_trace``.
        """
        weights = self._weights()
        found = way(_read(input, hx, mask, lengths, weights))
        if torch.is_autocast_enabled("cpu"):
            weights = [[widen(weight) for weight in layer] for layer in weights]
        single = isinstance(input, Tensor) and input.dim() == 2
        plan, values, index = self._packed(found, input, mask, lengths)
        self._check(values, weights)
        states = self._initial_states(hx, plan.batch_size, single, values.dtype)
        kept = kept_programs(self) if found is Way.KERNELS else None
        output, finals = self._run_layers(plan, values, index, weights, states, kept)
        last = tuple([_stack(states) for states in zip(*finals, strict=True)])
        if single:
            last = tuple(state.squeeze(1) for state in last)
        hidden = last if len(last) > 1 else last[0]
        if isinstance(input, PackedSequence):
            return PackedSequence(output, *input[1:]), hidden
        if isinstance(input, PackedRows) and input.packed is not None:
            return PackedSequence(output, *input.packed), hidden
        padded = plan.unpack(output)
        return (padded.squeeze(0 if self.batch_first else 1) if single else padded), hidden

    def _weights(self) -> list[list[Tensor]]:
        """``all_weights``, in half its time."""
        own = self._parameters
        return [
            [own[name] if name in own else getattr(self, name) for name in names] for names in self._all_weights
        ]

    def _packed(self, found: Way, input: Any, mask: Any, lengths: Any) -> tuple[Plan, Tensor, Any]:
        """The plan, the values, and the index of the tokens among them."""
        if isinstance(input, (PackedSequence, PackedRows)):
            if mask is not None or lengths is not None:
                raise ValueError("mask, lengths: expected neither with packed input, which says what counts, got one")
            values = widen(input.rows if isinstance(input, PackedRows) else input.data)
            check_tensor("input", values)
            if isinstance(input, PackedRows):
                return input.plan.with_time_major(not self.batch_first), values, input.index
            return packed_plan(found, input.batch_sizes, input.sorted_indices), values, None
        if not isinstance(input, Tensor):
            raise TypeError(f"input: expected a tensor, PackedSequence or PackedRows, got {type(input).__name__}")
        x = widen(input)
        if x.dim() == 2:
            batch = 0 if self.batch_first else 1
            x = x.unsqueeze(batch)
            mask = mask.unsqueeze(batch) if isinstance(mask, Tensor) else mask
        if x.dim() != 3:
            raise ValueError(f"input: expected 2 or 3 dimensions, got shape {tuple(input.shape)}")
        check_tensor("input", x)
        plan = padded_plan(found, x.shape[:2], mask, lengths, not self.batch_first)
        return plan, plan.pack(x), None

    def _check(self, values: Tensor, weights: list[list[Tensor]]) -> None:
        if values.dim() != 2 or values.shape[1] != self.input_size:
            raise ValueError(f"input: expected {self.input_size} features (input_size), got {values.shape[-1]}")
        for names, layer in zip(self._all_weights, weights, strict=True):
            if are_usual(layer, values.dtype):
                continue
            for name, weight in zip(names, layer, strict=True):
                check_tensor(name, weight, values.dtype)

    def _initial_states(self, hx: Any, batch: int, single: bool, dtype: torch.dtype) -> list[States]:
        """The states of each layer and direction."""
        runs = len(self._all_weights)
        if hx is None:
            return [()] * runs
        count = len(CELLS[self._cell].states)
        given = hx if count > 1 else (hx,)
        if not isinstance(given, (tuple, list)) or len(given) != count:
            raise TypeError(f"hx: expected a pair of tensors (h_0, c_0), got {type(hx).__name__}")
        shape = (runs, self.hidden_size) if single else (runs, batch, self.hidden_size)
        wide = []
        for tensor in map(widen, given):
            check_tensor("hx", tensor, dtype)
            check_shape("hx", tensor, shape)
            wide.append(tensor.unsqueeze(1) if single else tensor)
        return list(zip(*[state.unbind() for state in wide], strict=True))

    def _run_layers(
        self, plan: Plan, values: Tensor, index: Any, weights: list[list[Tensor]], states: list[States],
        kept: list[KeptProgram] | None,
    ) -> tuple[Tensor, list[States]]:
        directions = 2 if self.bidirectional else 1
        finals = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                run = layer * directions + direction
                inputs = Inputs(values, (*weights[run], None, None)[:4], states[run])
                recorded = differentiable(inputs.tensors)
                program = None if kept is None else kept[run]
                options = _options(self._cell, self.mode, direction == 1)
                sequence, final = plan.run(options, inputs, recorded, index, program)
                outputs.append(plan.reverse(sequence) if direction else sequence)
                finals.append(final)
            values, index = (torch.cat(outputs, 1) if directions > 1 else outputs[0]), None
            if self.dropout and self.training and layer < self.num_layers - 1:
                values = torch.nn.functional.dropout(values, self.dropout)
        return values, finals


@lru_cache(maxsize=16)
def _options(cell: str, mode: str, go_backwards: bool) -> Options:
    activation = "relu" if mode == "RNN_RELU" else "tanh"
    return Options(cell, "torch", activation, "sigmoid", True, go_backwards, True)


def _read(input: Any, hx: Any, mask: Any, lengths: Any, weights: list[list[Tensor]]) -> list[Any]:
    """What a call may find tensors among."""
    first = input.rows if isinstance(input, PackedRows) else input[0] if isinstance(input, tuple) else input
    states = hx if isinstance(hx, (tuple, list)) else (hx,)
    tensors = [first, *states, mask, lengths]
    for layer in weights:
        tensors += layer
    return tensors


def _stack(states: States) -> Tensor:
    return torch.stack(states) if len(states) > 1 else states[0].unsqueeze(0)


class LSTM(Recurrent):
    """:class:`torch.nn.LSTM` on fastmask's kernels.

    Constructor arguments, parameter names, initialisation and state dicts are those of ``torch.nn.LSTM``;
    ``proj_size`` is refused. Calls take ``mask=`` or ``lengths=`` besides, see :meth:`forward`.
    """

    _cell = "lstm"

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__("LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
                         proj_size, device, dtype)


class GRU(Recurrent):
    """:class:`torch.nn.GRU` on fastmask's kernels; see :class:`LSTM`."""

    _cell = "gru"

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, device: Any = None, dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__("GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0,
                         device, dtype)


class RNN(Recurrent):
    """:class:`torch.nn.RNN` on fastmask's kernels, ``nonlinearity`` "tanh" or "relu"; see :class:`LSTM`."""

    _cell = "simple_rnn"

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity: expected 'tanh' or 'relu', got {nonlinearity!r}")
        # RNNBase creates the parameters; torch.nn.RNN keeps this name as well.
        mode = "RNN_TANH" if nonlinearity == "tanh" else "RNN_RELU"
        super().__init__(mode, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0,
                         device, dtype)
        self.nonlinearity = nonlinearity
