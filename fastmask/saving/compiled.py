"""What `compile` was given, and the state of the optimizer, from and to files."""

import warnings
from collections.abc import Mapping, Sequence
from inspect import signature
from itertools import takewhile
from typing import Any

import numpy as np

from fastmask import losses, metrics, optimizers
from fastmask.core.errors import REMEDY, FileFormatError
from fastmask.core.objects import Names, Registry, made, written
from fastmask.layers import Variable
from fastmask.layers.base.variable import fill
from fastmask.saving import h5
from fastmask.saving.order import Orders, trained

# Arguments of Keras's objects that fastmask does not have, with the values that change nothing.
_IDLE: dict[str, tuple[Any, ...]] = {
    "use_ema": (False, None),
    "loss_scale_factor": (None,),
    "gradient_accumulation_steps": (None, 1),
    "decay": (0, None),
    "axis": (-1,),
}
_PLACES = {
    "optimizer": "optimizers",
    "loss": "losses",
    "loss_weights": "losses",
    "metrics": "metrics",
    "weighted_metrics": "metrics",
}
_IGNORED = ("ema_momentum", "ema_overwrite_frequency", "jit_compile", "is_legacy_optimizer", "fn", "dtype")
_LARGEST_COUNT = 2**62


def compile_model(model: Any, config: Mapping[str, Any], custom_objects: Names | None = None) -> None:
    """Compile a model by a compile_config of Keras 3, or a training_config of a legacy file.

    Raises
    ------
    FileFormatError
        If fastmask has no such optimizer, loss or metric.
    """
    own = custom_objects or {}
    optimizer = config.get("optimizer", config.get("optimizer_config"))
    found = {
        "optimizer": _each(optimizer, optimizers.REGISTRY, own),
        "loss": _each(config.get("loss"), losses.REGISTRY, own),
        "loss_weights": config.get("loss_weights"),
        "metrics": _flat(_each(config.get("metrics"), metrics.REGISTRY, own)),
        "weighted_metrics": _flat(_each(config.get("weighted_metrics"), metrics.REGISTRY, own)),
    }
    model.compile(**{key: value for key, value in found.items() if value is not None})


def compile_config(model: Any) -> dict[str, Any] | None:
    """Return what `compile` was given in the form of Keras 3; None for a model that is not compiled."""
    if model.optimizer is None:
        return None
    given = {"optimizer": model.optimizer, **model.compile_arguments}
    return {key: _plain(given[key], f"keras.{place}") for key, place in _PLACES.items()}


def restore(model: Any, stored: Sequence[Any], orders: Orders, blocks: bool = False) -> None:
    """Give the optimizer of a compiled model the state that is stored.

    Parameters
    ----------
    model : Model
    stored : sequence of h5py.Dataset or arrays
        Number of steps, learning rate (not always there), then the slots of the variables.
    orders : dict
        The order of the layers in the file.
    blocks : bool, default False
        Whether each kind of slot comes for all variables before the next kind, as the optimizers
        before Keras 2.11 have it.

    Raises
    ------
    FileFormatError
        If a part does not fit; nothing has changed then.
    """
    scalars = list(takewhile(lambda item: item.shape == (), stored))[:2]
    rest = stored[len(scalars) :]
    wanted = slots(model.optimizer, trained(model, orders), blocks)
    idle = len(wanted) == 0 or blocks
    if rest and (len(rest) < len(wanted) or (len(rest) > len(wanted) and not idle)):
        warnings.warn(
            f"the optimizer starts anew; its state: expected {len(wanted)} arrays, got {len(rest)}",
            stacklevel=4,
        )
        return
    pairs = [h5.read_for(slot, item, _described(item)) for slot, item in zip(wanted, rest, strict=False)]
    numbers = [float(h5.read(item, (), _described(item))) for item in scalars]
    if not all(0 <= number < _LARGEST_COUNT for number in numbers):
        raise FileFormatError(f"optimizer state: expected a number of steps and a learning rate, got {numbers}")
    fill(pairs)
    if numbers:
        model.optimizer.iterations = int(numbers[0])
    if len(numbers) > 1 and _has_fixed_rate(model.optimizer):
        model.optimizer.learning_rate = numbers[1]


def _described(item: Any) -> str:
    return f"optimizer state {item.name!r}" if hasattr(item, "name") else "optimizer state"


def slots(optimizer: Any, variables: Sequence[Any], blocks: bool = False) -> list[Variable]:
    """Return an optimizer's state in Keras's order; the arrays are the state, not copies."""
    optimizer.build(variables)
    found: list[Variable | None] = []
    start = 0
    for group in optimizer.slots:
        kinds = list(enumerate(group, start))
        start += len(group)
        if blocks:
            found += [optimizer._slot(variable, *kind) for kind in kinds for variable in variables]
        else:
            found += [optimizer._slot(variable, *kind) for variable in variables for kind in kinds]
    own = [slot for slot in found if slot is not None]
    return [*own, *optimizer.shared]


def write_state(root: Any, model: Any, orders: Orders) -> None:
    """Write the state of a compiled model's optimizer into an HDF5 group."""
    optimizer = model.optimizer
    group = root.create_group("optimizer/vars")
    group.attrs["name"] = optimizer.name
    scalars: list[Any] = [np.int32(optimizer.iterations)]
    scalars += [np.float64(optimizer.learning_rate)] if _has_fixed_rate(optimizer) else []
    arrays = [slot.value for slot in slots(optimizer, trained(model, orders))]
    for number, value in enumerate([*scalars, *arrays]):
        group.create_dataset(str(number), data=value)


def _has_fixed_rate(optimizer: Any) -> bool:
    return any(variable.name == "learning_rate" for variable in optimizer.variables[:2])


def _each(value: Any, registry: Registry[Any], own: Names) -> Any:
    """Return objects for their configs in a structure of lists and dicts."""
    if isinstance(value, Mapping):
        if "class_name" in value:
            return _made(value, registry, own)
        return {key: _each(item, registry, own) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_each(item, registry, own) for item in value]
    return own.get(value, value) if isinstance(value, str) else value


def _made(config: Mapping[str, Any], registry: Registry[Any], own: Names) -> Any:
    name = str(config["class_name"]).split(">")[-1]
    inner = config.get("config")
    if name == "function" or isinstance(inner, str):
        return own.get(str(inner), str(inner))
    if not isinstance(inner, Mapping):
        raise FileFormatError(f"the config of {name!r}: expected a dict, got {str(inner)[:80]}")
    if name == "MeanMetricWrapper" and isinstance(inner.get("fn"), str):
        metric = metrics.get(own.get(inner["fn"], inner["fn"]))
        metric.name = str(inner.get("name") or metric.name)
        return metric
    if name in own:
        return made(own[name], inner)
    cls = registry.find(name)
    if cls is None and registry is optimizers.REGISTRY:
        cls = optimizers.schedules.REGISTRY.find(name)
    if cls is None:
        raise FileFormatError(
            f"fastmask has no {registry.kind} {name!r}; load the model with compile=False and compile it, or pass the "
            f"class in custom_objects; {REMEDY}"
        )
    return cls(**_arguments(cls, inner, registry, own))


def _arguments(cls: Any, config: Mapping[str, Any], registry: Registry[Any], own: Names) -> dict[str, Any]:
    """Return the arguments of a constructor from a config of any Keras."""
    legal = {name for base in cls.__mro__[:-1] for name in signature(base.__init__).parameters}
    found = {}
    for key, value in config.items():
        key = "learning_rate" if key == "lr" else key
        if isinstance(value, Mapping) and "class_name" in value and key != "dtype":
            value = _made(value, registry, own)
        if key == "reduction" and value == "auto":
            value = "sum_over_batch_size"
        if (key == "epsilon" and value is None) or (key == "dtype" and isinstance(value, Mapping)):
            continue
        if key in legal and key not in ("self", "kwargs", "fn"):
            found[key] = value
        elif key not in _IGNORED and value not in _IDLE.get(key, ()):
            raise FileFormatError(
                f"fastmask's {cls.__name__} has no argument {key}={value!r}; load the model with compile=False"
            )
    return found


def _flat(value: Any) -> Any:
    """Return the metrics of the one output without the list that Keras 2 puts around them."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        return value[0]
    return value


def _plain(value: Any, module: str) -> Any:
    """Return the config of objects in a structure of lists and dicts."""
    if isinstance(value, Mapping):
        return {key: _plain(item, module) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, module) for item in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, type):
        value = value()
    if hasattr(value, "get_config"):
        config = {key: _plain(item, f"{module}.schedules") for key, item in value.get_config().items()}
        return written(module, type(value).__name__, config)
    name = getattr(value, "__name__", type(value).__name__)
    return written("builtins", "function", name, name)
