"""Masks that are lost on the way through a graph, where layers merge what is masked with what is not."""

import sys
import warnings
from collections.abc import Iterable

from fastmask.layers import DropMask
from fastmask.layers.base.holder import describe
from fastmask.layers.base.symbolic import KerasTensor, Node
from fastmask.layers.merging import MaskMerge


def warn_of_lost_masks(nodes: Iterable[Node], outputs: Iterable[KerasTensor]) -> None:
    """Warn once of each merging layer whose outputs reach those of a graph with padding that counts.

    A mask that is passed to a call further on makes up for the lost one. After `DropMask` it is meant to be lost.
    """
    reached: dict[KerasTensor, tuple[Node, ...]] = {}
    for node in nodes:
        pairs = zip(node.inputs, node.masks, strict=True)
        read = [*[tensor for tensor, mask in pairs if mask is None], *node.states]
        lost = [found for tensor in read for found in reached.get(tensor, ())]
        if isinstance(node.layer, MaskMerge) and node.layer.loses_mask(node.mask_axes):
            lost.append(node)
        if lost and not isinstance(node.layer, DropMask):
            reached |= dict.fromkeys(node.outputs, tuple(dict.fromkeys(lost)))
    for node in dict.fromkeys(found for tensor in outputs for found in reached.get(tensor, ())):
        if not node.layer.loss_told:
            node.layer.loss_told = True
            warnings.warn(_message(node), stacklevel=_level_of_caller())


def _level_of_caller() -> int:
    """Return how far up a warning's caller finds code that is not of this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("fastmask."):
        level, frame = level + 1, frame.f_back
    return level


def _message(node: Node) -> str:
    sources = node.mask_sources
    masked = [source.name for source in sources if source is not None]
    others = [tensor.history.layer.name for tensor, source in zip(node.inputs, sources, strict=True) if source is None]
    return (
        f"{describe(node.layer)} loses the mask of {' and '.join(map(repr, masked))}, since there is none of "
        f"{' and '.join(map(repr, others))}: padding counts in all that follows, as in Keras 3. Pass mask= to the "
        "layers that follow, such as mask=ids != 0, or put DropMask() before it if this is meant"
    )
