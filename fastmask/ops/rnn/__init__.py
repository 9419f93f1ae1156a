"""Recurrent layers as programs: checked once, packed at first need, run many times."""

from fastmask.ops.rnn.cell import Cell
from fastmask.ops.rnn.forward import Tokens
from fastmask.ops.rnn.functions import gru, gru_vjp, lstm, lstm_vjp, simple_rnn, simple_rnn_vjp
from fastmask.ops.rnn.inputs import Dropout
from fastmask.ops.rnn.program import RNNProgram
from fastmask.ops.rnn.spec import CELLS, RNNSpec
from fastmask.ops.rnn.tape import RecurrentGradients, Tape

__all__ = [
    "CELLS",
    "Cell",
    "Dropout",
    "RNNProgram",
    "RNNSpec",
    "RecurrentGradients",
    "Tape",
    "Tokens",
    "gru",
    "gru_vjp",
    "lstm",
    "lstm_vjp",
    "simple_rnn",
    "simple_rnn_vjp",
]
