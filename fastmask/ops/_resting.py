"""What is known, from one optimizer step to the next, of the rows that have no state yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from operator import is_
from threading import Lock

import numpy as np

from fastmask.ops._arrays import Array, Indices

UNKNOWN, AT_REST = -1, -2
"""Places of a row without a gradient: not known, or known, to have a state of zeros."""


class RestingRows:
    """Which rows of a parameter are at rest: their optimizer state is all zeros.

    A step with a gradient of :class:`~fastmask.ops.SparseRows` passes over rows that have neither gradient nor state.
    To find them it reads their state, unless it is given an object of this class in which an earlier step has left
    what it found. The result has the same bits. The object belongs to one parameter: it must be given to every step
    on its state, and told to `forget` after any other change of the state. It takes 8 bytes a row; a copy or pickle
    of it is empty. Steps at the same time, and a step that fails, leave nothing in it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._running = 0
        self._alone = True  # no other step, and no `forget`, since the running one began
        self._states: tuple[Array | None, ...] = ()
        self._places: Indices | None = None

    def forget(self) -> None:
        """Take no row to be at rest: the state has changed."""
        with self._lock:
            self._places, self._alone = None, False

    @contextmanager
    def step(self, states: tuple[Array | None, ...], ids: Indices, rows: int) -> Iterator[Indices]:
        """Give the places of :func:`new_places` to a step, which leaves `AT_REST` or `UNKNOWN` in all of them."""
        known = self._begin(states)
        found = None
        try:
            places = new_places(ids, rows, known)
            yield places
            found = places
        finally:
            self._end(found)

    def _begin(self, states: tuple[Array | None, ...]) -> Indices | None:
        with self._lock:
            self._running += 1
            self._alone = self._running == 1
            known, self._places = self._places, None
            earlier, self._states = self._states, states
        same = len(earlier) == len(states) and all(map(is_, earlier, states))
        return known if same else None

    def _end(self, found: Indices | None) -> None:
        with self._lock:
            self._running -= 1
            if self._alone:
                self._places = found

    def __reduce__(self) -> tuple[type[RestingRows], tuple[()]]:
        return type(self), ()


def new_places(ids: Indices, rows: int, known: Indices | None = None) -> Indices:
    """Where each row of a parameter finds its gradient among those of `ids`; negative if it has none.

    `known` is what the step before has left in its places; the array is used again.
    """
    places = np.full(rows, UNKNOWN, np.int64) if known is None or known.size != rows else known
    places[ids] = np.arange(ids.size)
    return places
