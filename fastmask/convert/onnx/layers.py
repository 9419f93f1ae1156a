"""The layer of what no layer of fastmask computes: one operator, as it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastmask.batch.packing import PackedSequence
from fastmask.convert.onnx.graph import Node
from fastmask.convert.onnx.operators import OPERATORS
from fastmask.convert.onnx.running import run_node
from fastmask.layers.base.calls import Call, Gradients, Pullback
from fastmask.layers.base.flow import run, same
from fastmask.layers.base.layer import Layer
from fastmask.layers.base.variable import Variable

Dtypes = Mapping[str, np.dtype[Any]]


class FileLayer(Layer):
    """Base of the layers that only files of ONNX have: they take several values of any shape, and no mask."""

    takes_list = True
    takes_grid = True

    def __init__(self, shapes: Sequence[tuple[int | None, ...]], name: str, dtype: Any) -> None:
        super().__init__(name=name, dtype=dtype)
        self.shapes = [tuple(shape) for shape in shapes]

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shapes that the file tells, None for each axis of which it does not."""
        return self.shapes[0] if len(self.shapes) == 1 else tuple(self.shapes)

    def apply(
        self, x: Any, mask: Any = None, initial_state: Any = None, training: bool | None = False, keep: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Any, Pullback | None]:
        if mask is not None:
            raise TypeError(f"mask: expected None for layer {self.name!r}, got one")
        for entry in x:
            if isinstance(entry, PackedSequence) and entry.packing.masked:
                self.require_masking()
        return self.forward(x, Call(None, None, bool(training), keep))

    def get_config(self) -> dict[str, Any]:
        """Return what files of weights need: the name."""
        return {"name": self.name, "trainable": self.trainable, "dtype": self.dtype.name}


class ArrayOperation(FileLayer):
    """One operator of ONNX on padded arrays.

    Parameters
    ----------
    node : Node
    sources : list of str
        The names of the values that the layer is called on, in their order.
    constants : mapping of str to ndarray or Variable
        The other values that the node reads. Variables are its weights, which several layers may share.
    inputs : mapping of str to dtype
        Sources that are inputs of the model, with the dtype that the file wants.
    """

    def __init__(
        self, node: Node, sources: list[str], constants: Mapping[str, Any], inputs: Dtypes,
        shapes: Sequence[tuple[int | None, ...]], name: str, dtype: Any,
    ) -> None:
        super().__init__(shapes, name, dtype)
        self.node, self.sources, self.inputs = node, sources, dict(inputs)
        self.constants = dict(constants)
        self._variables = [value for value in self.constants.values() if isinstance(value, Variable)]
        self._kept = [i for i, output in enumerate(node.outputs) if output]

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        entered = [run("unpack", call.keep, e) if isinstance(e, PackedSequence) else (e, same) for e in x]
        values: dict[str, Any] = {}
        for source, (value, _) in zip(self.sources, entered, strict=True):
            wanted = self.inputs.get(source)
            values[source] = value if wanted is None or value.dtype == wanted else value.astype(wanted)
        for source, kept in self.constants.items():
            values[source] = kept.value if isinstance(kept, Variable) else kept
        given = [values[source] if source else None for source in self.node.inputs]
        outputs = run_node(self.node, given, values if self.node.graphs else {})
        named = tuple([outputs[i] for i in self._kept])

        def pullback(dy: Any) -> Gradients:
            parts = dy if isinstance(dy, tuple) else (dy,)
            d = dict(zip(self._kept, parts, strict=True))
            found = self._gradients(given, outputs, [d.get(i) for i in range(len(outputs))])
            backs = [back for _, back in entered]
            inputs = [None if g is None else b(g) for b, g in zip(backs, map(found.get, self.sources), strict=True)]
            weights = [found.get(s) for s, kept in self.constants.items() if isinstance(kept, Variable)]
            return Gradients(inputs, weights)

        return (named[0] if len(named) == 1 else named), pullback if call.keep else None

    def _gradients(self, given: list[Any], outputs: Sequence[Any], d: list[Any]) -> dict[str, Any]:
        """Return the gradients by the names of the values that the node reads."""
        operator = OPERATORS.get(self.node.op)
        # A gradient ends at whole numbers and masks, whatever is made of them.
        if not self.node.graphs and not any(_is_float(value) for value in given):
            return {}
        if operator is None or operator.gradient is None:
            raise NotImplementedError(f"{self.node}: expected an operator with a gradient to train it, got one without")
        d = [g if g is None else np.asarray(g, y.dtype) for g, y in zip(d, outputs, strict=True)]
        found: dict[str, Any] = {}
        pairs = zip(self.node.inputs, given, operator.gradient(self.node, given, outputs, d), strict=True)
        for name, value, gradient in pairs:
            if name and gradient is not None and _is_float(value):
                gradient = np.asarray(gradient, value.dtype)
                found[name] = found[name] + gradient if name in found else gradient
        return found


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"
