"""What constructors make of the arguments that all layers share: names, dtypes and shapes."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastmask import config
from fastmask.layers.base.checks import Shape
from fastmask.layers.base.holder import AnyLayer, describe

_name_counts: Counter[str] = Counter()
_INT8_POLICY = "int8_from_float32"


def auto_name(class_name: str) -> str:
    """Return the class name in snake case, with a number from the second layer of a class on."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", class_name).lower()
    _name_counts[words] += 1
    number = _name_counts[words] - 1
    return f"{words}_{number}" if number else words


def reset_names() -> None:
    """Start the numbering of layer names again."""
    _name_counts.clear()


def layer_dtype(dtype: Any) -> np.dtype[Any]:
    """Return float32 or float64, given as dtype, name or Keras's policy; else ValueError."""
    if isinstance(dtype, Mapping):
        policy = dtype["config"]
        dtype = policy["name"] if "name" in policy else policy.get("source_name")
    if dtype == _INT8_POLICY:
        dtype = "float32"
    if dtype is None:
        dtype = config.floatx()
    try:
        found: np.dtype[Any] = np.dtype(dtype)
    except TypeError:
        found = np.dtype(object)
    if found not in (np.float32, np.float64):
        raise ValueError(f"dtype: expected 'float32' or 'float64', got {dtype!r}")
    return found


def quantization_mode(dtype: Any) -> str | None:
    """Return the mode of Keras's quantised policy, "int8", or None for other dtypes; else ValueError."""
    if isinstance(dtype, Mapping):
        mode: str | None = dtype["config"].get("mode")
        if mode not in (None, "int8"):
            raise ValueError(f"dtype: expected a policy with the mode 'int8', got {mode!r}")
        return mode
    return "int8" if isinstance(dtype, str) and dtype == _INT8_POLICY else None


def dtype_config(dtype: np.dtype[Any], mode: str | None) -> Any:
    """Return a layer's dtype as a config has it: its name, or Keras's quantised policy."""
    if mode is None:
        return dtype.name
    policy = {"mode": mode, "source_name": dtype.name}
    module = "keras.dtype_policies"
    return {"module": module, "class_name": "QuantizedDTypePolicy", "config": policy, "registered_name": None}


def check_quantization_config(value: Any) -> None:
    """Raise NotImplementedError unless `value` is None, or what Keras writes beside its policy of mode "int8"."""
    if value is None:
        return
    config = value.get("config", {}) if isinstance(value, Mapping) else {}
    quantizer = config.get("activation_quantizer") or {}
    known = quantizer.get("config", {}).items() >= {"epsilon": 1e-7, "output_dtype": "int8"}.items()
    if not known or config.get("weight_quantizer") is not None or quantizer.get("class_name") != "AbsMaxQuantizer":
        raise NotImplementedError(f"quantization_config: expected None, or Keras's default for int8, got {value!r}")


def declared_shape(class_name: str, kwargs: dict[str, Any]) -> Shape | None:
    """Take the arguments about shapes out of `kwargs`; TypeError if any others are left."""
    kwargs.pop("autocast", None)
    batch_shape = kwargs.pop("batch_input_shape", None) or kwargs.pop("batch_shape", None)
    shape, size = kwargs.pop("input_shape", None), kwargs.pop("input_dim", None)
    steps = (kwargs.pop("input_length"),) if "input_length" in kwargs else ()
    if kwargs:
        raise TypeError(f"{class_name} got unknown arguments: {', '.join(sorted(kwargs))}")
    if batch_shape is not None:
        return tuple(batch_shape)
    if shape is not None:
        return (None, *((shape,) if isinstance(shape, int) else shape))
    return None if size is None else (None, *steps, size)


def own_arguments(scope: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a constructor from its ``locals()``."""
    inner = ("self", "__class__", "kwargs")
    extra: dict[str, Any] = scope["kwargs"]
    return {name: value for name, value in scope.items() if name not in inner} | extra


def with_dtype_of(layer: AnyLayer, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a wrapper with the dtype of the wrapped layer; ValueError if they give another."""
    given = kwargs.get("dtype")
    if given is not None and layer_dtype(given) != layer.dtype:
        raise ValueError(f"dtype: expected {layer.dtype}, like that of {describe(layer)}, got {given!r}")
    return kwargs | {"dtype": layer.dtype}
