"""Adagrad and Adadelta: steps divided by the size of the gradients so far."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmask import ops
from fastmask.optimizers.base import Optimizer, Rate, State, dense
from fastmask.optimizers.gradients import Gradient, not_negative, share

Array = NDArray[Any]


class Adagrad(Optimizer):
    """Gradient descent divided by the root of the sum of the squared gradients.

    ``a += g**2`` and ``w -= learning_rate * g / sqrt(a + epsilon)``. An embedding's step touches
    only the rows that the batch used.

    Parameters
    ----------
    learning_rate : float, default 0.001
    initial_accumulator_value : float, default 0.1
        Where ``a`` begins.
    epsilon : float, default 1e-7
    **kwargs
        Those of `Optimizer`.
    """

    identifier = "adagrad"
    slots = (("accumulator",),)

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        name = "initial_accumulator_value"
        self.initial_accumulator_value = not_negative(name, initial_accumulator_value)
        self.epsilon = not_negative("epsilon", epsilon)

    def new_state(self, param: Array) -> State:
        """Return the accumulator."""
        return (np.full_like(param, self.initial_accumulator_value),)

    def step(self, param: Array, grad: Gradient, state: State) -> None:
        """Update `param` and its state in place."""
        (total,) = state
        some = isinstance(grad, ops.SparseRows)
        rows, g = (grad.ids, grad.rows) if some else (..., dense(grad))
        # NumPy 1 computes with a number of Python and an array without axes in float64.
        rate, epsilon = g.dtype.type(self.rate), g.dtype.type(self.epsilon)
        total[rows] += g * g
        param[rows] -= rate * g / np.sqrt(total[rows] + epsilon)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = ("initial_accumulator_value", "epsilon")
        return super().get_config() | {name: getattr(self, name) for name in own}


class Adadelta(Optimizer):
    """Steps as large as the running size of earlier steps over that of the gradient.

    ``a = rho * a + (1 - rho) * g**2``, ``s = -sqrt(d + epsilon) / sqrt(a + epsilon) * g``,
    ``d = rho * d + (1 - rho) * s**2`` and ``w += learning_rate * s``.

    Parameters
    ----------
    learning_rate : float, default 0.001
    rho : float, default 0.95
    epsilon : float, default 1e-7
    **kwargs
        Those of `Optimizer`.
    """

    identifier = "adadelta"
    slots = (("accumulated_grad", "accumulated_delta_var"),)

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        rho: float = 0.95,
        epsilon: float = 1e-7,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.rho = share("rho", rho)
        self.epsilon = not_negative("epsilon", epsilon)

    def new_state(self, param: Array) -> State:
        """Return the running squares of gradients and steps."""
        return np.zeros_like(param), np.zeros_like(param)

    def step(self, param: Array, grad: Gradient, state: State) -> None:
        """Update `param` and its state in place."""
        (square, moved), g = state, dense(grad)
        square += (g * g - square) * (1 - self.rho)
        step = -np.sqrt((moved + self.epsilon) / (square + self.epsilon)) * g
        moved += (step * step - moved) * (1 - self.rho)
        param += self.rate * step

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return super().get_config() | {"rho": self.rho, "epsilon": self.epsilon}
