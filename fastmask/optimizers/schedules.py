"""Learning rates that depend on the number of steps made."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastmask.core import objects


class LearningRateSchedule:
    """Base of all schedules; one of your own overrides `__call__` and `get_config`."""

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        raise NotImplementedError(f"{type(self).__name__} must override __call__")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        raise NotImplementedError(f"{type(self).__name__} must override get_config")

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LearningRateSchedule":
        """Return a schedule with the arguments that `get_config` returned."""
        return cls(**config)


class _Decay(LearningRateSchedule):
    """Base of the schedules whose arguments are attributes of the same names."""

    arguments: tuple[str, ...] = ()

    def __init__(self, initial_learning_rate: float, decay_steps: float, name: str) -> None:
        if not decay_steps > 0:
            raise ValueError(f"decay_steps: expected a number greater than 0, got {decay_steps}")
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = decay_steps
        self.name = name

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        names = ("initial_learning_rate", "decay_steps", *self.arguments, "name")
        return {name: getattr(self, name) for name in names}


class ExponentialDecay(_Decay):
    """``initial_learning_rate * decay_rate ** (step / decay_steps)``.

    Parameters
    ----------
    initial_learning_rate : float
    decay_steps : int
    decay_rate : float
    staircase : bool, default False
        Whether the quotient is rounded down.
    name : str, default "ExponentialDecay"
    """

    arguments = ("decay_rate", "staircase")

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        decay_rate: float,
        staircase: bool = False,
        name: str = "ExponentialDecay",
    ) -> None:
        super().__init__(initial_learning_rate, decay_steps, name)
        self.decay_rate = decay_rate
        self.staircase = staircase

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        return float(self.initial_learning_rate * self.decay_rate ** self._passed(step))

    def _passed(self, step: int) -> float:
        passed = step / self.decay_steps
        return math.floor(passed) if self.staircase else passed


class InverseTimeDecay(ExponentialDecay):
    """``initial_learning_rate / (1 + decay_rate * step / decay_steps)``.

    Parameters
    ----------
    initial_learning_rate, decay_steps, decay_rate, staircase
        As in `ExponentialDecay`.
    name : str, default "InverseTimeDecay"
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        decay_rate: float,
        staircase: bool = False,
        name: str = "InverseTimeDecay",
    ) -> None:
        super().__init__(initial_learning_rate, decay_steps, decay_rate, staircase, name)

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        return self.initial_learning_rate / (1 + self.decay_rate * self._passed(step))


class PolynomialDecay(_Decay):
    """From one learning rate to another along ``(1 - step / decay_steps) ** power``.

    Parameters
    ----------
    initial_learning_rate : float
    decay_steps : int
    end_learning_rate : float, default 0.0001
    power : float, default 1.0
    cycle : bool, default False
        Whether `decay_steps` is multiplied, once it is passed, to the next multiple above the
        step; otherwise the learning rate stays at its end.
    name : str, default "PolynomialDecay"
    """

    arguments = ("end_learning_rate", "power", "cycle")

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
        name: str = "PolynomialDecay",
    ) -> None:
        super().__init__(initial_learning_rate, decay_steps, name)
        self.end_learning_rate = end_learning_rate
        self.power = power
        self.cycle = cycle

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        length = self.decay_steps
        if self.cycle:
            length *= max(math.ceil(step / length), 1)
        left = 1 - min(step / length, 1.0)
        way = self.initial_learning_rate - self.end_learning_rate
        return float(way * left**self.power + self.end_learning_rate)


class CosineDecay(_Decay):
    """Half a cosine from the first learning rate to `alpha` times it, after a linear warm-up.

    Parameters
    ----------
    initial_learning_rate : float
    decay_steps : int
        Without those of the warm-up.
    alpha : float, default 0.0
        Share of the learning rate that is left.
    name : str, default "CosineDecay"
    warmup_target : float, optional
        Where the warm-up leads and the decay begins; without it there is no warm-up.
    warmup_steps : int, default 0
    """

    arguments = ("alpha", "warmup_target", "warmup_steps")

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        alpha: float = 0.0,
        name: str = "CosineDecay",
        warmup_target: float | None = None,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__(initial_learning_rate, decay_steps, name)
        self.alpha = alpha
        self.warmup_target = warmup_target
        self.warmup_steps = warmup_steps

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        start, top = self.initial_learning_rate, self.warmup_target
        if top is None:
            top = start
        elif step < self.warmup_steps:
            return start + (top - start) * step / self.warmup_steps
        else:
            step -= self.warmup_steps
        cosine = (1 + math.cos(math.pi * min(step / self.decay_steps, 1.0))) / 2
        return top * ((1 - self.alpha) * cosine + self.alpha)


class CosineDecayRestarts(LearningRateSchedule):
    """Half cosines one after the other, each longer and lower than the one before.

    Parameters
    ----------
    initial_learning_rate : float
    first_decay_steps : int
    t_mul : float, default 2.0
        Length of a cosine over that of the one before.
    m_mul : float, default 1.0
        Height of a cosine over that of the one before.
    alpha : float, default 0.0
        Share of the learning rate that is left.
    name : str, default "SGDRDecay"
    """

    def __init__(
        self,
        initial_learning_rate: float,
        first_decay_steps: float,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        alpha: float = 0.0,
        name: str = "SGDRDecay",
    ) -> None:
        if not first_decay_steps > 0:
            raise ValueError(f"first_decay_steps: expected a number greater than 0, got {first_decay_steps}")
        self.initial_learning_rate = initial_learning_rate
        self.first_decay_steps = first_decay_steps
        self.t_mul = t_mul
        self.m_mul = m_mul
        self.alpha = alpha
        self.name = name

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        passed, grown = step / self.first_decay_steps, self.t_mul
        if grown == 1:
            restarts = math.floor(passed)
            passed -= restarts
        else:
            restarts = math.floor(math.log(1 - passed * (1 - grown)) / math.log(grown))
            passed = (passed - (1 - grown**restarts) / (1 - grown)) / grown**restarts
        cosine = self.m_mul**restarts * (1 + math.cos(math.pi * passed)) / 2
        return float(self.initial_learning_rate * ((1 - self.alpha) * cosine + self.alpha))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        names = ("initial_learning_rate", "first_decay_steps", "t_mul", "m_mul", "alpha", "name")
        return {name: getattr(self, name) for name in names}


class PiecewiseConstantDecay(LearningRateSchedule):
    """A learning rate for each stretch of steps.

    Parameters
    ----------
    boundaries : sequence of int
        Last steps of all stretches but the last.
    values : sequence of float
        One more than there are boundaries.
    name : str, default "PiecewiseConstant"
    """

    def __init__(
        self, boundaries: Sequence[int], values: Sequence[float], name: str = "PiecewiseConstant"
    ) -> None:
        if len(boundaries) != len(values) - 1:
            raise ValueError(
                "values: expected one entry more than boundaries, got "
                f"{len(values)} and {len(boundaries)}"
            )
        self.boundaries = list(boundaries)
        self.values = list(values)
        self.name = name

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        return self.values[sum(step > boundary for boundary in self.boundaries)]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"boundaries": self.boundaries, "values": self.values, "name": self.name}


_CLASSES: tuple[type[LearningRateSchedule], ...] = (
    CosineDecay,
    CosineDecayRestarts,
    ExponentialDecay,
    InverseTimeDecay,
    PiecewiseConstantDecay,
    PolynomialDecay,
)


def serialize(learning_rate_schedule: LearningRateSchedule) -> dict[str, Any]:
    """Return the class name and config of a schedule."""
    return objects.serialize(learning_rate_schedule, "keras.optimizers.schedules")


def deserialize(
    config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
) -> LearningRateSchedule:
    """Return a schedule from what `serialize` returned; ValueError if there is no such class."""
    classes = {cls.__name__: cls for cls in _CLASSES}
    found = objects.deserialize(config, classes, custom_objects, "schedule")
    if not isinstance(found, LearningRateSchedule):
        raise TypeError(f"schedule: expected a LearningRateSchedule, got {found!r}")
    return found
