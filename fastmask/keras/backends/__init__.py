"""The backends of Keras: each runs a `Recurrence` on its tensors, so that gradients flow.

Every module has

- ``run(recurrence, tensors, mask, training)``: the results of `fastmask.keras.recurrence.run` as tensors;
- ``refusal(sequences)``: why tensors like this one cannot be run, None if they can.
"""

from importlib import import_module
from types import ModuleType

import keras


def current() -> ModuleType:
    """Return the module of the backend that Keras runs on, one of `fastmask.keras.support.BACKENDS`."""
    return import_module(f"fastmask.keras.backends.{keras.config.backend()}")
