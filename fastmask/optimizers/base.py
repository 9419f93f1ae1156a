"""The base of all optimizers: clipping, decay, learning rate, state; the formulas are in subclasses."""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmask import ops
from fastmask.layers.base.variable import Changing, Variable
from fastmask.optimizers import gradients, schedules
from fastmask.optimizers.gradients import Gradient, not_negative

Array = NDArray[Any]
State = tuple[Any, ...]  # arrays like the parameter, None where a variant needs none
Rate = float | schedules.LearningRateSchedule | Callable[[], float] | Mapping[str, Any]
_NEUTRAL = {
    "use_ema": (False, None),
    "ema_momentum": (0.99, None),
    "ema_overwrite_frequency": (None,),
    "loss_scale_factor": (None,),
    "gradient_accumulation_steps": (None,),
    "jit_compile": (True, False, None),
}


class LearningRate(float):
    """The learning rate of an optimizer, a number that can also be assigned to."""

    optimizer: "Optimizer"

    def assign(self, value: Any) -> None:
        """Set the rate of the optimizer; this number stays what it is."""
        self.optimizer.learning_rate = value

    def numpy(self) -> Any:
        """Return the number as one of NumPy."""
        return np.float64(self)

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        return float, (float(self),)


class Optimizer:
    """Base of all optimizers.

    Parameters
    ----------
    learning_rate : float, LearningRateSchedule or callable
        Greater than or equal to 0; may be set at any time, as ``optimizer.learning_rate`` or by its method
        ``assign``, unless it is a schedule, which gives the rate of each step. A callable takes nothing and returns
        the rate. A dict is a serialized schedule.
    weight_decay : float, optional
        Every step first multiplies the weights by ``1 - learning_rate * weight_decay``.
    clipnorm : float, optional
        Largest Euclidean norm of the gradient of one variable.
    clipvalue : float, optional
        Largest absolute value in a gradient.
    global_clipnorm : float, optional
        Largest Euclidean norm of all gradients together.
    name : str, optional
    **kwargs
        Other arguments of Keras's optimizers, which must have the value that turns them off.

    Raises
    ------
    ValueError
        If a number is negative, more than one kind of clipping is asked for, or an argument is
        unknown or not supported.
    """

    identifier = "optimizer"
    slots: tuple[tuple[str, ...], ...] = ()
    """Names of the state's arrays, in groups that Keras keeps interleaved by variable."""

    def __init__(
        self,
        learning_rate: Rate,
        *,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        _check_neutral(kwargs)
        self._iteration = Variable(np.zeros((), np.int64), "iteration", trainable=False)
        self._fixed_rate = Variable(np.zeros(()), "learning_rate", trainable=False)
        self._schedule: Callable[..., float] | None = None
        self.learning_rate = learning_rate
        clips = {"clipnorm": clipnorm, "clipvalue": clipvalue, "global_clipnorm": global_clipnorm}
        if sum(value is not None for value in clips.values()) > 1:
            raise ValueError(f"{', '.join(clips)}: expected at most one of them, got {tuple(clips.values())}")
        for key, value in {"weight_decay": weight_decay, **clips}.items():
            if value is not None:
                not_negative(key, value)
        self.weight_decay = weight_decay
        self.clipnorm = clipnorm
        self.clipvalue = clipvalue
        self.global_clipnorm = global_clipnorm
        self.name = name or self.identifier
        self.rate = 0.0
        self._states: dict[Variable, State] = {}
        self._undecayed: set[int] = set()
        self._undecayed_names: list[str] = []

    @property
    def iterations(self) -> int:
        """Number of steps made."""
        return int(self._iteration.value)

    @iterations.setter
    def iterations(self, value: int) -> None:
        self._iteration.assign(value)

    @property
    def learning_rate(self) -> Any:
        """Size of the next step, a `LearningRate`; setting a schedule or a callable replaces it for good."""
        rate = LearningRate(self._rate())
        rate.optimizer = self
        return rate

    @learning_rate.setter
    def learning_rate(self, value: Rate) -> None:
        if isinstance(value, Mapping):
            value = schedules.deserialize(value)
        if callable(value):
            self._schedule = value
        elif isinstance(self._schedule, schedules.LearningRateSchedule):
            raise TypeError(
                "learning_rate cannot be set to a number, because the optimizer has a schedule "
                f"({type(self._schedule).__name__}); give it a number to begin with"
            )
        else:
            self._fixed_rate.assign(not_negative("learning_rate", value))
            self._schedule = None

    def _rate(self) -> float:
        if isinstance(self._schedule, schedules.LearningRateSchedule):
            return float(self._schedule(self.iterations))
        return float(self._fixed_rate.value if self._schedule is None else self._schedule())

    @property
    def variables(self) -> list[Variable]:
        """What training changes here, in Keras's order: iteration, learning rate, state."""
        fixed = [self._iteration, *([self._fixed_rate] if self._schedule is None else [])]
        found, start = [], 0
        for group in self.slots:
            for variable in self._states:
                slots = (self._slot(variable, number, name) for number, name in enumerate(group, start))
                found += [slot for slot in slots if slot is not None]
            start += len(group)
        return [*fixed, *found, *self.shared]

    @property
    def shared(self) -> list[Variable]:
        """State that belongs to no single variable."""
        return []

    def build(self, variables: Iterable[Variable]) -> None:
        """Make the state of variables now rather than in the first step."""
        for variable in variables:
            self._state(variable)

    def exclude_from_weight_decay(
        self, var_list: Iterable[Variable] | None = None, var_names: Iterable[str] | None = None
    ) -> None:
        """Leave variables out of the weight decay.

        Parameters
        ----------
        var_list : iterable of Variable, optional
        var_names : iterable of str, optional
            Regular expressions; a variable is left out if one is found in its name.
        """
        self._undecayed = {id(variable) for variable in var_list or ()}
        self._undecayed_names = list(var_names or ())

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Gradient, Variable]]) -> None:
        """Make one step on pairs of gradient and variable."""
        pairs = list(grads_and_vars)
        self.apply([grad for grad, _ in pairs], [variable for _, variable in pairs])

    def apply(self, grads: Sequence[Gradient], variables: Sequence[Variable]) -> None:
        """Make one step; the values of the variables change in place.

        Gradients are clipped, weights decay, the gradients change them, and then each variable takes what its
        constraint makes of it.

        Parameters
        ----------
        grads : sequence of ndarray or SparseRows
            One gradient per variable, of its shape and dtype; None leaves a variable alone.
        variables : sequence of Variable
        """
        if len(grads) != len(variables):
            raise ValueError(
                f"grads: expected one entry per variable, got {len(grads)} for {len(variables)}"
            )
        pairs = [pair for pair in zip(grads, variables, strict=True) if pair[0] is not None]
        changing = [variable for _, variable in pairs]
        clipped = self._clip([grad for grad, _ in pairs])
        self.rate = self._rate()
        for variable in changing:
            if variable not in self._states:
                self._state(variable)
        with Changing([*changing, self._iteration]) as (*params, iteration):
            update = self._checked(clipped, changing, params)
            if self.weight_decay:
                for variable, param in zip(changing, params, strict=True):
                    if self._decays(variable):
                        param *= param.dtype.type(1 - self.rate * self.weight_decay)
            update()
            for variable, param in zip(changing, params, strict=True):
                if variable.constraint is not None:
                    param[...] = variable.constraint(param)
            iteration += 1

    def _checked(
        self, grads: Sequence[Gradient], variables: Sequence[Variable], params: Sequence[Array]
    ) -> Callable[[], None]:
        """Return the update of some parameters by their gradients, after all checks that it can make beforehand."""
        return partial(self._update, grads, variables, params)

    def _update(self, grads: Sequence[Gradient], variables: Sequence[Variable], params: Sequence[Array]) -> None:
        for grad, variable, param in zip(grads, variables, params, strict=True):
            self.step(param, grad, self._states[variable])

    def step(self, param: Array, grad: Gradient, state: State) -> None:
        """Update `param` and its `state` in place, with step size ``self.rate``."""
        raise NotImplementedError(f"{type(self).__name__} must override step")

    def new_state(self, param: Array) -> State:
        """Return the state that belongs to a variable of the shape of `param` at the start."""
        return ()

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "name": self.name,
            "learning_rate": self._rate_config(),
            "weight_decay": self.weight_decay,
            "clipnorm": self.clipnorm,
            "clipvalue": self.clipvalue,
            "global_clipnorm": self.global_clipnorm,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Optimizer":
        """Return an optimizer with the arguments that `get_config` returned."""
        return cls(**config)

    def _state(self, variable: Variable) -> State:
        if variable not in self._states:
            self._states[variable] = self.new_state(variable.value)
        return self._states[variable]

    def _slot(self, variable: Variable, number: int, name: str) -> Variable | None:
        """Return a variable around an array of the state; None if there is no such array."""
        state = self._state(variable)
        if number >= len(state) or state[number] is None:
            return None
        path = f"{variable.path.replace('/', '_')}_{name}"
        return Variable.around(state[number], path, trainable=False)

    def _decays(self, variable: Variable) -> bool:
        named = any(re.search(pattern, variable.name) for pattern in self._undecayed_names)
        return not named and id(variable) not in self._undecayed

    def _rate_config(self) -> Any:
        if isinstance(self._schedule, schedules.LearningRateSchedule):
            return schedules.serialize(self._schedule)
        return self._rate()

    def _clip(self, grads: Sequence[Gradient]) -> Sequence[Gradient]:
        if self.clipnorm:
            limit = self.clipnorm
            return [gradients.scale_to(grad, limit, gradients.norm([grad])) for grad in grads]
        if self.global_clipnorm:
            norm = gradients.norm(grads)
            norm = norm if np.isfinite(norm) else float("nan")
            return [gradients.scale_to(grad, self.global_clipnorm, norm) for grad in grads]
        if self.clipvalue:
            return [gradients.clipped(grad, self.clipvalue) for grad in grads]
        return grads


def dense(grad: Gradient) -> Array:
    """Return a gradient as an array of the shape of the variable."""
    return np.asarray(grad.dense() if isinstance(grad, ops.SparseRows) else grad)


def _check_neutral(arguments: dict[str, Any]) -> None:
    if arguments.pop("decay", None):
        warnings.warn("decay is ignored, as in Keras 3: use a schedule", stacklevel=4)
    for name, value in arguments.items():
        if name not in _NEUTRAL:
            raise ValueError(f"{name} is no argument of an optimizer")
        if value not in _NEUTRAL[name] and name != "ema_momentum":
            raise ValueError(f"{name}: expected {_NEUTRAL[name][0]!r}, since nothing else is supported, got {value!r}")
