"""Gradient descent: plain, with momentum, divided by a running root mean square."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmask.optimizers.base import Rate, State
from fastmask.optimizers.compiled import Compiled
from fastmask.optimizers.gradients import not_negative, share

Array = NDArray[Any]


class SGD(Compiled):
    """Gradient descent, with momentum if asked for.

    With g the gradient: ``w -= learning_rate * g``, or with momentum
    ``v = momentum * v - learning_rate * g`` and ``w += v`` (Nesterov:
    ``w += momentum * v - learning_rate * g``). Without momentum an embedding's step touches
    only the rows that the batch used.

    Parameters
    ----------
    learning_rate : float, default 0.01
    momentum : float, default 0.0
        In [0, 1].
    nesterov : bool, default False
    **kwargs
        Those of `Optimizer`.
    """

    identifier = "sgd"
    rule = "sgd"
    slots = (("momentum",),)

    def __init__(
        self,
        learning_rate: Rate = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.momentum = share("momentum", momentum)
        self.nesterov = nesterov

    def new_state(self, param: Array) -> State:
        """Return the velocity, or None without momentum."""
        return (np.zeros_like(param) if self.momentum else None,)

    def _rates(self) -> tuple[float, ...]:
        """Return the learning rate, the momentum and whether it is Nesterov's."""
        return self.rate, self.momentum, self.nesterov

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return super().get_config() | {"momentum": self.momentum, "nesterov": self.nesterov}


class RMSprop(Compiled):
    """Gradient descent divided by a running root mean square of the gradient.

    ``s = rho * s + (1 - rho) * g**2`` and ``w -= learning_rate * g / sqrt(s + epsilon)``.

    Parameters
    ----------
    learning_rate : float, default 0.001
    rho : float, default 0.9
    momentum : float, default 0.0
        In [0, 1]; the update is then ``p = momentum * p + update``.
    epsilon : float, default 1e-7
    centered : bool, default False
        Whether the square of the running mean is taken off ``s``.
    **kwargs
        Those of `Optimizer`.
    """

    identifier = "rmsprop"
    rule = "rmsprop"
    slots = (("velocity",), ("momentum",), ("average_gradient",))

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.rho = share("rho", rho)
        self.momentum = share("momentum", momentum)
        self.epsilon = not_negative("epsilon", epsilon)
        self.centered = centered

    def new_state(self, param: Array) -> State:
        """Return the mean square, the momentum buffer or None, and the mean or None."""
        return (
            np.zeros_like(param),
            np.zeros_like(param) if self.momentum else None,
            np.zeros_like(param) if self.centered else None,
        )

    def _rates(self) -> tuple[float, ...]:
        """Return the learning rate, rho, momentum and epsilon."""
        return self.rate, self.rho, self.momentum, self.epsilon

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = ("rho", "momentum", "epsilon", "centered")
        return super().get_config() | {name: getattr(self, name) for name in own}
