"""The public classes of Keras, for the table in docs/keras_support.md."""

from __future__ import annotations

import inspect
from typing import Any

import keras

MODULES = {
    "layers": keras.layers,
    "losses": keras.losses,
    "metrics": keras.metrics,
    "optimizers": keras.optimizers,
    "optimizers.schedules": keras.optimizers.schedules,
    "callbacks": keras.callbacks,
    "initializers": keras.initializers,
    "regularizers": keras.regularizers,
    "constraints": keras.constraints,
}


def record_names() -> dict[str, Any]:
    """Record the names of the classes of each module; other names of the same class are left out."""
    cases = {}
    for label, module in MODULES.items():
        found: dict[int, str] = {}
        for name, value in sorted(vars(module).items()):
            if inspect.isclass(value) and (id(value) not in found or name == value.__name__):
                found[id(value)] = name
        cases[label] = sorted(found.values())
    return cases
