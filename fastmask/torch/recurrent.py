"""``LSTM``, ``GRU`` and ``RNN`` with the arguments, parameters and results of those in ``torch.nn``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fastmask.torch._layers import run
from fastmask.torch._rows import PackedRows
from fastmask.torch._ways import Unscriptable

__all__ = ["GRU", "LSTM", "RNN"]


class Recurrent(Unscriptable, torch.nn.RNNBase):
    """What the three layers share. They are ``torch.nn.RNNBase``, but not ``torch.nn.LSTM`` and its relatives:
    torch.compile refuses these by their class. All that is private stands elsewhere, as ``accelerate`` puts these
    classes behind subclasses of others, which may have methods of any name."""

    def forward(
        self, input: Tensor | PackedSequence | PackedRows, hx: Any = None, *, mask: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> tuple[Any, Any]:
        """Run the layers.

        Parameters
        ----------
        input : tensor, PackedSequence or PackedRows
            A tensor is (T, B, F), (B, T, F) with ``batch_first``, or (T, F) for one sequence, with the dtype of the
            parameters. PackedRows come from :class:`fastmask.torch.Embedding`.
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
            Where a mask or lengths have another dtype, device or shape.
        RuntimeError, ValueError
            What ``torch.nn`` raises for other tensors that it refuses.
        RuntimeError
            Where the call is recorded by TorchScript, an ONNX exporter or ``torch.fx.symbolic_trace``.
        """
        return run(self, input, hx, mask, lengths)


class LSTM(Recurrent):
    """:class:`torch.nn.LSTM` on fastmask's kernels.

    Constructor arguments, parameter names, initialisation and state dicts are those of ``torch.nn.LSTM``. Calls take
    ``mask=`` or ``lengths=`` besides, see :meth:`forward`. PyTorch's own kernels compute what these do not: layers
    with ``proj_size``, parameters that are not float32 or float64, and other devices than the CPU.
    """

    # Which torch.nn.LSTM.forward asks.
    get_expected_cell_size = torch.nn.LSTM.get_expected_cell_size
    check_forward_args = torch.nn.LSTM.check_forward_args
    permute_hidden = torch.nn.LSTM.permute_hidden

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        torch.nn.RNNBase.__init__(self, "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout,
                                  bidirectional, proj_size, device, dtype)


class GRU(Recurrent):
    """:class:`torch.nn.GRU` on fastmask's kernels; see :class:`LSTM`."""

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, device: Any = None, dtype: torch.dtype | None = None,
        *, proj_size: int | None = None,
    ) -> None:
        _refuse_projections(proj_size)
        torch.nn.RNNBase.__init__(self, "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout,
                                  bidirectional, 0, device, dtype)


class RNN(Recurrent):
    """:class:`torch.nn.RNN` on fastmask's kernels, ``nonlinearity`` "tanh" or "relu"; see :class:`LSTM`."""

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, device: Any = None,
        dtype: torch.dtype | None = None, *, proj_size: int | None = None,
    ) -> None:
        _refuse_projections(proj_size)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity {nonlinearity!r}: expected 'tanh' or 'relu'")
        # RNNBase creates the parameters; torch.nn.RNN keeps this name as well.
        mode = "RNN_TANH" if nonlinearity == "tanh" else "RNN_RELU"
        torch.nn.RNNBase.__init__(self, mode, input_size, hidden_size, num_layers, bias, batch_first, dropout,
                                  bidirectional, 0, device, dtype)
        self.nonlinearity = nonlinearity


def _refuse_projections(proj_size: int | None) -> None:
    # The words here and above are those of torch.nn, which people match.
    if proj_size is not None:
        raise ValueError(f"proj_size argument is only supported for LSTM, not RNN or GRU; got {proj_size}")
