"""The weights of a model as the tree that Keras 3 stores: a group per object, named by class.

::

    layers/lstm/cell/vars/{0 kernel, 1 recurrent_kernel, 2 bias}
    layers/lstm_1/...                                     # the second layer of a class
    layers/bidirectional/{forward_layer,backward_layer}/cell/vars/...
    layers/time_distributed/layer/vars/...
    layers/functional/layers/...                          # a model inside a model
    optimizer/vars/{0 iterations, 1 learning rate, 2 ...}
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from fastmask.core.errors import FileFormatError
from fastmask.core.objects import snake_case
from fastmask.layers import Variable
from fastmask.layers.rnn.base import Recurrent
from fastmask.saving import h5
from fastmask.saving.order import Orders, layers_of

_KERAS_NAMES = {"Model": "Functional", "WrappingEmbedding": "Embedding"}
_OLD_CONTAINER = "_layer_checkpoint_dependencies"


class Entry(NamedTuple):
    """A group of the tree: its path, the name of its object, and the variables it holds."""

    path: str
    name: str
    variables: list[Variable]


def entries(model: Any, container: str = "layers", orders: Orders | None = None) -> list[Entry]:
    """Return the groups of a model's layers; a shared layer comes once."""
    return list(_Walk(container, orders or {}).model(model, ""))


def write(root: Any, model: Any, orders: Orders) -> None:
    """Write the weights of a model into an HDF5 group."""
    root.create_group("vars")
    for path, name, variables in entries(model, orders=orders):
        group = root.create_group(f"{path}/vars")
        group.attrs["name"] = name
        for number, variable in enumerate(variables):
            group.create_dataset(str(number), data=variable.value)


def read(root: Any, model: Any, skip_mismatch: bool = False, orders: Orders | None = None) -> None:
    """Fill the weights of a built model from an HDF5 group, or none if one does not fit.

    Raises
    ------
    FileFormatError
        If an array is missing, has another shape or too large numbers; with `skip_mismatch` a warning, and the
        weights of that layer stay.
    """
    container = "layers" if h5.find(root, _OLD_CONTAINER) is None else _OLD_CONTAINER
    wanted = [entry for entry in entries(model, container, orders) if entry.variables]
    h5.fill_each([(entry.name, partial(_values, root, entry)) for entry in wanted], skip_mismatch)


def _values(root: Any, entry: Entry) -> list[tuple[Variable, h5.Array]]:
    group = h5.find(root, f"{entry.path}/vars")
    if group is None:
        raise FileFormatError(f"there are no weights {entry.path!r}, which layer {entry.name!r} has")
    if len(group) != len(entry.variables):
        raise FileFormatError(
            f"{entry.path!r}: expected {len(entry.variables)} arrays for layer {entry.name!r}, got {len(group)}"
        )
    return [
        h5.read_for(variable, h5.dataset(group, str(i)), f"{entry.path}/vars/{i}")
        for i, variable in enumerate(entry.variables)
    ]


class _Walk:
    """Visits the objects of a model, each once."""

    def __init__(self, container: str, orders: Orders) -> None:
        self.container, self.orders = container, orders
        self.seen: set[int] = set()

    def model(self, model: Any, path: str) -> Iterator[Entry]:
        """Yield the groups of a model at a path that is empty or ends in a slash."""
        counts: Counter[str] = Counter()
        for layer in layers_of(model, self.orders):
            name = snake_case(_KERAS_NAMES.get(type(layer).__name__, type(layer).__name__))
            number = counts[name]
            counts[name] += 1
            yield from self.layer(layer, f"{path}{self.container}/{name}{f'_{number}' if number else ''}")

    def layer(self, layer: Any, path: str) -> Iterator[Entry]:
        """Yield the groups of a layer."""
        if id(layer) in self.seen:
            return
        self.seen.add(id(layer))
        own = sorted(getattr(layer, "_variables", ()), key=lambda variable: not variable.trainable)
        if isinstance(layer, Recurrent):
            yield Entry(path, layer.name, [])
            yield Entry(f"{path}/cell", f"{layer.op}_cell", own)
            return
        yield Entry(path, layer.name, own)
        if hasattr(layer, "layers"):
            yield from self.model(layer, f"{path}/")
            return
        for attribute in sorted(layer.sublayers):
            yield from self.layer(layer.sublayers[attribute], f"{path}/{attribute}")
