"""Legacy HDF5 files: weights in a group per layer, in the order of the model's layers."""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmask.core.errors import FileFormatError
from fastmask.layers import GRU, LSTM, Bidirectional, Layer, TimeDistributed
from fastmask.layers.base.layer import describe
from fastmask.layers.rnn.base import Recurrent
from fastmask.saving import h5
from fastmask.saving.order import Orders, layers_of, stored

Array = NDArray[Any]

# Keras 1 stored kernel, recurrent kernel and bias of one gate after the other. Where those of each gate begin, in the
# order of the gates today, for the 12 arrays of an LSTM and the 9 of a GRU.
_KERAS1_GATES = {12: (0, 6, 3, 9), 9: (0, 3, 6)}


def is_legacy(root: Any) -> bool:
    """Return whether an open file has the legacy layout."""
    return h5.find(root, "model_weights") is not None or bool(h5.strings(root, "layer_names"))


def version_of(root: Any) -> str:
    """Return the version of the Keras that wrote a file; files without one are of Keras 1."""
    weights = h5.find(root, "model_weights")
    found = h5.text(root, "keras_version") or (None if weights is None else h5.text(weights, "keras_version"))
    return found or "1.0"


def read(root: Any, model: Any, skip_mismatch: bool = False, orders: Orders | None = None) -> None:
    """Fill the weights of a built model, or none if one does not fit.

    Raises
    ------
    FileFormatError
        If a layer has another number of arrays, or an array another shape or too large numbers; with
        `skip_mismatch` a warning, and the weights of that layer stay.
    """
    group = root if h5.find(root, "model_weights") is None else h5.subgroup(root, "model_weights")
    given = [(name, _datasets(h5.subgroup(group, name))) for name in h5.strings(group, "layer_names")]
    given = [(name, arrays) for name, arrays in given if arrays]
    orders = orders or {}
    wanted = _by_name(model, [name for name, _ in given], orders)
    if len(given) != len(wanted):
        raise FileFormatError(
            f"the file: expected weights of {len(wanted)} layers ({', '.join(x.name for x in wanted)}), "
            f"got {len(given)} ({', '.join(name for name, _ in given)})"
        )
    pairs = zip(wanted, given, strict=True)
    h5.fill_each([(layer.name, partial(_values, layer, *own, orders)) for layer, own in pairs], skip_mismatch)


def optimizer_arrays(root: Any) -> tuple[list[Any], bool]:
    """Return the datasets of the optimizer's state, and whether they are in the order before Keras 2.11."""
    group = h5.find(root, "optimizer_weights")
    if group is None:
        return [], False
    names = h5.strings(group, "weight_names")
    first = names[0].split("/")[-1] if names else ""
    return _datasets(group), first.split(":")[0] != "iteration"


def _by_name(model: Any, names: list[str], orders: Orders) -> list[Layer]:
    """Return the layers that have weights in the order of the names if they fit, else of the model."""
    found = {layer.name: layer for layer in layers_of(model, orders) if layer.weights}
    return [found[name] for name in names] if found.keys() == {*names} else list(found.values())


def _datasets(group: Any) -> list[Any]:
    return [h5.dataset(group, path) for path in h5.strings(group, "weight_names")]


def _values(layer: Any, name: str, given: Sequence[Any], orders: Orders) -> list[tuple[Any, Array]]:
    variables = stored(layer, orders)
    # The biases of CuDNN's layers are twice as long.
    most = 2 * sum(prod(variable.shape) for variable in variables)
    if sum(prod(item.shape) for item in given) > most:
        raise FileFormatError(f"the arrays of {name!r} are larger than {describe(layer)}")
    arrays = [h5.read(item, item.shape, f"{name}/{item.name}") for item in given]
    arrays = _converted(layer, arrays)
    if len(arrays) != len(variables):
        raise FileFormatError(f"{name!r}: expected {len(variables)} arrays for {describe(layer)}, got {len(arrays)}")
    pairs = list(zip(variables, arrays, strict=True))
    for variable, array in pairs:
        if array.shape != variable.shape:
            raise FileFormatError(f"{name!r}: expected shape {variable.shape} for {variable.path}, got {array.shape}")
    return [(variable, h5.fitting(variable, array, f"an array of {name!r}")) for variable, array in pairs]


def _converted(layer: Layer, arrays: list[Array]) -> list[Array]:
    """Return the arrays of a layer as fastmask has them."""
    if isinstance(layer, Bidirectional):
        half = len(arrays) // 2
        ahead, back = layer.forward_layer, layer.backward_layer
        return _converted(ahead, arrays[:half]) + _converted(back, arrays[half:])
    if isinstance(layer, TimeDistributed):
        return _converted(layer.layer, arrays)
    if not isinstance(layer, Recurrent):
        return arrays
    if len(arrays) == layer.gates * 3 and len(arrays) in _KERAS1_GATES:
        first = _KERAS1_GATES[len(arrays)]
        return [np.concatenate([arrays[gate + part] for gate in first], axis=-1) for part in range(3)]
    width = layer.gates * layer.units
    if isinstance(layer, (LSTM, GRU)) and len(arrays) == 3 and arrays[2].shape == (2 * width,):
        return _from_cudnn(layer, arrays)
    return arrays


def _from_cudnn(layer: LSTM | GRU, arrays: list[Array]) -> list[Array]:
    kernel, recurrent_kernel, bias = arrays
    kernels = np.split(kernel, layer.gates, axis=1)
    recurrent = np.split(recurrent_kernel, layer.gates, axis=1)
    halves = bias.reshape(2, -1)
    return [
        np.hstack([gate.T.reshape(gate.shape, order="F") for gate in kernels]),
        np.hstack([gate.T for gate in recurrent]),
        halves if isinstance(layer, GRU) else halves.sum(axis=0),
    ]
