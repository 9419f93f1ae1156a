"""Masks computed in a graph: what comparing a symbolic tensor, and joining masks by ``&``, ``|`` and ``~``, makes."""

from typing import Any

import numpy as np

from fastmask.batch.packing import PackedSequence
from fastmask.layers.base import checks
from fastmask.layers.base.checks import Shape
from fastmask.layers.base.layer import Call, Gradients, Layer, Pullback, describe
from fastmask.layers.base.symbolic import mask_operations, several


class MaskOperation(Layer):
    """Base of the operations on masks. They take padded arrays, return arrays of bool and have no gradient.

    Parameters
    ----------
    name : str, optional
    """

    supports_masking = True
    passes_mask = False
    takes_grid = True

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__(name=name, trainable=False)
        self.dtype = np.dtype(bool)

    def input_takes_ids(self, index: int) -> bool:
        """Return whether the inputs have one number for each step."""
        shape = self.input_shape or ()
        return len(shape[0] if several(shape) else shape) == 2  # type: ignore[arg-type]

    def compute_output_shape(self, input_shape: Any) -> Shape:
        """Return the shape of the inputs, which must be one where there are several."""
        shapes = list(input_shape) if several(input_shape) else [input_shape]
        lengths = [{n for n in column if n is not None} for column in zip(*shapes, strict=False)]
        if len({len(shape) for shape in shapes}) > 1 or any(len(known) > 1 for known in lengths):
            raise ValueError(f"x: expected masks of one shape for {describe(self)}, got {shapes}")
        return tuple(min(known, default=None) for known in lengths)

    def check_input(self, x: Any) -> Any:
        return x.pad() if isinstance(x, PackedSequence) else checks.as_array("x", x)

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        y = self.compute(x)
        return y, lambda dy: Gradients([None] * len(x) if self.takes_list else None, [])

    def compute(self, x: Any) -> Any:
        """Return the result for an array, or for a list of two."""
        raise NotImplementedError(f"{describe(self)} must define compute(self, x)")

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}


def differs(x: Any, value: Any) -> Any:
    """Return where an array differs from a number; NaN equals NaN."""
    return np.not_equal(x, value) if value == value else np.logical_not(np.isnan(x))


class NotEqual(MaskOperation):
    """Whether entries differ from a number: ``x != value`` of a symbolic tensor.

    Parameters
    ----------
    value : float, default 0
        Of NaN all numbers differ, and no NaN.
    name : str, optional

    Notes
    -----
    ``layers.LSTM(8)(x, mask=ids != 0)`` skips the steps where ids of any input are 0.
    """

    def __init__(self, value: Any = 0, *, name: str | None = None) -> None:
        super().__init__(name=name)
        if not isinstance(value, (int, float, np.number)):
            raise TypeError(f"value: expected a number, got {value!r}")
        self.value = value

    def check_input(self, x: Any) -> Any:
        if isinstance(x, PackedSequence) and x.fill is None and x.shown is None:
            # Behind the ends of the sequences of a list nothing differs.
            values = x.values.astype(np.result_type(x.values, self.value))
            x = x.with_values(values, fill=np.full(values.shape[1:], self.value, values.dtype))
        return super().check_input(x)

    def compute(self, x: Any) -> Any:
        return differs(x, self.value)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "value": self.value}


class AnyFeature(MaskOperation):
    """Whether any feature of a step is true: (B, T, F) to (B, T).

    Parameters
    ----------
    name : str, optional
    """

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape[:-1])

    def compute(self, x: Any) -> Any:
        return np.any(x, axis=-1)


class LogicalNot(MaskOperation):
    """Whether a mask is false: ``~mask``.

    Parameters
    ----------
    name : str, optional
    """

    def compute(self, x: Any) -> Any:
        return np.logical_not(x)


class LogicalAnd(MaskOperation):
    """Where both of two masks are true: ``first & second``, or a call with the list of both.

    Parameters
    ----------
    name : str, optional
    """

    takes_list = True

    def compute(self, x: Any) -> Any:
        return np.logical_and(*x)


class LogicalOr(MaskOperation):
    """Where one of two masks is true: ``first | second``, or a call with the list of both.

    Parameters
    ----------
    name : str, optional
    """

    takes_list = True

    def compute(self, x: Any) -> Any:
        return np.logical_or(*x)


mask_operations.update({each.__name__: each for each in (NotEqual, LogicalNot, LogicalAnd, LogicalOr)})
