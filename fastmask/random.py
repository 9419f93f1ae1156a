"""Random numbers: one seed for a whole run, and one independent stream per layer or initializer.

Every object that needs random numbers and is given no seed draws one from the global stream when it
is created, so ``set_random_seed`` before making a model makes weights, dropout and shuffling
reproducible.
"""

import random as _python_random
from collections.abc import Mapping
from operator import index
from typing import Any

import numpy as np

_global: list[np.random.Generator] = []


def set_random_seed(seed: int) -> None:
    """Seed fastmask, NumPy's legacy global generator and Python's ``random``.

    Parameters
    ----------
    seed : int
        From 0 to 2**32 - 1.

    Raises
    ------
    TypeError
        If `seed` is not an integer.
    ValueError
        If `seed` is out of range.
    """
    seed = check_seed(seed)
    if seed >= 2**32:
        raise ValueError(f"seed: expected a number below 2**32, got {seed}")
    _python_random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (for code of the user that draws from it)
    _global[:] = [np.random.default_rng(seed)]


def global_generator() -> np.random.Generator:
    """Return the generator that unseeded objects and data shuffling draw from."""
    if not _global:
        _global.append(np.random.default_rng())
    return _global[0]


def get_state() -> dict[str, Any]:
    """Return the states of the three generators that `set_random_seed` seeds, in numbers and arrays."""
    return {
        "fastmask": global_generator().bit_generator.state,
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
        "python": _python_random.getstate(),
    }


def set_state(state: Mapping[str, Any]) -> None:
    """Put three generators back into the states that `get_state` returned."""
    global_generator().bit_generator.state = state["fastmask"]
    np.random.set_state(state["numpy"])  # noqa: NPY002
    version, words, spare = state["python"]
    _python_random.setstate((version, tuple(words), spare))


def check_state(state: Mapping[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError unless `set_state` takes a state."""
    before = get_state()
    try:
        set_state(state)
    finally:
        set_state(before)


def make_seed() -> int:
    """Draw a seed from the global generator."""
    return int(global_generator().integers(2**31))


def check_seed(seed: object) -> int:
    """Return `seed` as an int; TypeError for anything but an integer, ValueError below zero."""
    try:
        number = index(seed)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"seed: expected an integer, got {seed!r}") from None
    if isinstance(seed, bool) or number < 0:
        raise ValueError(f"seed: expected an integer of at least 0, got {seed!r}")
    return number


class SeedGenerator:
    """A stream of random numbers.

    Parameters
    ----------
    seed : int, optional
        Start of the stream; drawn from the global generator when left out.

    Attributes
    ----------
    generator : numpy.random.Generator
        Moves on with every draw.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.initial_seed = make_seed() if seed is None else check_seed(seed)
        self.reset()

    def reset(self) -> None:
        """Go back to the start of the stream."""
        self.generator = np.random.default_rng(self.initial_seed)

    def next(self) -> int:
        """Return the next seed of the stream."""
        return int(self.generator.integers(2**31))


def as_generator(seed: "int | SeedGenerator | None") -> SeedGenerator:
    """Return `seed` itself if it is a `SeedGenerator`, else a new one started from it."""
    return seed if isinstance(seed, SeedGenerator) else SeedGenerator(seed)
