"""What Keras 1 called the arguments of its layers."""

from typing import Any

_RECURRENT = {
    "output_dim": "units",
    "inner_activation": "recurrent_activation",
    "init": "kernel_initializer",
    "inner_init": "recurrent_initializer",
    "dropout_W": "dropout",
    "dropout_U": "recurrent_dropout",
    "W_regularizer": "kernel_regularizer",
    "U_regularizer": "recurrent_regularizer",
    "b_regularizer": "bias_regularizer",
}
_DENSE = {
    "output_dim": "units",
    "init": "kernel_initializer",
    "bias": "use_bias",
    "W_regularizer": "kernel_regularizer",
    "b_regularizer": "bias_regularizer",
    "W_constraint": "kernel_constraint",
    "b_constraint": "bias_constraint",
}
_EMBEDDING = {
    "init": "embeddings_initializer",
    "W_regularizer": "embeddings_regularizer",
    "W_constraint": "embeddings_constraint",
}
_RENAMED: dict[str, dict[str, str]] = {
    "SimpleRNN": _RECURRENT,
    "LSTM": _RECURRENT,
    "GRU": _RECURRENT,
    "Dense": _DENSE,
    "Embedding": _EMBEDDING,
    "Dropout": {"p": "rate"},
}


def layer(name: str, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the class name and config of a layer in the terms of Keras 2.

    An embedding's own dropout and weights shared between layers have no counterpart: the first must
    be zero, and `Merge` is a layer class that fastmask does not know.
    """
    name = "Dense" if name == "TimeDistributedDense" else name
    renamed = _RENAMED.get(name, {})
    found = {renamed.get(key, key): value for key, value in config.items()}
    for key, value in list(found.items()):
        if key.endswith("_regularizer") and isinstance(value, dict):
            found[key] = {"class_name": "L1L2", "config": {name: value.get(name, 0.0) for name in ("l1", "l2")}}
    if renamed is _RECURRENT:
        for key in ("consume_less", "input_length"):
            found.pop(key, None)
        if name == "LSTM":
            found["unit_forget_bias"] = found.pop("forget_bias_init", "one") in ("one", "ones")
        if "input_dim" in found and "batch_input_shape" in found:
            del found["input_dim"]
    if name == "Dense":
        found.pop("input_dim", None)
    if name == "Embedding" and not found.get("dropout"):
        found.pop("dropout", None)
    return name, found
