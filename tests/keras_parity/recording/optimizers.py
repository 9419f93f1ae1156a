"""Optimizers on plain variables, step by step, and learning rate schedules, in float64."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from specs import make_named

from .common import generator

STEPS = 6
SHAPES = {"kernel": (3, 2), "bias": (2,)}
# TensorFlow rounds some of the arguments to float32; eighths and the like have no rounding.
BETAS = {"learning_rate": 0.125, "beta_1": 0.875, "beta_2": 1 - 2**-8}
MOMENTUM = {"learning_rate": 0.25, "momentum": 0.875}
DECAY = {"weight_decay": 0.125}
EXPONENTIAL = ["ExponentialDecay", {"initial_learning_rate": 0.5, "decay_steps": 2, "decay_rate": 0.25}]
PIECES = ["PiecewiseConstantDecay", {"boundaries": [1, 3], "values": [0.5, 0.25, 0.125]}]

OPTIMIZERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("SGD", {"learning_rate": 0.5}),
    ("SGD", MOMENTUM | DECAY),
    ("SGD", MOMENTUM | {"nesterov": True, "global_clipnorm": 0.5}),
    ("SGD", {"learning_rate": EXPONENTIAL} | DECAY),
    ("RMSprop", {"learning_rate": 0.125, "rho": 0.875}),
    ("RMSprop", {"learning_rate": 0.125, "rho": 0.75, "momentum": 0.5, "centered": True, "epsilon": 2**-8}),
    ("RMSprop", {"learning_rate": PIECES, "rho": 0.875, "clipvalue": 0.5} | DECAY),
    ("Adam", BETAS),
    ("Adam", BETAS | {"amsgrad": True, "beta_2": 0.5, "clipnorm": 0.5}),
    ("Adam", BETAS | {"learning_rate": EXPONENTIAL}),
    ("AdamW", BETAS | {"weight_decay": 0.25}),
    ("AdamW", BETAS | {"weight_decay": 0.25, "excluded": "bias"}),
    ("AdamW", BETAS | {"learning_rate": PIECES, "weight_decay": 0.25, "amsgrad": True, "global_clipnorm": 0.5}),
    ("Adagrad", {"learning_rate": 0.125}),
    ("Adagrad", {"learning_rate": 0.5, "initial_accumulator_value": 0.5, "epsilon": 2**-8, "clipvalue": 0.25} | DECAY),
    ("Adadelta", {"learning_rate": 0.5, "rho": 0.875}),
    ("Adadelta", {"learning_rate": 1.0, "rho": 0.5, "epsilon": 2**-8, "clipnorm": 0.5}),
    ("Adamax", BETAS),
    ("Adamax", BETAS | {"epsilon": 2**-8} | DECAY),
    ("Nadam", BETAS),
    ("Nadam", BETAS | {"learning_rate": EXPONENTIAL, "global_clipnorm": 0.5}),
    ("Lion", {"learning_rate": 0.125, "beta_1": 0.875, "beta_2": 0.75}),
)  # fmt: skip

START = {"initial_learning_rate": 0.5, "decay_steps": 4}
SCHEDULES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ExponentialDecay", START | {"decay_rate": 0.7}),
    ("ExponentialDecay", START | {"decay_rate": 0.7, "staircase": True}),
    ("InverseTimeDecay", START | {"decay_rate": 0.7}),
    ("InverseTimeDecay", START | {"decay_rate": 0.7, "staircase": True}),
    ("PolynomialDecay", START),
    ("PolynomialDecay", START | {"end_learning_rate": 0.1, "power": 2.0, "cycle": True}),
    ("PiecewiseConstantDecay", {"boundaries": [2, 5], "values": [1.0, 0.5, 0.1]}),
    ("CosineDecay", START | {"alpha": 0.1}),
    ("CosineDecay", START | {"warmup_target": 1.5, "warmup_steps": 3}),
    ("CosineDecayRestarts", {"initial_learning_rate": 0.5, "first_decay_steps": 3}),
    ("CosineDecayRestarts", {"initial_learning_rate": 0.5, "first_decay_steps": 3, "t_mul": 1.0, "m_mul": 0.5}),
)  # fmt: skip


def make(name: str, config: dict[str, Any]) -> Any:
    """Build an optimizer; a learning rate may describe a schedule."""
    config = {key: value for key, value in config.items() if key != "excluded"}
    rate = config["learning_rate"]
    return getattr(keras.optimizers, name)(**config | {"learning_rate": make_named(keras.optimizers.schedules, rate)})


def case(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Record the variables after every step, and the optimizer's own at the end."""
    keras.utils.clear_session()
    random = generator("optimizers", name)
    start = [random.standard_normal(shape) for shape in SHAPES.values()]
    grads = [[random.standard_normal(shape) for shape in SHAPES.values()] for _ in range(STEPS)]
    variables = [keras.Variable(value, name=key, dtype="float64") for key, value in zip(SHAPES, start, strict=True)]
    optimizer = make(name, config)
    if "excluded" in config:
        optimizer.exclude_from_weight_decay(var_names=[config["excluded"]])
    values = []
    for step in grads:
        optimizer.apply([keras.ops.convert_to_tensor(grad) for grad in step], variables)
        values.append([variable.numpy() for variable in variables])
    return {
        "optimizer": [name, config],
        "start": start,
        "gradients": grads,
        "values": values,
        "state": [np.asarray(variable.numpy(), float) for variable in optimizer.variables],
        "names": [variable.name for variable in optimizer.variables],
        "config": {key: value for key, value in optimizer.get_config().items() if key not in ("name", "learning_rate")},
    }


def schedule(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Record the learning rates of the first steps."""
    made = getattr(keras.optimizers.schedules, name)(**config)
    rates = [float(keras.ops.convert_to_numpy(made(keras.ops.convert_to_tensor(step)))) for step in range(14)]
    written = keras.optimizers.schedules.serialize(made)
    return {"schedule": [name, config], "rates": rates, "serialized": written}


def record_optimizers() -> dict[str, Any]:
    """Record every optimizer and every schedule."""
    keras.config.set_floatx("float64")
    cases = {f"optimizer-{index}-{name}": case(name, config) for index, (name, config) in enumerate(OPTIMIZERS)}
    return cases | {f"schedule-{index}-{name}": schedule(name, config)
                    for index, (name, config) in enumerate(SCHEDULES)}  # fmt: skip
