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
        "Dropout", "Flatten", "SpatialDropout1D", "LayerNormalization", "BatchNormalization", "Add", "Subtract",
        "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot", "Attention", "GlobalAveragePooling1D",
        "GlobalMaxPooling1D", "RepeatVector", "Reshape", "Identity",
    ),
    "regularizers": ("L1", "L2", "L1L2"),
    "constraints": ("MaxNorm", "NonNeg", "UnitNorm", "MinMaxNorm"),
    "optimizers": ("SGD", "RMSprop", "Adam"),
    "losses": (
        "MeanSquaredError", "MeanAbsoluteError", "BinaryCrossentropy", "CategoricalCrossentropy",
        "SparseCategoricalCrossentropy",
    ),
    "callbacks": ("EarlyStopping",),
}  # fmt: skip
OTHERS: dict[str, list[Any]] = {
    "spatial_dropout": ["SpatialDropout1D", {"rate": 0.25, "seed": 3}],
    "layer_normalization": ["LayerNormalization", {"epsilon": 0.5, "gamma_regularizer": "l2"}],
    "batch_normalization": ["BatchNormalization", {"momentum": 0.5, "beta_constraint": "non_neg"}],
    "add": ["Add", {}],
    "concatenate": ["Concatenate", {"axis": 1}],
    "dot": ["Dot", {"axes": [1, 2], "normalize": True}],
    "attention": ["Attention", {"use_scale": True, "dropout": 0.5, "seed": 1}],
    "average_pooling": ["GlobalAveragePooling1D", {"keepdims": True}],
    "max_pooling": ["GlobalMaxPooling1D", {}],
    "repeat_vector": ["RepeatVector", {"n": 3}],
    "reshape": ["Reshape", {"target_shape": [2, 3]}],
    "identity": ["Identity", {}],
    "dense": ["Dense", {"units": 2, "kernel_regularizer": "l2", "bias_constraint": "max_norm"}],
    "lstm": ["LSTM", {"units": 2, "recurrent_regularizer": "l2", "kernel_constraint": "unit_norm"}],
    "embedding": ["Embedding", {"input_dim": 3, "output_dim": 2, "embeddings_regularizer": "l2", "trainable": False}],
}
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
    for stack, specs in (STACKS | {name: [spec] for name, spec in OTHERS.items()}).items():
        for index, layer in enumerate(make_layers(keras.layers, specs, "float32")):
            serialized[f"{stack}-{index}"] = keras.layers.serialize(layer)
    return {"signatures": signatures, "serialized": serialized}
