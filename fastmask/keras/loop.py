"""The loop over time of a recurrent layer, on the kernels where they can and on Keras's own path where not."""

from collections.abc import Callable
from typing import Any

import keras

from fastmask.keras import backends, support

KerasLoop = Callable[..., Any]


def inner_loop(
    layer: Any, keras_loop: KerasLoop, sequences: Any, initial_state: Any, mask: Any, training: Any = False
) -> Any:
    """Do what ``layer.inner_loop`` does.

    Parameters
    ----------
    layer : keras.layers.RNN
    keras_loop : callable
        Keras's own bound `inner_loop` of this layer.
    sequences : tensor (B, T, F)
    initial_state : tensor (B, H) or list of them
    mask : tensor (B, T) or (B, T, 1), list with one of them, or None
    training : bool

    Returns
    -------
    (last output (B, H), outputs (B, T, H) or (B, 1, H), list of states (B, H))
    """
    only = mask[0] if isinstance(mask, (list, tuple)) else mask
    if _is_placeholder(sequences):
        return keras_loop(sequences, initial_state, mask=mask, training=training)
    states = list(initial_state) if isinstance(initial_state, (list, tuple)) else [initial_state]
    reason = support.call_refusal(layer, sequences, states, only, training) or backends.current().refusal(sequences)
    if reason is not None:
        support.log_refusal(layer, reason)
        return keras_loop(sequences, initial_state, mask=mask, training=training)
    weights = [layer.cell.kernel, layer.cell.recurrent_kernel, layer.cell.bias]
    tensors = [_with_dropout(layer, sequences) if training else sequences]
    tensors += [keras.ops.convert_to_tensor(weight) for weight in weights if weight is not None]
    tensors += [keras.ops.copy(state) if layer.stateful else state for state in states]
    shown, *finals = backends.current().run(support.recurrence_of(layer), tensors, only, bool(training))
    if layer.return_sequences:
        return shown[:, -1], shown, finals
    return shown, keras.ops.expand_dims(shown, 1), finals


def _is_placeholder(sequences: Any) -> bool:
    """Return whether a tensor has a shape and no values, as those of PyTorch's device "meta"."""
    return getattr(getattr(sequences, "device", None), "type", None) == "meta"


def _with_dropout(layer: Any, sequences: Any) -> Any:
    """Return the inputs of a training step: Keras draws one mask for all steps."""
    if not layer.cell.dropout:
        return sequences
    mask = layer.cell.get_dropout_mask(sequences[:, 0, :])
    return sequences * keras.ops.expand_dims(mask, 1)
