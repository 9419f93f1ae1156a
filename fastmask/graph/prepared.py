"""Prepared inference: layers that follow one another as one compiled call, for requests."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from fastmask import kernels
from fastmask.graph.order import Graph
from fastmask.layers import Layer
from fastmask.ops import tuning

_NOTHING: tuple[Any, Any, Any] = None, None, None


class Prepared:
    """What a graph computes in inference for a small batch, prepared for its weights as they are.

    It is made by the second call after a change of the weights: a single one does not pay for it. Threads may share it.

    Parameters
    ----------
    graph : Graph, optional
        Without one, or where its layers are not a chain of fastmask's own that ends in one vector for each row, each
        answer is None.
    """

    def __init__(self, graph: Graph | None = None) -> None:
        chain = [] if graph is None else _chain(graph)
        self._scans: list[Any] = [layer for layer in chain if hasattr(layer, "stateful")]
        # Without a recurrent layer there is nothing that a chain can begin with.
        self._layers = chain if self._scans else []
        self._find_weights()
        self._kept = _NOTHING

    def _find_weights(self) -> None:
        self._weights = [weight for layer in self._layers for weight in layer.weights]

    def run(self, x: Any, mask: Any = None) -> Any:
        """Return the output for a padded batch, and its number of tokens; None if it must go through the layers.

        Parameters
        ----------
        x : ndarray (B, T) of ids or (B, T, F)
            Anything else goes through the layers.
        mask : ndarray of bool (B, T), optional
        """
        if not self._layers or type(x) is not np.ndarray:
            return None
        # One read and one write of what is kept: threads may be here at the same time.
        module = kernels.module(self._layers[0].dtype)
        versions = [*[weight.version for weight in self._weights], *[scan.stateful for scan in self._scans]]
        known, of_module, chain = self._kept
        if known != versions or of_module is not module:
            self._find_weights()  # quantised layers have others
            self._kept = [*[w.version for w in self._weights], *[scan.stateful for scan in self._scans]], module, None
            return None
        if chain is None:
            chain = None if None in versions else self._make(module)
            self._kept = versions, module, chain
        return None if chain is None else chain.run(x, mask)

    def _make(self, module: ModuleType) -> Any:
        """Return the kernels' chain; None if a layer is not for it."""
        stages: list[Any] = []
        operations = 0
        for layer in self._layers:
            found = layer.stages(module)
            if found is None:
                self._layers = []
                return None
            stages += found
            operations += 2 * sum([weight.value.size for weight in layer.weights if not layer.takes_ids])
        return module.Chain(stages, operations, tuning.OPERATIONS_PER_THREAD)


def _chain(graph: Graph) -> list[Layer]:
    """Return the layers of a graph in their order if each takes the output of the one before, and nothing else."""
    place = graph.places[graph.inputs[0]]
    found: list[Layer] = []
    for step in graph.steps:
        layer = step.node.layer
        follows = step.plain and step.inputs == (place,) and len(step.outputs) == 1
        if not (follows and layer.is_own) or step.node.training:
            return []
        found.append(layer)
        place = step.outputs[0]
    several = len(graph.inputs) > 1 or len(graph.outputs) > 1 or len({layer.dtype for layer in found}) != 1
    return [] if several or place != graph.places[graph.outputs[0]] or len(graph.outputs[0].shape) != 2 else found
