"""Optimizers with the update rules and defaults of Keras 3; the common ones are compiled.

A step does, in this order: clip the gradients, decay the weights, update. Gradients of embeddings
come as `SparseRows` with one row per distinct id, and count as the dense gradient they stand for.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastmask.core import objects
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

_CLASSES: tuple[type[Any], ...] = (
    SGD,
    RMSprop,
    Adam,
    AdamW,
    LazyAdam,
    Adagrad,
    Adadelta,
    Adamax,
    Nadam,
    Lion,
)


def get(identifier: Any) -> Optimizer:
    """Return the optimizer that a name (in any letter case), class, config or instance stands for.

    Raises
    ------
    ValueError
        If a name is unknown; the message lists the legal ones.
    TypeError
        If `identifier` is something else.
    """
    if isinstance(identifier, Optimizer):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Optimizer):
        return identifier()  # type: ignore[call-arg]
    if isinstance(identifier, Mapping):
        return deserialize(identifier)
    if not isinstance(identifier, str):
        raise TypeError(f"optimizer: expected a name or an Optimizer, got {identifier!r}")
    for cls in _CLASSES:
        if identifier.lower() == cls.identifier:
            return cls()  # type: ignore[no-any-return]
    legal = ", ".join(cls.identifier for cls in _CLASSES)
    raise ValueError(f"optimizer: expected one of {legal}, got {identifier!r}")


def serialize(optimizer: Optimizer) -> dict[str, Any]:
    """Return the class name and config of an optimizer, without its state."""
    return objects.serialize(optimizer, "keras.optimizers")


def deserialize(
    config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
) -> Optimizer:
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
    classes = {cls.__name__: cls for cls in _CLASSES}
    return get(objects.deserialize(config, classes, custom_objects, "optimizer"))


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Say what to do about a class of Keras that is not here."""
        raise objects.missing(__name__, name)
