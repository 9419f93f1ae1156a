"""The base of the optimizers whose step is one compiled operation on all variables."""

from collections.abc import Callable, Sequence
from operator import is_
from typing import Any, ClassVar
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from fastmask import ops
from fastmask.layers.base.variable import Variable
from fastmask.optimizers.base import Optimizer, State
from fastmask.optimizers.gradients import Gradient

Array = NDArray[Any]


class _Resting:
    """Which rows of embeddings are known to have states of zeros.

    A shallow copy of an optimizer has its states, and shares this; other copies begin with nothing known.

    Attributes
    ----------
    rows : dict
        Of variables the state that is meant, and for each row whether it is known.
    lent : WeakSet of Variable
        What is around an array of a state and may write to it at any time.
    """

    def __init__(self) -> None:
        self.rows: dict[Variable, tuple[State, Array]] = {}
        self.lent: WeakSet[Variable] = WeakSet()

    def __reduce__(self) -> tuple[type["_Resting"], tuple[()]]:
        return type(self), ()

    def of(self, variable: Variable, state: State, grad: Gradient) -> Array | None:
        """Return what is known of the rows of a variable, for a step to keep up to date; None before a sparse one."""
        meant, rows = self.rows.get(variable, (None, None))
        if meant is state:
            return rows
        if not isinstance(grad, ops.SparseRows):
            return None
        rows = np.zeros(variable.shape[:1], np.uint8)
        self.rows[variable] = state, rows
        return rows


class Compiled(Optimizer):
    """Base of the optimizers with a rule among those of `ops.UpdateProgram`.

    The program of a step is kept for the steps after it, as long as they change the same arrays.

    Attributes
    ----------
    rule : str
    lazy : bool
        Whether only the rows of an embedding that have a gradient change.
    """

    rule: ClassVar[str]
    lazy: ClassVar[bool] = False
    _prepared: tuple[Sequence[Array | None], ops.UpdateProgram | None] = ([], None)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._resting = _Resting()

    def _rates(self) -> tuple[float, ...]:
        """Return the numbers of the next step that the rule asks for."""
        raise NotImplementedError

    def step(self, param: Array, grad: Gradient, state: State) -> None:
        """Update `param` and its state in place."""
        ops.UpdateProgram(self.rule, [(param, *state)]).prepare([grad], self._rates(), self.lazy)()

    def _checked(
        self, grads: Sequence[Gradient], variables: Sequence[Variable], params: Sequence[Array]
    ) -> Callable[[], None]:
        overridden = getattr(self.step, "__func__", None) is not Compiled.step
        if overridden or len(set(variables)) < len(variables):
            self._resting.rows.clear()
            return super()._checked(grads, variables, params)
        resting = self._known(grads, variables)
        return self._program(variables, params).prepare(grads, self._rates(), self.lazy, resting)

    def _known(self, grads: Sequence[Gradient], variables: Sequence[Variable]) -> Sequence[Array | None] | None:
        # A class of the user's may keep what its `new_state` made.
        if self._resting.lent or not type(self).__module__.startswith("fastmask."):
            return None
        pairs = zip(grads, variables, strict=True)
        return [self._resting.of(variable, self._states[variable], grad) for grad, variable in pairs]

    def _slot(self, variable: Variable, number: int, name: str) -> Variable | None:
        slot = super()._slot(variable, number, name)
        if slot is not None:
            self._resting.rows.clear()
            self._resting.lent.add(slot)
        return slot

    def _program(self, variables: Sequence[Variable], params: Sequence[Array]) -> ops.UpdateProgram:
        parts = [(param, *self._states[variable]) for variable, param in zip(variables, params, strict=True)]
        arrays = [array for part in parts for array in part]
        known, program = self._prepared
        if program is None or len(known) != len(arrays) or not all(map(is_, known, arrays)):
            program = ops.UpdateProgram(self.rule, parts)
            self._prepared = arrays, program
        return program

    def __getstate__(self) -> dict[str, Any]:
        return {name: entry for name, entry in vars(self).items() if name != "_prepared"}

