"""NumPy, which runs models and does not train them."""

from collections.abc import Sequence
from typing import Any

from fastmask.keras import recurrence as arrays
from fastmask.keras.recurrence import Recurrence


def run(recurrence: Recurrence, tensors: Sequence[Any], mask: Any, training: bool) -> list[Any]:
    """Return the results of a layer."""
    return list(arrays.run(recurrence, tensors, mask))


def refusal(sequences: Any) -> str | None:
    """Return why an array cannot be run: never."""
    return None
