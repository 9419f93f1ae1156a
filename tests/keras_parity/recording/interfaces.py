"""Parameters and defaults of constructors and methods, and serialised layers."""

from __future__ import annotations

from inspect import Parameter, signature
from typing import Any

import keras
from specs import make_layers

from .stacks import STACKS

CLASSES = {
    "layers": (
        "SimpleRNN", "LSTM", "GRU", "Bidirectional", "TimeDistributed", "Embedding", "Masking", "Dense", "Activation",
        "Dropout", "Flatten",
    ),
    "optimizers": ("SGD", "RMSprop", "Adam"),
    "losses": (
        "MeanSquaredError", "MeanAbsoluteError", "BinaryCrossentropy", "CategoricalCrossentropy",
        "SparseCategoricalCrossentropy",
    ),
    "callbacks": ("EarlyStopping",),
}  # fmt: skip
METHODS = ("compile", "fit", "evaluate", "predict", "train_on_batch", "test_on_batch", "predict_on_batch", "summary")
FUNCTIONS = ("pad_sequences", "to_categorical")


def parameters(function: Any) -> list[list[Any]]:
    """List [name, has a default, default]."""
    return [
        [p.name, p.default is not Parameter.empty, None if p.default is Parameter.empty else p.default]
        for p in signature(function).parameters.values()
        if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY) and p.name != "self"
    ]


def record_interfaces() -> dict[str, Any]:
    """Record the signatures, then every layer of every stack as ``serialize`` gives it, with its weights' shapes."""
    signatures = {
        f"{module}.{name}": parameters(getattr(getattr(keras, module), name).__init__)
        for module, names in CLASSES.items() for name in names
    }  # fmt: skip
    signatures |= {f"Sequential.{name}": parameters(getattr(keras.Sequential, name)) for name in METHODS}
    signatures |= {f"utils.{name}": parameters(getattr(keras.utils, name)) for name in FUNCTIONS}
    serialized = {}
    for stack, specs in STACKS.items():
        for index, layer in enumerate(make_layers(keras.layers, specs, "float32")):
            serialized[f"{stack}-{index}"] = keras.layers.serialize(layer)
    return {"signatures": signatures, "serialized": serialized}
