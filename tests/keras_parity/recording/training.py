"""Training from given weights without shuffling: step by step under each optimizer, and fit() with its History."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import keras
import numpy as np
from specs import make_layers, make_named

from .common import MASKS, generator, set_random_weights
from .stacks import EMBEDDING, LAST, MASKING, SEQUENCE, VOCABULARY, dense, series

STEPS = 8
# Keras on TensorFlow rounds momentum, betas and weight decay to float32; eighths and the like have no rounding.
MOMENTUM = {"learning_rate": 0.2, "momentum": 0.875}
ADAM = {"learning_rate": 0.05, "beta_1": 0.875, "beta_2": 1 - 2**-8}
OPTIMIZERS: dict[str, list[Any]] = {
    "sgd": ["SGD", {"learning_rate": 0.5}],
    "momentum": ["SGD", MOMENTUM],
    "nesterov": ["SGD", MOMENTUM | {"nesterov": True}],
    "rmsprop": ["RMSprop", {"learning_rate": 0.02}],
    "rmsprop_momentum": ["RMSprop", {"learning_rate": 0.02, "momentum": 0.5, "rho": 0.8}],
    "rmsprop_centered": ["RMSprop", {"learning_rate": 0.02, "centered": True, "epsilon": 1e-3}],
    "adam": ["Adam", ADAM],
    "adam_epsilon": ["Adam", ADAM | {"epsilon": 1e-2}],
    "amsgrad": ["Adam", ADAM | {"amsgrad": True, "beta_2": 0.75}],
    "clipnorm": ["SGD", {"learning_rate": 0.5, "clipnorm": 0.05}],
    "global_clipnorm": ["Adam", ADAM | {"global_clipnorm": 0.05}],
    "clipvalue": ["SGD", {"learning_rate": 0.5, "clipvalue": 0.02}],
    "weight_decay": ["Adam", ADAM | {"weight_decay": 0.125}],
}
DEFAULTS: dict[str, list[Any]] = {
    "sgd": ["SGD", {"learning_rate": 0.5}],
    "nesterov": ["SGD", {"learning_rate": 0.2, "momentum": 0.9, "nesterov": True}],
    "rmsprop": ["RMSprop", {"learning_rate": 0.02}],
    "rmsprop_centered": ["RMSprop", {"learning_rate": 0.02, "centered": True, "epsilon": 1e-3}],
    "adam": ["Adam", {}],
    "amsgrad": ["Adam", {"learning_rate": 0.05, "amsgrad": True}],
}
REAL = ["mse", "real"]
CLASSES = ["sparse_categorical_crossentropy", "classes"]
BACKWARDS = SEQUENCE | {"go_backwards": True}
MODELS: dict[str, tuple[list[Any], list[str]]] = {
    "series": ([MASKING, ["LSTM", LAST], dense(2, "tanh")], REAL),
    "words": ([EMBEDDING, ["LSTM", LAST], dense(3, "softmax")], CLASSES),
    "backwards": ([EMBEDDING, ["GRU", BACKWARDS], ["LSTM", LAST], dense(3, "softmax")], CLASSES),
    "tagger": ([EMBEDDING, ["Bidirectional", {}, ["GRU", SEQUENCE]], dense(3, "softmax")], CLASSES),
}


def batches(model: str, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return batches of (x, y) with differing masks; some ids are in one batch only."""
    specs, (_, kind) = MODELS[model]
    random = generator("batches", model)
    result = []
    for index in range(count):
        mask = MASKS[("holes", "leading", "empty")[index % 3]]
        low = 1 + 2 * (index % 3)
        ids = np.where(mask, random.integers(low, low + 3, mask.shape).clip(max=VOCABULARY - 1), 0).astype(np.int32)
        x = ids if specs[0] == EMBEDDING else random.uniform(0.5, 1.5) * series(mask)
        shape = mask.shape if model == "tagger" else mask.shape[:1]
        y = random.standard_normal((*shape, 2)) if kind == "real" else random.integers(0, 3, shape)
        result.append((x, y))
    return result


def compiled(model: str, dtype: str, optimizer: Any, **arguments: Any) -> Any:
    """Build and compile a model with recorded weights."""
    specs, (loss, _) = MODELS[model]
    network = keras.Sequential(make_layers(keras.layers, specs, dtype))
    network.build((None, 5) if specs[0] == EMBEDDING else (None, 5, 2))
    set_random_weights(network, model)
    network.compile(summed_first(make_named(keras.optimizers, optimizer)), loss, run_eagerly=True, **arguments)
    return network


def summed_first(optimizer: Any) -> Any:
    """Let TensorFlow's optimizers see one gradient row for each id, as PyTorch's do."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        apply = optimizer.apply
        optimizer.apply = lambda gradients, variables=None: apply(
            [tf.convert_to_tensor(gradient) for gradient in gradients], variables
        )
    return optimizer


def trajectory(model: str, dtype: str, optimizer: list[Any]) -> dict[str, Any]:
    """Record the loss of each step and the weights after the last."""
    network = compiled(model, dtype, optimizer)
    weights = network.get_weights()
    steps = [(x if x.dtype.kind == "i" else x.astype(dtype), y) for x, y in batches(model, STEPS)]
    losses = [float(network.train_on_batch(x, y)) for x, y in steps]
    return {
        "layers": MODELS[model][0],
        "loss": MODELS[model][1][0],
        "optimizer": optimizer,
        "weights": weights,
        "batches": [list(step) for step in steps],
        "losses": losses,
        "trained_weights": network.get_weights(),
    }


STOPPING = [
    "EarlyStopping", {"monitor": "loss", "min_delta": 0.03, "patience": 1, "verbose": 1, "restore_best_weights": True}
]  # fmt: skip
FITS: dict[str, tuple[str, dict[str, Any]]] = {
    "batches": ("series", {"batch_size": 4}),
    "one_batch": ("words", {"batch_size": 32}),
    "validation_data": ("words", {"batch_size": 5, "validation_data": True}),
    "validation_split": ("tagger", {"batch_size": 4, "validation_split": 0.3}),
    "class_weight": ("words", {"batch_size": 4, "class_weight": {0: 0.5, 1: 2.0, 2: 1.0}}),
    "sample_weight": ("tagger", {"batch_size": 4, "sample_weight": True}),
    "early_stopping": ("words", {"batch_size": 4, "epochs": 12, "callbacks": [STOPPING]}),
}


def fit(model: str, options: dict[str, Any]) -> dict[str, Any]:
    """Record fit()'s History, over three epochs unless told otherwise, and the weights after it."""
    optimizer = OPTIMIZERS["adam"]
    metrics = ["mae"] if model == "series" else ["accuracy"]
    network = compiled(model, "float64", optimizer, metrics=metrics)
    weights = network.get_weights()
    x, y = (np.concatenate(parts) for parts in zip(*batches(model, 3), strict=True))
    arguments = {"epochs": 3, **options}
    if options.get("validation_data"):
        arguments["validation_data"] = (x[::2], y[::2])
    if options.get("sample_weight"):
        arguments["sample_weight"] = generator("fit weights").uniform(0.0, 2.0, y.shape)
    callbacks = [make_named(keras.callbacks, spec) for spec in options.get("callbacks", [])]
    with redirect_stdout(StringIO()) as printed:
        history = network.fit(x, y, shuffle=False, verbose=0, **arguments | {"callbacks": callbacks})
    class_weight = arguments.pop("class_weight", None)
    return {
        "layers": MODELS[model][0],
        "loss": MODELS[model][1][0],
        "optimizer": optimizer,
        "metrics": metrics,
        "weights": weights,
        "inputs": x,
        "targets": y,
        "arguments": arguments,
        "class_weight": None if class_weight is None else list(class_weight.items()),
        "history": history.history,
        "epoch": history.epoch,
        "printed": printed.getvalue(),
        "trained_weights": network.get_weights(),
    }


def record_training() -> dict[str, Any]:
    """Record every optimizer on two models in float64, two more models, and fit()."""
    keras.config.set_floatx("float64")
    cases = {f"{model}-{name}": trajectory(model, "float64", optimizer)
             for model in ("series", "words") for name, optimizer in OPTIMIZERS.items()}  # fmt: skip
    cases |= {f"{model}-{name}": trajectory(model, "float64", OPTIMIZERS[name])
              for model in ("tagger", "backwards") for name in ("momentum", "adam")}  # fmt: skip
    return cases | {f"fit-{name}": fit(model, options) for name, (model, options) in FITS.items()}


def record_training_float32() -> dict[str, Any]:
    """Record the embedding models in float32."""
    return {f"{model}-{name}": trajectory(model, "float32", optimizer)
            for model in ("words", "tagger") for name, optimizer in DEFAULTS.items()}  # fmt: skip
