"""What modules of torch.nn are as layers."""

from typing import Any

import torch

from fastmask import layers
from fastmask.layers import Layer

CELLS = {"LSTM": layers.LSTM, "GRU": layers.GRU, "RNN_TANH": layers.SimpleRNN, "RNN_RELU": layers.SimpleRNN}

# The names of activations as modules and as functions, and what must hold for those that take arguments.
_ACTIVATIONS = {
    "relu": "relu", "tanh": "tanh", "sigmoid": "sigmoid", "silu": "silu", "gelu": "gelu", "elu": "elu", "selu": "selu",
    "softplus": "softplus", "softsign": "softsign", "hardsigmoid": "hard_sigmoid", "softmax": "softmax",
}  # fmt: skip
_ARGUMENTS = {"alpha": 1.0, "beta": 1.0, "threshold": 20.0, "approximate": "none", "dtype": None}
_WIDTHS = ("input_size", "in_features", "num_features")


def is_leaf(module: Any) -> bool:
    """Return whether a module becomes layers by what it is, and not by what its forward does."""
    own = type(module).__module__.startswith(("torch.nn.", "fastmask.torch."))
    return own and not isinstance(module, (torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict))


def is_recurrent(module: Any) -> bool:
    """Return whether a module is an LSTM, GRU or RNN."""
    return isinstance(module, torch.nn.RNNBase) and is_leaf(module)


def width(module: Any) -> int | None:
    """Return the number of features that a module takes, None if any."""
    if isinstance(module, torch.nn.LayerNorm):
        return int(module.normalized_shape[-1])
    return next((int(getattr(module, name)) for name in _WIDTHS if hasattr(module, name)), None)


def activation_of(module: Any, axes: int) -> str | None:
    """Return the name of the activation that a module is, on a value of so many axes; None if it is none."""
    return activation(type(module).__name__, vars(module), axes) if is_leaf(module) else None


def is_activation(name: str) -> bool:
    """Return whether a module, function or method of this name is an activation."""
    return _base(name) in _ACTIVATIONS


def _base(name: str) -> str:
    return name.lower().rstrip("_")


def activation(name: str, arguments: dict[str, Any], axes: int) -> str | None:
    """Return the name of an activation called so with these arguments; None if there is none."""
    found = _ACTIVATIONS.get(_base(name))
    if any(arguments.get(key, value) != value for key, value in _ARGUMENTS.items()):
        return None
    if found == "softmax" and arguments.get("dim") not in (-1, axes - 1):
        return None
    return found


def make_layer(module: Any, name: str, fused: str | None, axes: int, **options: Any) -> Layer | None:
    """Return the layer of a module that is not recurrent, None if there is none.

    Parameters
    ----------
    module : torch.nn.Module
    name : str
        Of the layer.
    fused : str or None
        The activation of a Linear, if one follows it.
    axes : int
        Of its input.
    **options
        Arguments of every layer.
    """
    options["name"] = name
    biased, scaled = getattr(module, "bias", None) is not None, getattr(module, "weight", None) is not None
    if not is_leaf(module):
        return None
    match type(module).__name__:
        case "Linear":
            return layers.Dense(module.out_features, fused, use_bias=biased, **options)
        case "Embedding" if module.max_norm is None:
            return layers.Embedding(module.num_embeddings, module.embedding_dim, **options)
        case "LayerNorm" if len(module.normalized_shape) == 1:
            return layers.LayerNormalization(epsilon=module.eps, center=biased, scale=scaled, **options)
        case "BatchNorm1d" if axes == 2 and module.track_running_stats and module.momentum is not None:
            return layers.BatchNormalization(
                momentum=1 - module.momentum, epsilon=module.eps, center=biased, scale=scaled, **options
            )
        case "Dropout":
            return layers.Dropout(module.p, **options)
        case "Identity":
            return layers.Identity(**options)
    return None


def make_cell(module: Any, name: str, sequences: bool, states: bool, **options: Any) -> Layer:
    """Return one layer of a recurrent module, in one direction or both."""
    if module.mode.startswith("RNN"):
        options["activation"] = module.mode.removeprefix("RNN_").lower()
    shown = {"return_sequences": sequences, "return_state": states}
    layer = CELLS[module.mode](module.hidden_size, use_bias=module.bias, name=name, **shown, **options)
    return layers.Bidirectional(layer, name=name, dtype=layer.dtype) if module.bidirectional else layer
