"""Keras's recurrent layers with another loop over time: names, weights, configs and files are Keras's."""

from typing import Any

import keras

from fastmask.keras.loop import inner_loop


class _Name(str):
    """A class name that finds a class of this module as long as it has not been through a file.

    Bidirectional and `clone_model` copy layers by their configs, in which a class has its name. In a file the name is
    plain text, which means Keras's own class: so files open without fastmask, and no other class of that name is
    taken for one of these.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Name) and str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((_Name, str(self)))


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


class LSTM(_OnKernels, keras.layers.LSTM):
    """``keras.layers.LSTM`` on the kernels of fastmask.

    Arguments, weights, config and results are Keras's. What the kernels cannot do runs on Keras's own path,
    after one line in the log ``fastmask``. The output carries the mask of the input in every version of Keras.
    A file with such a layer opens without fastmask, as Keras's layer; with ``custom_objects={"LSTM": LSTM}`` it
    opens as this one.
    """

    # Keras writes this into files, and finds its own class by it where fastmask.keras is not imported.
    __module__ = "keras.layers"


class GRU(_OnKernels, keras.layers.GRU):
    """``keras.layers.GRU`` on the kernels of fastmask; see `LSTM`."""

    __module__ = "keras.layers"


class SimpleRNN(_OnKernels, keras.layers.SimpleRNN):
    """``keras.layers.SimpleRNN`` on the kernels of fastmask; see `LSTM`."""

    __module__ = "keras.layers"


for _cls in (LSTM, GRU, SimpleRNN):
    _cls.__name__ = _Name(_cls.__name__)
    keras.saving.get_custom_objects()[_cls.__name__] = _cls
