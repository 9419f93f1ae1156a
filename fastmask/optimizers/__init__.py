"""Optimizers with the update rules and defaults of Keras 3; the common ones are compiled.

A step does, in this order: clip the gradients, decay the weights, update. Gradients of embeddings
come as `SparseRows` with one row per distinct id, and count as the dense gradient they stand for.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastmask.core.objects import Registry, missing
from fastmask.optimizers import schedules
from fastmask.optimizers.adagrad import Adadelta, Adagrad
from fastmask.optimizers.adam import Adam, Adamax, AdamW, LazyAdam, Lion, Nadam
from fastmask.optimizers.base import Optimizer
from fastmask.optimizers.descent import SGD, RMSprop

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "LazyAdam",
    "Lion",
    "Nadam",
    "Optimizer",
    "RMSprop",
    "deserialize",
    "get",
    "schedules",
    "serialize",
]

_CLASSES: tuple[type[Any], ...] = (SGD, RMSprop, Adam, AdamW, LazyAdam, Adagrad, Adadelta, Adamax, Nadam, Lion)
REGISTRY = Registry(
    "optimizer", Optimizer, "keras.optimizers", {cls.identifier: cls for cls in _CLASSES},
    takes="a name or an Optimizer",
)  # fmt: skip


def get(identifier: Any) -> Optimizer:
    """Return the optimizer that a name (in any letter case), class, config or instance stands for.

    Raises
    ------
    ValueError
        If a name is unknown; the message lists the legal ones.
    TypeError
        If `identifier` is something else.
    """
    return REGISTRY.get(identifier)


def serialize(optimizer: Optimizer) -> dict[str, Any]:
    """Return the class name and config of an optimizer, without its state."""
    return REGISTRY.serialize(optimizer)


def deserialize(config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Optimizer:
    """Return a new optimizer from what `serialize` returned.

    Parameters
    ----------
    config : dict
    custom_objects : dict of str to class, optional
        Optimizers of your own by name.

    Raises
    ------
    ValueError
        If there is no optimizer of that name.
    """
    return REGISTRY.deserialize(config, custom_objects)


if not TYPE_CHECKING:
    __getattr__ = missing(__name__)
