"""Properties that are computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class stored_property(Generic[Value]):  # noqa: N801
    """A property that is computed at its first use and then kept in the instance.

    Unlike ``functools.cached_property`` of Python 3.11 it holds no lock, which a process forked meanwhile would find
    locked for ever. Threads that come at once may each compute it.
    """

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self.compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Value:
        value = self.compute(instance)
        instance.__dict__[self.name] = value
        return value
