"""Training with regularizers, constraints and normalization, and gradients through masked places, in float64."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from . import training
from .common import BATCH, STEPS, UNITS, generator, normal, set_random_weights
from .stacks import LAST, MASKING, SEQUENCE, VOCABULARY, dense


def part(module: str, name: str, **config: Any) -> dict[str, Any]:
    """Write a regularizer or a constraint as Keras does."""
    return {"module": f"keras.{module}", "class_name": name, "config": config, "registered_name": None}


def l2(factor: float) -> dict[str, Any]:
    """Describe an L2 regularizer."""
    return part("regularizers", "L2", l2=factor)


MAX_NORM = part("constraints", "MaxNorm", max_value=0.75, axis=0)
EMBEDDING = ["Embedding", {"input_dim": VOCABULARY, "output_dim": 3, "mask_zero": True}]
REGULARIZED = ["Embedding", EMBEDDING[1] | {"embeddings_regularizer": l2(0.125), "embeddings_constraint": MAX_NORM}]
LSTM = {
    "kernel_regularizer": part("regularizers", "L1", l1=0.0625),
    "recurrent_regularizer": part("regularizers", "L1L2", l1=0.03125, l2=0.25),
    "bias_regularizer": l2(0.5),
    "recurrent_constraint": part("constraints", "UnitNorm", axis=0),
    "bias_constraint": part("constraints", "NonNeg"),
}
NORM = part("constraints", "MinMaxNorm", min_value=0.5, max_value=0.75, rate=0.5, axis=1)
OUT = {"units": 3, "kernel_constraint": NORM}
NORMALIZED = ["BatchNormalization", {"momentum": 0.75, "gamma_regularizer": l2(0.25)}]
MODELS = {
    "regularized": ([REGULARIZED, ["LSTM", LAST | LSTM], ["Dense", OUT | {"activation": "softmax"}]], training.CLASSES),
    "frozen": (
        [["Embedding", REGULARIZED[1] | {"trainable": False}], ["LSTM", LAST | LSTM], dense(3, "softmax")],
        training.CLASSES,
    ),
    "normalized": (
        [MASKING, ["LSTM", SEQUENCE], NORMALIZED, ["LayerNormalization", {}], ["GRU", LAST], dense(2)],
        training.REAL,
    ),
    "frozen_statistics": (
        [MASKING, ["BatchNormalization", {"trainable": False}], ["GRU", LAST], dense(2)],
        training.REAL,
    ),
}


def trajectory(model: str) -> dict[str, Any]:
    """Record eight steps of gradient descent; variances start above zero."""
    specs, (loss, _) = training.MODELS[model] = MODELS[model]
    ids = specs[0][0] == "Embedding"
    own = EMBEDDING if ids else MASKING
    training.MODELS["batches"] = ([own], MODELS[model][1])
    network = keras.Sequential(training.make_layers(keras.layers, specs, "float64"))
    network.build((None, 5) if ids else (None, 5, 2))
    set_random_weights(network, model)
    for variable in network.weights:
        if "variance" in variable.name:
            variable.assign(np.abs(variable.numpy()) + 0.5)
    network.compile(training.summed_first(keras.optimizers.SGD(0.25)), loss, run_eagerly=True)
    weights = network.get_weights()
    steps = training.batches("batches", 6)
    losses = [float(network.train_on_batch(x, y)) for x, y in steps]
    return {
        "layers": specs,
        "loss": loss,
        "optimizer": ["SGD", {"learning_rate": 0.25}],
        "weights": weights,
        "batches": [list(step) for step in steps],
        "losses": losses,
        "trained_weights": network.get_weights(),
        "evaluated": float(network.test_on_batch(*steps[0])),
    }


CHAINS: dict[str, list[Any]] = {
    "embedding": [],
    "dense": [dense(3, "tanh")],
    "deep": [dense(4, "tanh"), ["LayerNormalization", {}], ["Dropout", {"rate": 0.5}], dense(3, "sigmoid")],
    "distributed": [["TimeDistributed", {}, dense(3, "tanh")]],
    "bidirectional": [["Bidirectional", {}, ["GRU", {"units": UNITS, "return_sequences": True}]], dense(3, "tanh")],
    "zeros": [["LSTM", SEQUENCE | {"zero_output_for_mask": True}], dense(3)],
    "normalized": [["BatchNormalization", {}], ["Activation", {"activation": "softmax"}]],
}
TAILS: dict[str, list[Any]] = {
    "dense": [dense(2, "tanh"), ["LayerNormalization", {}]],
    "recurrent": [["GRU", SEQUENCE]],
    "normalized": [["BatchNormalization", {}], ["TimeDistributed", {}, dense(2, "softmax")]],
}
MERGES = ("Add", "Multiply", "Maximum", "Average", "Concatenate")


def shown(merge: str, chain: list[Any], tail: list[Any], residual: bool = False) -> dict[str, Any]:
    """Record the gradients of a merge of two masked branches whose mask Flatten destroys after the tail.

    The branches are two inputs after one chain, or, `residual`, one input before and after it.
    """
    import tensorflow as tf

    specs = [EMBEDDING, *chain]
    inputs = [keras.Input((STEPS,), dtype="int32") for _ in range(2)]
    layers = training.make_layers(keras.layers, specs, "float64")
    branches = [layers[0](branch) for branch in inputs]
    for layer in layers[1:]:
        branches = [branches[0], layer(branches[0])] if residual else [layer(branch) for branch in branches]
    merged = getattr(keras.layers, merge)(dtype="float64")(branches)
    for layer in training.make_layers(keras.layers, tail, "float64"):
        merged = layer(merged)
    inputs = inputs[:1] if residual else inputs
    model = keras.Model(inputs, keras.layers.Flatten(dtype="float64")(merged))
    set_random_weights(model, merge)
    for variable in model.weights:
        if "variance" in variable.name:
            variable.assign(np.abs(variable.numpy()) + 0.5)
    ids = [generator("shown", i).integers(0, 3, (BATCH, STEPS)) for i in range(len(inputs))]
    weights = model.get_weights()
    with tf.GradientTape() as tape:
        y = model([tf.constant(x) for x in ids])
        cotangent = normal(*y.shape)
        total = tf.reduce_sum(y * cotangent)
    gradients = tape.gradient(total, [w.value for w in model.trainable_weights])
    return {
        "layers": specs,
        "merge": merge,
        "tail": tail,
        "residual": residual,
        "weights": weights,
        "inputs": ids,
        "outputs": y.numpy(),
        "cotangent": cotangent,
        "gradients": [tf.convert_to_tensor(g).numpy() for g in gradients],
    }


def record_constrained() -> dict[str, Any]:
    """Record the trajectories, and every merge over every chain."""
    keras.config.set_floatx("float64")
    cases: dict[str, Any] = {f"train-{name}": trajectory(name) for name in MODELS}
    for merge in MERGES:
        cases |= {f"shown-{merge}-{name}": shown(merge, chain, []) for name, chain in CHAINS.items()}
        residual = [["LSTM", {"units": 3, "return_sequences": True}]]
        cases[f"shown-{merge}-residual"] = shown(merge, residual, TAILS["dense"], residual=True)
    for name, tail in TAILS.items():
        cases[f"shown-tail-{name}"] = shown("Maximum", CHAINS["bidirectional"], tail)
        cases[f"shown-tail-{name}-repeated"] = shown("Add", [["GRU", SEQUENCE]], tail)
    return cases
