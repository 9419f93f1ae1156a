"""Weight initializers: Keras's names, arguments, defaults and distributions.

An initializer is called with a shape and a dtype and returns an array. One instance returns the
same values at every call, as in Keras 3: its seed is fixed when it is created. To get fresh values
from one instance, pass a `fastmask.random.SeedGenerator` as its seed.
"""

from collections.abc import Callable, Mapping
from inspect import isclass
from math import prod, sqrt
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fastmask.config import floatx
from fastmask.core import budget
from fastmask.core.objects import Configured, Registry, arguments, in_snake_case
from fastmask.random import SeedGenerator, check_seed, make_seed

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Seed = int | SeedGenerator | None

# Standard deviation of a unit normal cut off at two deviations.
_TRUNCATED_DEVIATION = 0.87962566103423978
# How many numbers are drawn at a time.
_PART = 2**18
_AXES = ("input_axes", "output_axes")


class Initializer(Configured):
    """Base of all initializers."""

    def __call__(self, shape: Shape, dtype: npt.DTypeLike | None = None) -> Array:
        """Return an array of the given shape; dtype defaults to `fastmask.config.floatx`."""
        if not budget.trusted():
            return budget.placeholder(tuple(shape), dtype or floatx())
        return self._made(tuple(shape), np.dtype(dtype or floatx()))

    def _made(self, shape: Shape, dtype: np.dtype[Any]) -> Array:
        return np.asarray(self._values(shape), dtype)

    def _values(self, shape: Shape) -> Array:
        raise NotImplementedError(f"{type(self).__name__} does not define _values(shape)")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return arguments(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return a new initializer with the arguments in `config`.

        An old ``dtype`` is dropped, and so are the ``input_axes`` and ``output_axes`` that Keras writes
        since 3.15; ValueError unless those are None.
        """
        for name in _AXES:
            if config.get(name) is not None:
                raise ValueError(f"{name}: expected None, got {config[name]!r}")
        return super().from_config({name: value for name, value in config.items() if name not in ("dtype", *_AXES)})


class Zeros(Initializer):
    """All zeros."""

    def _made(self, shape: Shape, dtype: np.dtype[Any]) -> Array:
        return np.zeros(shape, dtype)


class Ones(Initializer):
    """All ones."""

    def _made(self, shape: Shape, dtype: np.dtype[Any]) -> Array:
        return np.ones(shape, dtype)


class Constant(Initializer):
    """One value everywhere, 0.0 by default; an array is broadcast to the shape."""

    def __init__(self, value: Any = 0.0) -> None:
        self.value = value

    def _values(self, shape: Shape) -> Array:
        return np.array(np.broadcast_to(self.value, shape))


class Identity(Initializer):
    """The identity matrix times `gain`; matrices only."""

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain

    def _values(self, shape: Shape) -> Array:
        if len(shape) != 2:
            raise ValueError(f"shape: expected 2 axes for Identity, got {shape}")
        return self.gain * np.eye(*shape)


class RandomInitializer(Initializer):
    """Base of the random initializers; holds the seed.

    Parameters
    ----------
    seed : int or SeedGenerator, optional
        Left out, a seed is drawn from the global generator now.
    """

    def __init__(self, seed: Seed = None) -> None:
        self.seed = seed
        if not isinstance(seed, SeedGenerator):
            self._start = make_seed() if seed is None else check_seed(seed)

    def _generator(self) -> np.random.Generator:
        if isinstance(self.seed, SeedGenerator):
            return self.seed.generator
        return np.random.default_rng(self._start)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        if isinstance(self.seed, SeedGenerator):
            config["seed"] = self.seed.initial_seed
        return config


class RandomUniform(RandomInitializer):
    """Uniform in [minval, maxval), by default [-0.05, 0.05)."""

    def __init__(self, minval: float = -0.05, maxval: float = 0.05, seed: Seed = None) -> None:
        super().__init__(seed)
        self.minval, self.maxval = minval, maxval

    def _made(self, shape: Shape, dtype: np.dtype[Any]) -> Array:
        generator = self._generator()
        return _drawn(lambda n: generator.uniform(self.minval, self.maxval, n), shape, dtype)


class RandomNormal(RandomInitializer):
    """Normal with the given mean and deviation, by default 0.0 and 0.05."""

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: Seed = None) -> None:
        super().__init__(seed)
        self.mean, self.stddev = mean, stddev

    def _made(self, shape: Shape, dtype: np.dtype[Any]) -> Array:
        generator = self._generator()
        return _drawn(lambda n: generator.normal(self.mean, self.stddev, n), shape, dtype)


class TruncatedNormal(RandomNormal):
    """Normal without the values further than two deviations from the mean."""

    def _made(self, shape: Shape, dtype: np.dtype[Any]) -> Array:
        return np.asarray(self.mean + self.stddev * _truncated(self._generator(), shape), dtype)


class VarianceScaling(RandomInitializer):
    """Variance `scale` / fan, where the fan counts the units on one or both sides of the weight.

    Parameters
    ----------
    scale : float, default 1.0
    mode : {"fan_in", "fan_out", "fan_avg"}
    distribution : {"truncated_normal", "untruncated_normal", "uniform"}
    seed : int or SeedGenerator, optional

    Raises
    ------
    ValueError
        For a scale not above zero, or another mode or distribution.
    """

    _MODES = ("fan_in", "fan_out", "fan_avg")
    _DISTRIBUTIONS = ("truncated_normal", "untruncated_normal", "uniform")

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: Seed = None,
    ) -> None:
        super().__init__(seed)
        if not scale > 0:
            raise ValueError(f"scale: expected a number greater than 0, got {scale!r}")
        distribution = "truncated_normal" if distribution == "normal" else distribution
        if mode not in self._MODES:
            raise ValueError(f"mode: expected one of {self._MODES}, got {mode!r}")
        if distribution not in self._DISTRIBUTIONS:
            raise ValueError(f"distribution: expected one of {self._DISTRIBUTIONS}, got {distribution!r}")
        self.scale, self.mode, self.distribution = scale, mode, distribution

    def _made(self, shape: Shape, dtype: np.dtype[Any]) -> Array:
        fan_in, fan_out = compute_fans(shape)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        deviation = sqrt(self.scale / max(1.0, fan))
        generator = self._generator()
        if self.distribution == "uniform":
            limit = sqrt(3.0) * deviation
            return _drawn(lambda n: generator.uniform(-limit, limit, n), shape, dtype)
        if self.distribution == "untruncated_normal":
            return _drawn(lambda n: generator.normal(0.0, deviation, n), shape, dtype)
        return np.asarray(deviation / _TRUNCATED_DEVIATION * _truncated(generator, shape), dtype)


class _Scaled(VarianceScaling):
    """A `VarianceScaling` with its three choices made by the class."""

    _choices: tuple[float, str, str]

    def __init__(self, seed: Seed = None) -> None:
        super().__init__(*self._choices, seed=seed)


class GlorotUniform(_Scaled):
    """Uniform with limit sqrt(6 / (fan_in + fan_out))."""

    _choices = (1.0, "fan_avg", "uniform")


class GlorotNormal(_Scaled):
    """Truncated normal with variance 2 / (fan_in + fan_out)."""

    _choices = (1.0, "fan_avg", "truncated_normal")


class HeUniform(_Scaled):
    """Uniform with limit sqrt(6 / fan_in)."""

    _choices = (2.0, "fan_in", "uniform")


class HeNormal(_Scaled):
    """Truncated normal with variance 2 / fan_in."""

    _choices = (2.0, "fan_in", "truncated_normal")


class LecunUniform(_Scaled):
    """Uniform with limit sqrt(3 / fan_in)."""

    _choices = (1.0, "fan_in", "uniform")


class LecunNormal(_Scaled):
    """Truncated normal with variance 1 / fan_in."""

    _choices = (1.0, "fan_in", "truncated_normal")


class Orthogonal(RandomInitializer):
    """A random matrix with orthonormal rows or columns, whichever are fewer, times `gain`.

    Of a shape with more than two axes all but the last count as rows.
    """

    def __init__(self, gain: float = 1.0, seed: Seed = None) -> None:
        super().__init__(seed)
        self.gain = gain

    def _values(self, shape: Shape) -> Array:
        if len(shape) < 2:
            raise ValueError(f"shape: expected at least 2 axes for Orthogonal, got {shape}")
        rows, columns = prod(shape[:-1]), shape[-1]
        normal = self._generator().normal(size=(max(rows, columns), min(rows, columns)))
        q, r = np.linalg.qr(normal)
        q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
        return self.gain * (q if rows >= columns else q.T).reshape(shape)


def compute_fans(shape: Shape) -> tuple[float, float]:
    """Return (fan_in, fan_out) of a weight: the last two axes times the size of all others."""
    if len(shape) < 2:
        size = float(prod(shape))
        return size, size
    receptive = prod(shape[:-2])
    return float(receptive * shape[-2]), float(receptive * shape[-1])


def _drawn(draw: Callable[[int], Array], shape: Shape, dtype: np.dtype[Any]) -> Array:
    """Return numbers drawn in float64, a part at a time: all at once would take three times the memory of float32."""
    values = np.empty(prod(shape), dtype)
    for start in range(0, values.size, _PART):
        part = values[start : start + _PART]
        part[:] = draw(part.size)
    return values.reshape(shape)


def _truncated(generator: np.random.Generator, shape: Shape) -> Array:
    """Draw a unit normal, replacing whatever lies further than two deviations out."""
    values = generator.normal(size=prod(shape))
    far = np.flatnonzero(np.abs(values) > 2)
    while far.size:
        values[far] = generator.normal(size=far.size)
        far = far[np.abs(values[far]) > 2]
    return values.reshape(shape)


_CLASSES: tuple[type[Initializer], ...] = (
    Zeros, Ones, Constant, Identity, RandomUniform, RandomNormal, TruncatedNormal, VarianceScaling,
    GlorotUniform, GlorotNormal, HeUniform, HeNormal, LecunUniform, LecunNormal, Orthogonal,
)  # fmt: skip
_ALIASES: dict[str, type[Initializer]] = {
    "zero": Zeros,
    "one": Ones,
    "uniform": RandomUniform,
    "normal": RandomNormal,
    "identityinitializer": Identity,
    "orthogonalinitializer": Orthogonal,
}
REGISTRY = Registry(
    "initializer", Initializer, "keras.initializers", in_snake_case(_CLASSES), _ALIASES,
    takes="a name, a config, a callable or None", from_function=lambda found: found() if isclass(found) else found,
)  # fmt: skip


def get(identifier: Any) -> Callable[..., Array] | None:
    """Return the initializer that `identifier` stands for.

    Parameters
    ----------
    identifier : str, dict, class, callable or None
        A name such as ``"glorot_uniform"`` or ``"GlorotUniform"`` in any letter case, a config as
        `serialize` returns (or Keras writes), an initializer or any callable ``f(shape, dtype)``. None gives None.

    Raises
    ------
    ValueError
        For an unknown name.
    TypeError
        For any other type.
    """
    return None if identifier is None else REGISTRY.get(identifier)


def serialize(initializer: Callable[..., Array] | None) -> Any:
    """Return the config of an initializer in the form Keras writes; None for None.

    Raises
    ------
    TypeError
        For a callable that is not an `Initializer`: it has no config.
    """
    return None if initializer is None else REGISTRY.serialize(initializer)
