"""Keras's recurrent layers with another loop over time: names, weights, configs and files are Keras's."""

from typing import Any

import keras
from keras.src.api_export import keras_export

from fastmask.keras.loop import inner_loop


class _OnKernels:
    """What the layers have in common; stands before a layer class of Keras."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.supports_masking = True
        if keras.config.backend() == "tensorflow":
            # Keeps jit_compile="auto" from choosing XLA, which cannot call the kernels.
            self.supports_jit = False

    def inner_loop(self, sequences: Any, initial_state: Any, mask: Any, training: Any = False) -> Any:
        """Run over all steps; see `keras.layers.RNN`."""
        keras_loop = super().inner_loop  # type: ignore[misc]
        return inner_loop(self, keras_loop, sequences, initial_state, mask, training)

    def compute_mask(self: Any, _: Any, mask: Any) -> Any:
        """Return the mask of the output as Keras has it up to 3.15: that of the input if there is one for each step."""
        only = mask[0] if isinstance(mask, (list, tuple)) else mask
        shown = only if self.return_sequences else None
        return [shown, *[None] * len(self.state_size)] if self.return_state else shown


# A config names a class by its public place in Keras. These have the place that Keras's own are imported from: it finds
# them there once this module is imported, and its own without, so that files open without fastmask.


@keras_export("keras.src.layers.LSTM")
class LSTM(_OnKernels, keras.layers.LSTM):
    """``keras.layers.LSTM`` on the kernels of fastmask.

    Arguments, weights, config and results are Keras's. What the kernels cannot do runs on Keras's own path,
    after one line in the log ``fastmask``. The output carries the mask of the input in every version of Keras.
    A file or JSON with such a layer opens without fastmask, as Keras's layer; where `fastmask.keras` is imported, as
    this one.
    """


@keras_export("keras.src.layers.GRU")
class GRU(_OnKernels, keras.layers.GRU):
    """``keras.layers.GRU`` on the kernels of fastmask; see `LSTM`."""


@keras_export("keras.src.layers.SimpleRNN")
class SimpleRNN(_OnKernels, keras.layers.SimpleRNN):
    """``keras.layers.SimpleRNN`` on the kernels of fastmask; see `LSTM`."""
