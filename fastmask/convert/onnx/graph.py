"""What is read of an ONNX file: nodes between named values, in an order in which they can run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output of a graph: its name, and dtype and axes as far as the file tells them.

    An axis is a length, the name of an unknown one, or None.
    """

    name: str
    dtype: np.dtype[Any] | None = None
    axes: tuple[int | str | None, ...] | None = None

    @property
    def shape(self) -> Shape | None:
        """The lengths of the axes, None for unknown ones."""
        return None if self.axes is None else tuple([n if isinstance(n, int) else None for n in self.axes])


@dataclass(eq=False, slots=True)
class Node:
    """One call of an operator.

    Attributes
    ----------
    op : str
        With the domain in front if that is not ONNX's own: ``"com.microsoft.FusedMatMul"``.
    inputs, outputs : list of str
        Names of values; ``""`` where one is left out.
    attributes : dict
        Numbers, strings, lists of them, arrays and graphs.
    version : int
        Of the set of operators that the node is from.
    name : str
        For messages.
    """

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    version: int = 0
    name: str = ""

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or the default if the file does not give it."""
        return self.attributes.get(name, default)

    @property
    def graphs(self) -> dict[str, Graph]:
        """The graphs among the attributes."""
        return {name: value for name, value in self.attributes.items() if isinstance(value, Graph)}

    @property
    def captured(self) -> list[str]:
        """Names of the values that graphs among the attributes take from around the node."""
        return list(dict.fromkeys(name for graph in self.graphs.values() for name in graph.captured))

    @property
    def reads(self) -> list[str]:
        """Names of all values that the node depends on."""
        return [name for name in self.inputs if name] + self.captured

    def __str__(self) -> str:
        return f"node {self.name!r} ({self.op})"


@dataclass(eq=False, slots=True)
class Graph:
    """Nodes, and the constants that they read.

    Attributes
    ----------
    inputs, outputs : list of Value
    constants : dict of str to ndarray
    nodes : list of Node
        Each behind those that it depends on.
    trainable : set of str
        The constants that are weights: arrays of floating point numbers that the file keeps beside its nodes.
    """

    inputs: list[Value]
    outputs: list[Value]
    constants: dict[str, Array]
    nodes: list[Node]
    trainable: set[str] = field(default_factory=set)

    @property
    def captured(self) -> list[str]:
        """Names of the values that come from around the graph."""
        known = {*self.constants, *(value.name for value in self.inputs)}
        found: dict[str, None] = {}
        for node in self.nodes:
            found |= dict.fromkeys(name for name in node.reads if name not in known)
            known |= set(node.outputs)
        return [*found, *(value.name for value in self.outputs if value.name not in known and value.name not in found)]

    def producers(self) -> dict[str, Node]:
        """Return the node that each value comes from."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    def uses(self) -> dict[str, list[Node]]:
        """Return the nodes that read each value, once for each time."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.reads:
                found.setdefault(name, []).append(node)
        return found

    def every_node(self) -> Iterator[Node]:
        """Yield the nodes, and those of the graphs within."""
        for node in self.nodes:
            yield node
            for graph in node.graphs.values():
                yield from graph.every_node()

    def drop_unused(self) -> None:
        """Take out nodes that no output depends on."""
        wanted = {value.name for value in self.outputs}
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if wanted.intersection(node.outputs):
                kept.append(node)
                wanted.update(node.reads)
        self.nodes = kept[::-1]
