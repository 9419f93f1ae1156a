"""Graphs as they are read of ONNX files, made by hand: no package is needed for these."""

import numpy as np

from fastmask.convert.onnx import model_of
from fastmask.convert.onnx.graph import Graph, Node, Value

F, INT, B = np.dtype("f4"), np.dtype("i8"), np.dtype(bool)


def graph(inputs, outputs, nodes, constants=(), opset=17):
    """Return a graph.

    `inputs` are (name, dtype, axes), `outputs` names, and `nodes` (op, inputs, outputs, attributes), names divided by
    spaces with "_" where one is left out. Constants of floats that are not single numbers are weights.
    """
    constants = {name: np.asarray(array) for name, array in dict(constants).items()}
    made = []
    for number, (op, given, found, *more) in enumerate(nodes):
        names = [[name if name != "_" else "" for name in part.split()] for part in (given, found)]
        made.append(Node(op, *names, dict(*more), opset, f"node{number}"))
    trainable = {name for name, array in constants.items() if array.dtype.kind == "f" and array.size > 1}
    values = [Value(name, dtype, axes) for name, dtype, axes in inputs]
    return Graph(values, [Value(name) for name in outputs.split()], constants, made, trainable)


def model(*args, **options):
    """Return the model of a graph, with arguments as for `graph`."""
    return model_of(graph(*args, **options))


def kinds(found):
    """Return the classes of the layers of a model, or the operators that they stand for, without inputs."""
    layers = [layer for layer in found.layers if type(layer).__name__ != "InputLayer"]
    return sorted(layer.node.op if hasattr(layer, "node") else type(layer).__name__ for layer in layers)


def random(*shape, seed=0, scale=1.0):
    """Return normal numbers in float32."""
    return (np.random.default_rng([seed, *shape]).normal(size=shape) * scale).astype(np.float32)


def recurrent_weights(gates, directions=1, features=3, units=4):
    """Return W, R and B of ONNX."""
    columns = gates * units
    return {
        "W": random(directions, columns, features, seed=1, scale=0.5),
        "R": random(directions, columns, units, seed=2, scale=0.5),
        "B": random(directions, 2 * columns, seed=3, scale=0.5),
    }
