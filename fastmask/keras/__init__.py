"""The kernels of fastmask under Keras 3: one line makes the recurrent layers of an existing model run on them.

>>> import fastmask.keras
>>> print(fastmask.keras.accelerate(model))
fastmask: 1 of 1 recurrent layers run on its kernels
  lstm (LSTM): accelerated

`LSTM`, `GRU` and `SimpleRNN` are Keras's layers on these kernels, to be used by hand. docs/keras_bridge.md tells what
runs on Keras's own path, and which versions are tested.
"""

try:
    import keras
except ImportError as error:
    raise ImportError(
        "fastmask.keras needs Keras 3 and a backend: install them with `pip install keras tensorflow-cpu`, or with "
        "torch or jax in place of tensorflow-cpu"
    ) from error
if not keras.__version__.startswith("3."):
    raise ImportError(f"fastmask.keras needs Keras 3, got {keras.__version__}: `pip install -U keras`")

from fastmask.keras.acceleration import Entry, Report, accelerate, restore
from fastmask.keras.layers import GRU, LSTM, SimpleRNN
from fastmask.keras.scope import accelerated

__all__ = ["GRU", "LSTM", "Entry", "Report", "SimpleRNN", "accelerate", "accelerated", "restore"]
