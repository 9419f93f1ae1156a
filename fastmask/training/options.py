"""Arguments of `fit` and its relatives that are more than a number."""

from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

_STEPS = (
    "train_step", "test_step", "predict_step", "make_train_function", "make_test_function", "make_predict_function",
    "compute_loss", "compute_metrics",
)  # fmt: skip


def require_own_steps(model: Any) -> None:
    """Raise NotImplementedError if a model has a step of training of its own, by its class or by itself."""
    for name in _STEPS:
        found = getattr(model, name, None)
        if found is not None and not getattr(found, "__module__", "").startswith("fastmask."):
            raise NotImplementedError(
                f"{type(model).__name__} must not define {name}: the steps of fastmask record no operations to take "
                "gradients of; a Layer with call and vjp, a loss, a metric or a callback of your own does it, or "
                "loss_and_gradients() and optimizer.apply() in a loop of your own"
            )


def check_epochs(epochs: Any, initial_epoch: Any, validation_freq: Any) -> None:
    """Raise ValueError unless `fit` can count its epochs by these."""
    for name, value in (("epochs", epochs), ("initial_epoch", initial_epoch)):
        if not isinstance(value, (int, np.integer)) or value < 0:
            raise ValueError(f"{name}: expected an integer of at least 0, got {value!r}")
    for value in validation_freq if isinstance(validation_freq, Collection) else [validation_freq]:
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"validation_freq: expected a positive integer or several, got {validation_freq!r}")


def check_weights(class_weight: Any, sample_weight: Any, outputs: Sequence[str]) -> None:
    """Raise ValueError or TypeError unless these weights can be used for a model with `outputs`."""
    if class_weight is not None and len(outputs) > 1:
        raise ValueError(
            f"class_weight: expected None for a model of several outputs, got {class_weight!r}; sample_weight does it"
        )
    if class_weight is not None and not (
        isinstance(class_weight, Mapping)
        and all(isinstance(k, (int, np.integer)) and isinstance(w, Real) for k, w in class_weight.items())
    ):
        raise TypeError(f"class_weight: expected a map from class numbers to weights, got {class_weight!r}")
    if class_weight is not None and sample_weight is not None:
        raise ValueError("class_weight, sample_weight: expected at most one of them, got both")


def due(epoch: int, frequency: int | Collection[int]) -> bool:
    """Return whether to validate after an epoch, counted from 0."""
    if isinstance(frequency, Collection):
        return epoch + 1 in frequency
    return (epoch + 1) % frequency == 0
