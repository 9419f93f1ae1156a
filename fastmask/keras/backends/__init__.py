"""The backends of Keras: each runs a `Recurrence` on its tensors, so that gradients flow.

Every module has

- ``run(recurrence, tensors, mask, training)``: the results of `fastmask.keras.recurrence.run` as tensors;
- ``refusal(sequences)``: why tensors like this one cannot be run, None if they can;
- ``is_placeholder(sequences)``: whether a tensor has a shape and no values.
"""

from importlib import import_module
from types import ModuleType

import keras

from fastmask.keras.support import BACKENDS


def current() -> ModuleType | None:
    """Return the module of the backend that Keras runs on, None if there is none for it."""
    name = keras.config.backend()
    return import_module(f"fastmask.keras.backends.{name}") if name in BACKENDS else None
