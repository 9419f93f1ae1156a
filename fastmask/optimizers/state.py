"""The state of a variable, and what an optimizer knows of it from step to step."""

from collections.abc import Callable
from typing import Any, Self, TypeVar

from fastmask import ops
from fastmask.layers.base.variable import Variable

State = tuple[Any, ...]  # arrays like the parameter, None where a variant needs none
Method = TypeVar("Method", bound=Callable[..., Any])

_marked: list[Callable[..., Any]] = []


def keeps_state(method: Method) -> Method:
    """Mark a method that lets nobody else have the arrays of a `VariableState`.

    A marked `new_state` makes them and hands them to its caller only. A marked `step` changes them in one operation,
    to which it also gives their `resting_rows`. Methods that override these are not marked: what they do to the
    arrays, and when, cannot be known.
    """
    _marked.append(method)
    return method


def is_marked(method: Callable[..., Any]) -> bool:
    """Tell whether a method is marked by `keeps_state`."""
    function = getattr(method, "__func__", method)
    return function in _marked


class VariableState(tuple[Any, ...]):
    """A state that changes only in marked steps and through its slots, so that rows at rest stay known.

    It equals the tuple of the arrays. A pickle or deep copy knows nothing of the rows and has slots of its own.
    """

    def __init__(self, arrays: State) -> None:
        self._slots: dict[int, Variable] = {}
        self._versions: tuple[int | None, ...] = ()
        self._resting = ops.RestingRows()

    def slot(self, number: int, path: str) -> Variable:
        """Return the variable around an array, always the same: it tells of every change from outside."""
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots.setdefault(number, around(self[number], path))
        slot.name = slot.path = path
        return slot

    @property
    def resting(self) -> ops.RestingRows:
        """The rows at rest: none are known if a slot has changed since the last look or is being changed."""
        versions = tuple([slot.version for slot in list(self._slots.values())])
        if versions != self._versions or None in versions:
            self._resting.forget()
            self._versions = versions
        return self._resting

    def lent(self) -> State:
        """Return the arrays for changes of any kind."""
        self._resting.forget()
        return tuple(self)

    def __copy__(self) -> Self:
        return self  # of two on the same arrays, one would not learn of the other's steps

    def __reduce__(self) -> tuple[type[Self], tuple[State]]:
        return type(self), (tuple(self),)


def around(array: Any, path: str) -> Variable:
    """Return a variable around an array of a state."""
    return Variable.around(array, path, trainable=False)


def made_by(new_state: Callable[..., State], param: Any) -> State:
    """Return what a `new_state` makes for a parameter, as a `VariableState` if the method is marked."""
    state = new_state(param)
    return VariableState(state) if is_marked(new_state) else state


def given_to(step: Callable[..., None], state: State) -> State:
    """Return a state as a `step` may have it."""
    return state.lent() if isinstance(state, VariableState) and not is_marked(step) else state


def resting_rows(state: State) -> ops.RestingRows | None:
    """Return what is known of the rows of a state; None for a state of arrays that others may hold."""
    return state.resting if isinstance(state, VariableState) else None
