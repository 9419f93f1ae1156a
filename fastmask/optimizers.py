"""Optimizers with the update rules and defaults of Keras 3; the arithmetic is compiled.

A step does, in this order: clip the gradients, decay the weights, update. Gradients of embeddings
come as `SparseRows` with one row per distinct id, and count as the dense gradient they stand for.
"""

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmask import ops

if TYPE_CHECKING:
    from fastmask.layers import Variable

Array = NDArray[Any]
Gradient = Any  # ndarray or ops.SparseRows
State = tuple[Any, ...]  # arrays like the parameter, None where a variant needs none


class Optimizer:
    """Base of all optimizers.

    Parameters
    ----------
    learning_rate : float
        Greater than or equal to 0; may be set at any time.
    weight_decay : float, optional
        Every step first multiplies the weights by ``1 - learning_rate * weight_decay``.
    clipnorm : float, optional
        Largest Euclidean norm of the gradient of one variable.
    clipvalue : float, optional
        Largest absolute value in a gradient.
    global_clipnorm : float, optional
        Largest Euclidean norm of all gradients together.
    name : str, optional

    Raises
    ------
    ValueError
        If a number is negative or more than one kind of clipping is asked for.
    """

    identifier = "optimizer"

    def __init__(
        self,
        learning_rate: float,
        *,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        name: str | None = None,
    ) -> None:
        self.learning_rate = learning_rate
        clips = {"clipnorm": clipnorm, "clipvalue": clipvalue, "global_clipnorm": global_clipnorm}
        if sum(value is not None for value in clips.values()) > 1:
            raise ValueError(f"at most one of {', '.join(clips)} may be given, got {clips}")
        for key, value in {"weight_decay": weight_decay, **clips}.items():
            if value is not None:
                _not_negative(key, value)
        self.weight_decay = weight_decay
        self.clipnorm = clipnorm
        self.clipvalue = clipvalue
        self.global_clipnorm = global_clipnorm
        self.name = name or self.identifier
        self.iterations = 0
        self._states: dict[Variable, State] = {}

    @property
    def learning_rate(self) -> float:
        """Step size."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = _not_negative("learning_rate", value)

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Gradient, "Variable"]]) -> None:
        """Make one step on pairs of gradient and variable."""
        pairs = list(grads_and_vars)
        self.apply([grad for grad, _ in pairs], [variable for _, variable in pairs])

    def apply(self, grads: Sequence[Gradient], variables: Sequence["Variable"]) -> None:
        """Make one step; the values of the variables change in place.

        Parameters
        ----------
        grads : sequence of ndarray or SparseRows
            One gradient per variable, of its shape and dtype.
        variables : sequence of Variable
        """
        if len(grads) != len(variables):
            raise ValueError(
                f"grads must have one entry per variable, got {len(grads)} for {len(variables)}"
            )
        clipped = self._clip(grads)
        self.iterations += 1
        for grad, variable in zip(clipped, variables, strict=True):
            if self.weight_decay:
                variable.value *= variable.dtype.type(1 - self.learning_rate * self.weight_decay)
            self.step(variable.value, grad, self._state(variable))

    def step(self, param: Array, grad: Gradient, state: State) -> None:
        """Update `param` and its `state` in place."""
        raise NotImplementedError(f"{type(self).__name__} must override step")

    def new_state(self, param: Array) -> State:
        """Return the state that belongs to a variable of the shape of `param` at the start."""
        return ()

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "name": self.name,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "clipnorm": self.clipnorm,
            "clipvalue": self.clipvalue,
            "global_clipnorm": self.global_clipnorm,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Optimizer":
        """Return an optimizer with the arguments that `get_config` returned."""
        return cls(**config)

    def _state(self, variable: "Variable") -> State:
        if variable not in self._states:
            self._states[variable] = self.new_state(variable.value)
        return self._states[variable]

    def _clip(self, grads: Sequence[Gradient]) -> Sequence[Gradient]:
        if self.clipvalue is not None:
            limit = self.clipvalue
            return [_map(grad, lambda g: np.clip(g, -limit, limit)) for grad in grads]
        if self.clipnorm is not None:
            return [_scale_to(grad, self.clipnorm, _norm([grad])) for grad in grads]
        if self.global_clipnorm is not None:
            norm = _norm(grads)
            return [_scale_to(grad, self.global_clipnorm, norm) for grad in grads]
        return grads


class SGD(Optimizer):
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

    def __init__(
        self,
        learning_rate: float = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.momentum = _share("momentum", momentum)
        self.nesterov = nesterov

    def new_state(self, param: Array) -> State:
        """Return the velocity, or None without momentum."""
        return (np.zeros_like(param) if self.momentum else None,)

    def step(self, param: Array, grad: Gradient, state: State) -> None:
        """Update `param` and its velocity in place."""
        ops.sgd_step(
            param, grad, state[0], self.learning_rate, self.momentum, self.nesterov
        )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return super().get_config() | {"momentum": self.momentum, "nesterov": self.nesterov}


class RMSprop(Optimizer):
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

    def __init__(
        self,
        learning_rate: float = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.rho = _share("rho", rho)
        self.momentum = _share("momentum", momentum)
        self.epsilon = _not_negative("epsilon", epsilon)
        self.centered = centered

    def new_state(self, param: Array) -> State:
        """Return the mean square, the momentum buffer or None, and the mean or None."""
        return (
            np.zeros_like(param),
            np.zeros_like(param) if self.momentum else None,
            np.zeros_like(param) if self.centered else None,
        )

    def step(self, param: Array, grad: Gradient, state: State) -> None:
        """Update `param` and its state in place."""
        square, velocity, mean = state
        rates = (self.learning_rate, self.rho, self.momentum, self.epsilon)
        ops.rmsprop_step(param, grad, square, velocity, mean, *rates)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = ("rho", "momentum", "epsilon", "centered")
        return super().get_config() | {name: getattr(self, name) for name in own}


class Adam(Optimizer):
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

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = _share("beta_1", beta_1)
        self.beta_2 = _share("beta_2", beta_2)
        self.epsilon = _not_negative("epsilon", epsilon)
        self.amsgrad = amsgrad

    def new_state(self, param: Array) -> State:
        """Return the two running means, and the largest square or None."""
        largest = np.zeros_like(param) if self.amsgrad else None
        return np.zeros_like(param), np.zeros_like(param), largest

    def step(self, param: Array, grad: Gradient, state: State) -> None:
        """Update `param` and its state in place."""
        correction = (1 - self.beta_2**self.iterations) ** 0.5 / (1 - self.beta_1**self.iterations)
        alpha = self.learning_rate * correction
        m, v, largest = state
        rates = (alpha, self.beta_1, self.beta_2, self.epsilon)
        ops.adam_step(param, grad, m, v, largest, *rates)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = ("beta_1", "beta_2", "epsilon", "amsgrad")
        return super().get_config() | {name: getattr(self, name) for name in own}


_CLASSES: tuple[type[Any], ...] = (SGD, RMSprop, Adam)


def get(identifier: str | Optimizer | type[Optimizer]) -> Optimizer:
    """Return the optimizer that a name (in any letter case), a class or an instance stands for.

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
    if not isinstance(identifier, str):
        raise TypeError(f"optimizer must be a name or an Optimizer, got {identifier!r}")
    for cls in _CLASSES:
        if identifier.lower() == cls.identifier:
            return cls()  # type: ignore[no-any-return]
    legal = ", ".join(cls.identifier for cls in _CLASSES)
    raise ValueError(f"optimizer must be one of {legal}, got {identifier!r}")


def _map(grad: Gradient, function: Any) -> Gradient:
    """Apply an elementwise function with f(0) = 0."""
    if isinstance(grad, ops.SparseRows):
        return ops.SparseRows(grad.ids, function(grad.rows), grad.shape)
    return function(grad)


def _norm(grads: Sequence[Gradient]) -> float:
    total = 0.0
    for grad in grads:
        values = grad.rows if isinstance(grad, ops.SparseRows) else grad
        total += float(np.sum(np.square(values, dtype=np.float64)))
    return math.sqrt(total)


def _scale_to(grad: Gradient, limit: float, norm: float) -> Gradient:
    """Scale down a gradient that is part of one of norm `norm`, so that this is `limit`."""
    if norm <= limit:
        return grad
    return _map(grad, lambda g: g * g.dtype.type(limit / norm))


def _not_negative(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not value >= 0:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    return float(value)


def _share(name: str, value: float) -> float:
    if not 0 <= _not_negative(name, value) <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value!r}")
    return float(value)
