"""Symbolic tensors: what layers called before there is data return, and the nodes between them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np

from fastmask.core import budget
from fastmask.core.structure import pack_as
from fastmask.layers.base.checks import Shape
from fastmask.layers.base.holder import AnyLayer

mask_operations: dict[str, type[AnyLayer]] = {}
"""The layers behind the operators of tensors, by the names of their classes, which enter themselves here."""

# The memory that a call and its result take, in the graph and in what is made from it, and that of each axis.
_CALL_BYTES, _AXIS_BYTES = 2048, 32


class History(NamedTuple):
    """Where a tensor comes from: output `tensor_index` of call number `node_index` of a layer."""

    layer: AnyLayer
    node_index: int
    tensor_index: int


@dataclass(eq=False, slots=True)
class KerasTensor:
    """A tensor without values, returned by `Input` and by layers called on such tensors.

    ``tensor != number`` and the operators ``&``, ``|`` and ``~`` make masks to pass to layers.

    Attributes
    ----------
    shape : tuple of int or None
        With the batch axis.
    dtype, name : str
    mask_source : Layer or None
        The layer that made the mask which the tensor carries.
    history : History
        The call of a layer that the tensor is a result of.
    mask_axes : int
        Number of axes of that mask, 0 if there is none.
    """

    shape: Shape
    dtype: str
    name: str
    mask_source: AnyLayer
    history: History
    mask_axes: int = 0

    @property
    def node(self) -> "Node":
        """The call that the tensor is a result of."""
        return cast(Node, self.history.layer.nodes[self.history.node_index])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __ne__(self, other: object) -> Any:
        """Return the tensor that tells where this one differs from a number."""
        is_number = isinstance(other, (int, float, np.number))
        return mask_operations["NotEqual"](other)(self) if is_number else self is not other

    def __and__(self, other: "KerasTensor") -> "KerasTensor":
        return cast(KerasTensor, mask_operations["LogicalAnd"]()([self, other]))

    def __or__(self, other: "KerasTensor") -> "KerasTensor":
        return cast(KerasTensor, mask_operations["LogicalOr"]()([self, other]))

    def __invert__(self) -> "KerasTensor":
        return cast(KerasTensor, mask_operations["LogicalNot"]()(self))

    def __repr__(self) -> str:
        return f"<KerasTensor shape={self.shape}, dtype={self.dtype}, name={self.name}>"


@dataclass(eq=False, slots=True)
class Node:
    """One call of a layer on symbolic tensors.

    Attributes
    ----------
    layer : Layer
    inputs, states, outputs : list of KerasTensor
        `states` are the initial states of a recurrent layer.
    masks : list of KerasTensor or None
        An entry for each input: a mask that was passed to the call, in place of the input's own.
    training : bool or None
        None leaves it to the run of the model.
    options : dict
        Further arguments of the call.
    """

    layer: AnyLayer
    inputs: list[KerasTensor]
    states: list[KerasTensor] = field(default_factory=list)
    training: bool | None = None
    options: dict[str, Any] = field(default_factory=dict)
    outputs: list[KerasTensor] = field(default_factory=list)
    masks: list[KerasTensor | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.masks = self.masks or [None] * len(self.inputs)

    @property
    def parents(self) -> list[KerasTensor]:
        """The tensors that the call depends on."""
        return [*self.inputs, *self.states, *[mask for mask in self.masks if mask is not None]]

    def arguments(self, of: Callable[[KerasTensor], Any]) -> tuple[Any, dict[str, Any]]:
        """Return the input of the call and its other arguments, with `of` each tensor in its place."""
        inputs = [of(tensor) for tensor in self.inputs]
        options = {**self.options}
        if self.states:
            options["initial_state"] = [of(tensor) for tensor in self.states]
        if any(mask is not None for mask in self.masks):
            masks = [None if mask is None else of(mask) for mask in self.masks]
            options["mask"] = masks if self.layer.takes_list else masks[0]
        if self.training is not None:
            options["training"] = self.training
        if self.layer.is_graph:
            return pack_as(self.layer.input_structure, inputs), options
        return inputs if self.layer.takes_list else inputs[0], options

    @property
    def mask_sources(self) -> list[AnyLayer]:
        """For each input the layer that its mask comes from, None if it has none."""
        pairs = zip(self.inputs, self.masks, strict=True)
        return [tensor.mask_source if mask is None else mask.history.layer for tensor, mask in pairs]

    @property
    def mask_axes(self) -> list[int]:
        """For each input the number of axes of its mask, 0 if it has none."""
        pairs = zip(self.inputs, self.masks, strict=True)
        return [tensor.mask_axes if mask is None else mask.ndim for tensor, mask in pairs]


def is_symbolic(x: Any) -> bool:
    """Return whether `x` is a symbolic tensor or holds any."""
    if isinstance(x, Mapping):
        return any(is_symbolic(value) for value in x.values())
    if isinstance(x, (list, tuple)):
        # What holds several inputs shows its kind in the first of them; the rows of a batch are not searched.
        return any(isinstance(value, KerasTensor) for value in x) or (len(x) > 0 and is_symbolic(x[0]))
    return isinstance(x, KerasTensor)


def symbolic_list(name: str, value: Any) -> list[KerasTensor]:
    """Return one or several symbolic tensors as a list; TypeError if there are others among them."""
    values = [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
    for entry in values:
        if not isinstance(entry, KerasTensor):
            raise TypeError(f"{name}: expected symbolic tensors only, got {type(entry).__name__}")
    return values


def symbolic_masks(mask: Any, inputs: Sequence[KerasTensor], layer: AnyLayer) -> list[KerasTensor | None]:
    """Return the mask of each input of a call of a layer that was passed to it, None where there is none.

    Raises
    ------
    TypeError
        If there is something else than symbolic tensors among them.
    ValueError
        If their number or a shape does not fit, or one is missing.
    """
    given = list(mask) if isinstance(mask, (list, tuple)) else [mask]
    masks = given if mask is not None else [None] * len(inputs)
    if len(masks) != len(inputs):
        raise ValueError(f"mask: expected one mask or None for each of {len(inputs)} inputs, got {len(masks)}")
    for i, (tensor, entry) in enumerate(zip(inputs, masks, strict=True)):
        if entry is None and mask is not None and tensor.mask_source is not None:
            raise ValueError(
                f"mask: expected one for each input that carries one, got None for {tensor.name!r}; layers.DropMask() "
                "takes it off"
            )
        if entry is None:
            continue
        if not isinstance(entry, KerasTensor):
            raise TypeError(f"mask: expected a symbolic tensor where x is one, got {type(entry).__name__}")
        pairs = zip(entry.shape, tensor.shape, strict=False)
        most = max(2, tensor.ndim - (not layer.input_takes_ids(i)))
        fits = 2 <= entry.ndim <= most and tensor.ndim >= 2
        if not fits or any(None not in pair and pair[0] != pair[1] for pair in pairs):
            more = f", or more axes up to {tensor.shape[:most]}" if most > 2 else ""
            raise ValueError(f"mask: expected shape (B, T) = {tensor.shape[:2]}{more}, got {entry.shape}")
    return masks


def several(shape: Any) -> bool:
    """Return whether `shape` holds the shapes of several tensors."""
    return len(shape) > 0 and isinstance(shape[0], (tuple, list))


def connect(node: Node) -> list[KerasTensor]:
    """Call a node's layer: check masks, build it, and give the node its outputs."""
    layer = node.layer
    sources, axes = node.mask_sources, node.mask_axes
    source = next((found for found in sources if found is not None), None)
    if source is not None:
        layer.require_masking(source, max(axes))
    given: Any = [tensor.shape for tensor in node.inputs]
    given = given if layer.takes_list else given[0]
    layer.build(given)
    found = layer.compute_output_shape(given, **node.options)
    shapes = list(found) if several(found) else [found]
    flows = layer.mask_flow(axes, len(shapes))
    origin = layer if layer.makes_mask or source is None else source
    number, name = len(layer.nodes), f"{layer.name}_output"
    for shape in shapes:
        budget.take(_CALL_BYTES + len(name) + _AXIS_BYTES * len(shape), f"the calls of {name[:80]!r}")
    node.outputs = [
        KerasTensor(tuple(shape), layer.dtype.name, name, origin if flow else None, History(layer, number, i), flow)
        for i, (shape, flow) in enumerate(zip(shapes, flows, strict=True))
    ]
    layer.nodes.append(node)
    return node.outputs
