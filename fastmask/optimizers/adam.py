"""Adam and its kin: running means of the gradient and of its size."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmask.layers.base.variable import Variable
from fastmask.optimizers.base import Optimizer, Rate, State, dense
from fastmask.optimizers.compiled import Compiled
from fastmask.optimizers.gradients import Gradient, not_negative, share

Array = NDArray[Any]


class Adam(Compiled):
    """Gradient descent with running means of the gradient and of its square.

    In step t, ``a = learning_rate * sqrt(1 - beta_2**t) / (1 - beta_1**t)``,
    ``m = beta_1 * m + (1 - beta_1) * g``, ``v = beta_2 * v + (1 - beta_2) * g**2`` and
    ``w -= a * m / (sqrt(v) + epsilon)``.

    Parameters
    ----------
    learning_rate : float, default 0.001
    beta_1 : float, default 0.9
    beta_2 : float, default 0.999
    epsilon : float, default 1e-7
    amsgrad : bool, default False
        Whether the largest ``v`` so far takes the place of ``v``.
    **kwargs
        Those of `Optimizer`.
    """

    identifier = "adam"
    rule = "adam"
    slots = (("momentum", "velocity"), ("velocity_hat",))

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = share("beta_1", beta_1)
        self.beta_2 = share("beta_2", beta_2)
        self.epsilon = not_negative("epsilon", epsilon)
        self.amsgrad = amsgrad

    def new_state(self, param: Array) -> State:
        """Return the two running means, and the largest square or None."""
        largest = np.zeros_like(param) if self.amsgrad else None
        return np.zeros_like(param), np.zeros_like(param), largest

    def _rates(self) -> tuple[float, ...]:
        """Return the corrected step size, the betas and epsilon."""
        t = self.iterations + 1
        correction = (1 - self.beta_2**t) ** 0.5 / (1 - self.beta_1**t)
        return self.rate * correction, self.beta_1, self.beta_2, self.epsilon

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = ("beta_1", "beta_2", "epsilon", "amsgrad")
        return super().get_config() | {name: getattr(self, name) for name in own}


class AdamW(Adam):
    """Adam with weight decay, which acts on every variable that is not excluded from it.

    Parameters
    ----------
    learning_rate : float, default 0.001
    weight_decay : float, default 0.004
        Every step first multiplies the weights by ``1 - learning_rate * weight_decay``.
    beta_1, beta_2, epsilon, amsgrad
        As in `Adam`.
    **kwargs
        Those of `Optimizer`.
    """

    identifier = "adamw"

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs["weight_decay"] = not_negative("weight_decay", weight_decay)
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, **kwargs)


class LazyAdam(Adam):
    """Adam that changes only the rows of an embedding that have a gradient, for large vocabularies.

    The other rows of the embedding, and their running means, keep every bit: the means do not decay in steps that
    do not meet the row, and it does not go on moving. The time of a step depends on the tokens of a batch, not on
    the vocabulary. Variables with a dense gradient are updated as by `Adam`; that of an embedding is dense if it
    has a regularizer. The rule is that of TensorFlow Addons' ``LazyAdam`` and PyTorch's ``SparseAdam``; ``t`` counts
    all steps. Keras has no such class: compile a model anew, with ``Adam``, to save it for Keras.

    Parameters
    ----------
    learning_rate : float, default 0.001
    beta_1, beta_2, epsilon, amsgrad
        As in `Adam`.
    **kwargs
        Those of `Optimizer` but `weight_decay`, which would change every row.

    Raises
    ------
    ValueError
        If `weight_decay` is given, and as in `Optimizer`.
    """

    identifier = "lazyadam"
    lazy = True

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("weight_decay"):
            raise ValueError(
                "weight_decay: expected None, as it would change rows without a gradient; use Adam or AdamW, got "
                f"{kwargs['weight_decay']!r}"
            )
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, **kwargs)


class _Moments(Optimizer):
    """Base of the optimizers with two betas and two running values."""

    slots = (("momentum", "velocity"),)

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = share("beta_1", beta_1)
        self.beta_2 = share("beta_2", beta_2)
        self.epsilon = not_negative("epsilon", epsilon)

    def new_state(self, param: Array) -> State:
        """Return the two running values."""
        return np.zeros_like(param), np.zeros_like(param)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = ("beta_1", "beta_2", "epsilon")
        return super().get_config() | {name: getattr(self, name) for name in own}


class Adamax(_Moments):
    """Adam with the largest size of the gradient in place of its mean square.

    ``m = beta_1 * m + (1 - beta_1) * g``, ``u = max(beta_2 * u, |g|)`` and in step t
    ``w -= learning_rate * m / ((1 - beta_1**t) * (u + epsilon))``.

    Parameters
    ----------
    learning_rate : float, default 0.001
    beta_1 : float, default 0.9
    beta_2 : float, default 0.999
    epsilon : float, default 1e-7
    **kwargs
        Those of `Optimizer`.
    """

    identifier = "adamax"
    slots = (("momentum", "norm"),)

    def step(self, param: Array, grad: Gradient, state: State) -> None:
        """Update `param` and its state in place."""
        (m, u), g = state, dense(grad)
        m += (g - m) * (1 - self.beta_1)
        np.maximum(self.beta_2 * u, np.abs(g), out=u)
        param -= self.rate * m / ((1 - self.beta_1 ** (self.iterations + 1)) * (u + self.epsilon))


class Nadam(_Moments):
    """Adam with Nesterov's momentum, whose weight grows with the steps.

    Parameters
    ----------
    learning_rate : float, default 0.001
    beta_1 : float, default 0.9
    beta_2 : float, default 0.999
    epsilon : float, default 1e-7
    **kwargs
        Those of `Optimizer`.
    """

    identifier = "nadam"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._product = Variable(np.ones(()), "variable", trainable=False)

    @property
    def shared(self) -> list[Variable]:
        """The product of the momenta so far."""
        return [self._product]

    def apply(self, grads: Any, variables: Any) -> None:
        """Make one step; the values of the variables change in place."""
        before = self._product.numpy()
        self._product.assign(before * self._momentum(self.iterations + 1))
        try:
            super().apply(grads, variables)
        except ValueError:
            self._product.assign(before)
            raise

    def step(self, param: Array, grad: Gradient, state: State) -> None:
        """Update `param` and its state in place."""
        (m, v), g, t = state, dense(grad), self.iterations + 1
        now, following = self._momentum(t), self._momentum(t + 1)
        product = float(self._product.value)
        m += (g - m) * (1 - self.beta_1)
        v += (g * g - v) * (1 - self.beta_2)
        ahead = m * (following / (1 - product * following)) + g * ((1 - now) / (1 - product))
        spread = np.sqrt(v / (1 - self.beta_2**t)) + self.epsilon
        param -= self.rate * ahead / spread

    def _momentum(self, step: int) -> float:
        """Return the weight of the running mean in a step, counted from 1."""
        return self.beta_1 * (1 - 0.5 * 0.96**step)


class Lion(Optimizer):
    """Steps of one size in the direction of the sign of a running mean.

    ``w -= learning_rate * sign(beta_1 * m + (1 - beta_1) * g)`` and
    ``m = beta_2 * m + (1 - beta_2) * g``.

    Parameters
    ----------
    learning_rate : float, default 0.001
    beta_1 : float, default 0.9
    beta_2 : float, default 0.99
    **kwargs
        Those of `Optimizer`.
    """

    identifier = "lion"
    slots = (("momentum",),)

    def __init__(
        self, learning_rate: Rate = 0.001, beta_1: float = 0.9, beta_2: float = 0.99, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = share("beta_1", beta_1)
        self.beta_2 = share("beta_2", beta_2)

    def new_state(self, param: Array) -> State:
        """Return the running mean."""
        return (np.zeros_like(param),)

    def step(self, param: Array, grad: Gradient, state: State) -> None:
        """Update `param` and its state in place."""
        (m,), g = state, dense(grad)
        param -= self.rate * np.sign(m * self.beta_1 + g * (1 - self.beta_1))
        m += (g - m) * (1 - self.beta_2)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return super().get_config() | {"beta_1": self.beta_1, "beta_2": self.beta_2}
