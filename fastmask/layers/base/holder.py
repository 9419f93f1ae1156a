"""What layers and models know of weights: making, listing, reading and writing them."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import numpy.typing as npt

from fastmask import initializers
from fastmask.core import budget
from fastmask.layers.base import checks
from fastmask.layers.base.checks import Array
from fastmask.layers.base.exchange import Exchanging
from fastmask.layers.base.variable import Variable, assign_all

AnyLayer = Any
"""A `Layer`, for modules that its own module imports."""


class WeightHolder(Exchanging):
    """Base of layers: own weights and those of the layers held.

    Parameters
    ----------
    trainable : bool, default True

    Attributes
    ----------
    may_hold : bool
        Whether there may be layers among the attributes. They are searched for them, unless the class overrides
        `sublayers`.
    """

    may_hold: ClassVar[bool] = False
    name: str
    dtype: Any
    built: bool

    def __init__(self, trainable: bool = True) -> None:
        self.parent_path = ""
        self._variables: list[Variable] = []
        self._trainable = bool(trainable)

    @property
    def sublayers(self) -> Mapping[str, "WeightHolder"]:
        """The layers that this one holds, by attribute name."""
        found: dict[str, WeightHolder] = {}
        if not self.may_hold:
            return found
        for name, value in vars(self).items():
            if isinstance(value, WeightHolder):
                found[name] = value
            elif isinstance(value, (list, tuple)):
                found |= {f"{name}_{i}": entry for i, entry in enumerate(value) if isinstance(entry, WeightHolder)}
        return found

    def add_weight(
        self,
        shape: tuple[int, ...],
        initializer: Any = None,
        name: str = "weight",
        trainable: bool = True,
        regularizer: Any = None,
        constraint: Any = None,
    ) -> Variable:
        """Create a weight.

        Parameters
        ----------
        shape : tuple of int
        initializer : str or callable, default "glorot_uniform"
        name : str
        trainable : bool, default True
        regularizer : callable, optional
            Gives a number that is added to the loss, and with its method ``gradient`` the gradient.
        constraint : callable, optional
            Gives the array that takes the weight's place after a step of training.

        Returns
        -------
        Variable
        """
        if budget.trusted():
            checks.require_memory(f"{name} of {describe(self)}", shape, self.dtype)
        path = f"{self.weight_path}/{name}"
        budget.take(len(path), "the names of weights")
        initialize = initializers.get(initializer) or initializers.GlorotUniform()
        value = checks.real_array(f"{name}_initializer", initialize(shape, self.dtype), self.dtype)
        if value.shape != shape:
            raise ValueError(f"{name}_initializer: expected values of shape {shape}, got {value.shape}")
        variable = Variable(value, name, trainable, path)
        variable.regularizer, variable.constraint = regularizer, constraint
        self._variables.append(variable)
        return variable

    @property
    def path(self) -> str:
        """Name with those of the enclosing wrappers and model in front."""
        return f"{self.parent_path}/{self.name}" if self.parent_path else self.name

    @property
    def weight_path(self) -> str:
        """What stands before the names of this layer's weights."""
        return self.path

    @property
    def weights(self) -> list[Variable]:
        """All weights, own ones first."""
        if not self.may_hold:
            return list(self._variables)
        return self._variables + [w for layer in self.sublayers.values() for w in layer.weights]

    @property
    def trainable_weights(self) -> list[Variable]:
        """The weights that training changes: none if the layer is not trainable."""
        if not self._trainable:
            return []
        if not self.may_hold:
            return [w for w in self._variables if w.trainable]
        inner = [w for layer in self.sublayers.values() for w in layer.trainable_weights]
        return [w for w in self._variables if w.trainable] + inner

    @property
    def non_trainable_weights(self) -> list[Variable]:
        """The weights that training leaves alone."""
        trained = {id(w) for w in self.trainable_weights}
        return [w for w in self.weights if id(w) not in trained]

    @property
    def trainable(self) -> bool:
        """Whether training changes the weights; setting it reaches wrapped layers too."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = bool(value)
        for layer in self.sublayers.values():
            layer.trainable = value

    def get_weights(self) -> list[Array]:
        """Return copies of all weights."""
        return [w.numpy() for w in self.weights]

    def set_weights(self, weights: Sequence[npt.ArrayLike]) -> None:
        """Overwrite all weights, or none if one does not fit.

        Raises
        ------
        ValueError
            If their number or a shape differs.
        TypeError
            If `weights` is no list, or one does not hold real numbers.
        """
        assign_all(self.weights, weights, describe(self), self.built)

    def count_params(self) -> int:
        """Return the number of entries of all weights."""
        return sum(prod(w.shape) for w in self.weights)

    @property
    def losses(self) -> list[float]:
        """What the regularizers of the trainable weights add to the loss."""
        return [float(w.regularizer(w.value)) for w in self.trainable_weights if w.regularizer is not None]

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has: all but the calls, which a model copies as those of its graph."""
        return vars(self) | {"nodes": []}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}, built={self.built}>"


def describe(layer: WeightHolder) -> str:
    """Return a layer's name and class for messages: ``layer 'lstm' (LSTM)``."""
    return f"layer {layer.name!r} ({type(layer).__name__})"
