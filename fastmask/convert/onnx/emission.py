"""The layers of fastmask in place of patterns of nodes, with the weights of the file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np

from fastmask import layers
from fastmask.convert.onnx.graph import Array, Node
from fastmask.convert.onnx.operators.recurrent import CELLS, GATES
from fastmask.convert.onnx.recurrence import LAST, SEQUENCE
from fastmask.layers.base.calls import Call, Pullback
from fastmask.layers.rnn.base import Recurrent
from fastmask.ops.rnn.layouts import reordered

_LAYERS: dict[str, Callable[..., Recurrent]] = {"RNN": layers.SimpleRNN, "GRU": layers.GRU, "LSTM": layers.LSTM}


class WrappingEmbedding(layers.Embedding):
    """An Embedding whose negative ids count from the end of the table, as those of ONNX's Gather do."""

    keras_class: ClassVar[tuple[str, str, str | None] | None] = ("keras.layers", "Embedding", None)

    @property
    def is_own(self) -> bool:
        # A compiled chain passes over batches with negative ids.
        return True

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        ids = x if isinstance(x, np.ndarray) else x.values
        if ids.size and ids.min() < 0:
            ids = np.where(ids < 0, ids + self.input_dim, ids)
            x = ids if isinstance(x, np.ndarray) else x.with_values(ids)
        return super().forward(x, call)


def embedding(node: Node, table: Array, name: str) -> layers.Layer:
    """Return the layer of a table."""
    rows, width = table.shape
    mask_zero = bool(node.get("mask_zero"))
    layer = WrappingEmbedding(rows, width, "zeros", mask_zero=mask_zero, name=name, dtype=table.dtype)
    layer.build((None, None))
    layer.set_weights([table])
    return layer


def dense(node: Node, kernel: Array, bias: Array | None, name: str) -> layers.Layer:
    """Return the layer of a matrix (F, units) and a vector."""
    activation, used = node.get("activation"), bias is not None
    layer = layers.Dense(
        kernel.shape[1], activation=activation, use_bias=used, name=name, dtype=kernel.dtype,
        kernel_initializer="zeros",
    )  # fmt: skip
    layer.build((None, kernel.shape[0]))
    layer.set_weights([kernel, bias] if bias is not None else [kernel])
    return layer


def is_plain(node: Node) -> bool:
    """Return whether a Recurrence is a layer of Keras, without lengths, initial states and further outputs."""
    wanted = [place for place, name in enumerate(node.outputs) if name]
    alone = wanted in ([SEQUENCE], [LAST]) and not any(node.inputs[1:])
    return alone and node.get("first") and node.get("direction") != "reverse"


def plain(node: Node, weights: list[Array | None], name: str) -> layers.Layer:
    """Return the recurrent layer, or the Bidirectional of two, of a Recurrence that is one."""
    pair = directions(node, weights, name, whole=False)
    layer: layers.Layer = pair[0]
    if len(pair) == 2:
        layer = layers.Bidirectional(pair[0], backward_layer=pair[1], name=name, dtype=pair[0].dtype)
    assert weights[0] is not None
    layer.build((None, None, weights[0].shape[2]))
    layer.set_weights([array for own in range(len(pair)) for array in _arrays(node, weights, own)])
    return layer


def directions(node: Node, weights: list[Array | None], name: str, whole: bool = True) -> list[Recurrent]:
    """Return the layer of each direction; with weights, all steps and states if `whole`."""
    w = weights[0]
    assert w is not None
    found = []
    for number, (activation, *gates) in enumerate(reversed(own) for own in node.get("activations")):
        backwards = number == 1 or node.get("direction") == "reverse"
        options: dict[str, Any] = {
            "activation": activation, "use_bias": weights[2] is not None, "go_backwards": backwards,
            "return_sequences": whole or bool(node.outputs[SEQUENCE]), "return_state": whole, "dtype": w.dtype,
            "zero_output_for_mask": whole and not node.inputs[4], "recurrent_initializer": "zeros",
            "kernel_initializer": "zeros",
        }  # fmt: skip
        if gates:
            options["recurrent_activation"] = gates[-1]
        if node.get("kind") == "GRU":
            options["reset_after"] = node.get("reset_after")
        units = w.shape[1] // GATES[node.get("kind")]
        ending = "" if not whole and len(node.get("activations")) == 1 else ("_backward" if backwards else "_forward")
        layer = _LAYERS[node.get("kind")](units, name=f"{name}{ending}", **options)
        if whole:
            layer.build((None, None, w.shape[2]))
            layer.set_weights(_arrays(node, weights, number))
        found.append(layer)
    return found


def _arrays(node: Node, weights: list[Array | None], number: int) -> list[Array]:
    """Return kernel, recurrent kernel and bias of one direction, with gates in Keras's order."""
    w, r, b = weights
    assert w is not None
    assert r is not None
    ordered = partial(reordered, cell=CELLS[node.get("kind")], given="onnx", wanted="keras")
    found = [ordered(w[number]).T, ordered(r[number]).T]
    if b is not None:
        halves = [ordered(half) for half in np.split(b[number], 2)]
        kept = node.get("kind") == "GRU" and node.get("reset_after")
        found.append(np.stack(halves) if kept else halves[0] + halves[1])
    return found
