"""Graphs of nodes as models of layers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from fastmask.convert.onnx import emission
from fastmask.convert.onnx.graph import Array, Graph, Node, Shape
from fastmask.convert.onnx.layers import ArrayOperation, FileLayer
from fastmask.convert.onnx.models import OnnxModel, WholeBatchModel
from fastmask.convert.onnx.recurrence import LAST, SEQUENCE, Recurrence, Y
from fastmask.core import budget
from fastmask.core.errors import FileFormatError
from fastmask.layers.base.symbolic import KerasTensor
from fastmask.layers.base.variable import Variable
from fastmask.layers.input import Input
from fastmask.models import Model


class Builder:
    """Makes layers of the nodes of a graph, one by one, and calls each on symbolic tensors.

    Parameters
    ----------
    graph : Graph
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._names: set[str] = set()
        self._variables: dict[str, Variable] = {}
        self.tensors: dict[str, KerasTensor] = {}
        kinds = [a.dtype for name, a in graph.constants.items() if name in graph.trainable]
        kinds += [value.dtype for value in (*graph.inputs, *graph.outputs) if value.dtype is not None]
        floats = {dtype for dtype in kinds if dtype.kind == "f"}
        self.dtype = "float64" if floats == {np.dtype("f8")} else "float32"
        self._shapes: dict[str, Shape | None] = {value.name: value.shape for value in graph.outputs}
        self._shapes |= self._expected()

    def model(self) -> Model:
        """Return the model of the graph."""
        for value in self.graph.inputs:
            shape = (None,) if value.shape is None else (None, *value.shape[1:])
            dtype = None if value.dtype is None else value.dtype.name
            self.tensors[value.name] = Input(batch_shape=shape, dtype=dtype, name=self.name(value.name))
        for node in self.graph.nodes:
            self._connect(node)
        outputs = [self._output(value.name) for value in self.graph.outputs]
        inputs = [self.tensors[value.name] for value in self.graph.inputs]
        if not inputs:
            raise FileFormatError("the file: expected a graph with inputs, got none")
        alone = len(inputs) == 1, len(outputs) == 1
        plain = not any(isinstance(tensor.history.layer, FileLayer) for tensor in self.tensors.values())
        cls = Model if plain else OnnxModel
        if not self._is_batch_first():
            cls = WholeBatchModel
        return cls(inputs[0] if alone[0] else inputs, outputs[0] if alone[1] else outputs)

    def _is_batch_first(self) -> bool:
        """Return whether rows of the batch are, as far as the file tells, the first axis of all inputs and outputs."""
        axes = [value.axes[0] for value in (*self.graph.inputs, *self.graph.outputs) if value.axes]
        fixed = {n for n in axes if isinstance(n, int)}
        if len(fixed) > (not axes or isinstance(axes[0], int)):
            return False
        return all(node.get("first") for node in self.graph.nodes if node.op == "Recurrence")

    def _expected(self) -> dict[str, Shape]:
        """Return the shapes that layers want of what they are called on."""
        found: dict[str, Shape] = {}
        for node in reversed(self.graph.nodes):
            if node.op == "Recurrence":
                found[node.inputs[0]] = (None, None, self.graph.constants[node.get("weights")[0]].shape[2])
            elif node.op == "Dense":
                kernel = self.graph.constants[node.get("kernel")]
                axes = node.get("rank") or len(found.get(node.outputs[0], (None, None)))
                found[node.inputs[0]] = (*[None] * (axes - 1), kernel.shape[1 if node.get("turned") else 0])
        return found

    def name(self, wanted: str) -> str:
        """Return a name for a layer, made of one in the file, that no other layer has."""
        plain = re.sub(r"[^0-9A-Za-z_.]+", "_", wanted).strip("_.")[:80] or "layer"
        found, number = plain, 0
        while found in self._names:
            number += 1
            found = f"{plain}_{number}"
        self._names.add(found)
        return found

    def _connect(self, node: Node) -> None:
        if node.op == "Recurrence":
            self._recurrence(node)
        elif node.op in ("Embedding", "Dense"):
            name = self.name(node.name)
            if node.op == "Embedding":
                layer = emission.embedding(node, self.graph.constants[node.get("table")], name)
            else:
                kernel = self.graph.constants[node.get("kernel")]
                bias = self.graph.constants[node.get("bias")] if node.get("bias") else None
                layer = emission.dense(node, kernel.T if node.get("turned") else kernel, bias, name)
            self.tensors[node.outputs[0]] = layer(self.tensors[node.inputs[0]])
        else:
            self._operation(node)

    def _recurrence(self, node: Node) -> None:
        weights = [self.graph.constants[name] if name else None for name in node.get("weights")]
        name = self.name(node.name)
        if emission.is_plain(node):
            layer: Any = emission.plain(node, weights, name)
            self.tensors[next(filter(None, node.outputs))] = layer(self.tensors[node.inputs[0]])
            return
        constants = self.graph.constants
        inputs = [constants.get(entry, "call") if entry else None for entry in node.inputs]
        kinds = [kind for kind, output in enumerate(node.outputs) if output]
        units = emission.directions(node, weights, name)
        wide = units[0].units * len(units)
        known = {SEQUENCE: (None, None, wide), LAST: (None, wide), Y: (None,) * 4}
        shapes = [known.get(kind, (None,) * 3) for kind in kinds]
        layer = Recurrence(units, inputs, kinds, node.get("first"), node.get("layout"), shapes, name)
        self._call(layer, [entry for entry in node.inputs if entry and entry not in constants],
                   [output for output in node.outputs if output])  # fmt: skip

    def _operation(self, node: Node) -> None:
        sources = list(dict.fromkeys(name for name in node.reads if name not in self.graph.constants))
        if not sources:
            raise FileFormatError(f"{node}: expected a node that depends on the inputs, got one that does not")
        shapes = [self._shape(node, name) for name in node.outputs if name]
        constants = {name: self.constant(name) for name in node.reads if name in self.graph.constants}
        inputs = {value.name: value.dtype for value in self.graph.inputs if value.dtype is not None}
        casts = {name: inputs[name] for name in sources if name in inputs}
        layer = ArrayOperation(node, sources, constants, casts, shapes, self.name(node.name), self.dtype)
        self._call(layer, sources, [name for name in node.outputs if name])

    def _call(self, layer: Any, sources: list[str], outputs: list[str]) -> None:
        found = layer([self.tensors[name] for name in sources])
        made = found if isinstance(found, tuple) else (found,)
        self.tensors |= dict(zip(outputs, made, strict=True))

    def _shape(self, node: Node, name: str) -> Shape:
        known = self._shapes.get(name)
        return (None, None) if known is None else known

    def constant(self, name: str) -> Array | Variable:
        """Return a constant, as a variable if it is a weight."""
        array = self.graph.constants[name]
        if name not in self.graph.trainable or array.dtype != self.dtype:
            return array
        if name not in self._variables:
            budget.take(array.nbytes, f"weights of shape {array.shape}")
            self._variables[name] = Variable(array, re.sub(r"[^0-9A-Za-z_.]+", "_", name) or "weight", True, name)
        return self._variables[name]

    def _output(self, name: str) -> KerasTensor:
        if name in self.graph.constants:
            raise FileFormatError(f"output {name!r}: expected one that depends on the inputs, got a constant")
        if name not in {value.name for value in self.graph.inputs}:
            return self.tensors[name]
        node = Node("Identity", [name], [f"{name}:output"], {}, 13, f"{name}:output")
        self._connect(node)
        return self.tensors[node.outputs[0]]
