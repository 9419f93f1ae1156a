"""The base of the optimizers whose step is one compiled operation on all variables."""

from collections.abc import Callable, Sequence
from operator import is_
from typing import Any, ClassVar

from numpy.typing import NDArray

from fastmask import ops
from fastmask.layers.base.variable import Variable
from fastmask.optimizers.base import Optimizer, State
from fastmask.optimizers.gradients import Gradient

Array = NDArray[Any]


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
            return super()._checked(grads, variables, params)
        return self._program(variables, params).prepare(grads, self._rates(), self.lazy)

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

