"""Weights of layers under the names and in the forms that modules of torch.nn have for them; PyTorch is not needed."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from fastmask.core.arguments import check_shape
from fastmask.layers.base import checks
from fastmask.layers.base.checks import Array
from fastmask.layers.base.variable import Variable, fill

_NOT_READ = "num_batches_tracked"


def _same(arrays: Sequence[Array]) -> Sequence[Array]:
    return arrays


class TorchForm(NamedTuple):
    """How a module stores the weights of a layer.

    Attributes
    ----------
    names : sequence of str
        Of the module's arrays.
    variables : sequence of Variable
    store : callable
        Returns the module's arrays for the layer's.
    load : callable
        Returns the layer's arrays for the module's.
    """

    names: Sequence[str]
    variables: Sequence[Variable]
    store: Callable[[Sequence[Array]], Sequence[Array]] = _same
    load: Callable[[Sequence[Array]], Sequence[Array]] = _same

    def below(self, name: str) -> "TorchForm":
        """Return the form within a module that has this one under a name."""
        return self._replace(names=[f"{name}.{own}" for own in self.names])


def paired(names: Sequence[str], variables: Sequence[Variable | None]) -> TorchForm:
    """Return a form in which each variable that there is, is one array."""
    there = [(name, variable) for name, variable in zip(names, variables, strict=True) if variable is not None]
    return TorchForm([name for name, _ in there], [variable for _, variable in there])


class Exchanging:
    """Adds `torch_weights` and `set_torch_weights` to layers and models."""

    name: str
    built: bool
    is_graph: ClassVar[bool]
    has_number: ClassVar[bool] = False  # whether it may be one of several layers of a module
    sublayers: Any

    def torch_forms(self, number: int) -> list[TorchForm]:
        """Return the forms of the weights as layer `number` of a module; TypeError if torch.nn has no such module."""
        if not self.is_graph:
            kind = type(self).__name__
            raise TypeError(f"layer {self.name!r}: expected one whose weights a module of torch.nn has, got a {kind}")
        found = []
        for layer in self.sublayers.values():
            place = re.fullmatch(r"(.+)_l(\d+)", layer.name) if layer.has_number else None
            name, own = (layer.name, 0) if place is None else (place[1], int(place[2]))
            found += [form.below(name.replace("-", ".")) for form in layer.torch_forms(own)] if layer.weights else []
        return found

    def torch_weights(self, prefix: str = "", number: int = 0) -> dict[str, Array]:
        """Return copies of the weights under the names and in the form of a module of ``torch.nn``.

        The names are those of ``Linear``, ``Embedding``, ``LayerNorm``, ``BatchNorm1d``, ``LSTM``, ``GRU`` and ``RNN``.
        The second bias of an LSTM or RNN, which is added to the first, is zero. In a model each layer's stand under its
        name, in which ``-`` is the dot and ``_l1`` at the end of a recurrent layer's the number; a `Sequential` of
        nothing but recurrent layers, and such without weights, is one module of several layers.

        Parameters
        ----------
        prefix : str
            Put before the names.
        number : int, default 0
            Which layer of its module a recurrent one is.

        Returns
        -------
        dict of str to ndarray

        Raises
        ------
        TypeError
            If ``torch.nn`` has no module with such weights.
        ValueError
            If the layer is not built.
        """
        found: dict[str, Array] = {}
        for form in self._built_forms(number):
            stored = form.store([variable.value for variable in form.variables])
            arrays = [np.array(array, order="C") for array in stored]
            found |= dict(zip([prefix + name for name in form.names], arrays, strict=True))
        return found

    def set_torch_weights(self, state_dict: Mapping[str, Any], prefix: str = "", number: int | None = None) -> None:
        """Take the weights of a module of ``torch.nn``, or none if one does not fit; see `torch_weights`.

        Parameters
        ----------
        state_dict : mapping of str to tensor or array_like
            Such as ``module.state_dict()``.
        prefix : str
            What the names of the module begin with there, such as ``"encoder."``.
        number : int, optional
            Which layer of its module a recurrent one is; without it the module must have no others.

        Raises
        ------
        ValueError
            If an array is missing, is not used, or has another shape.
        TypeError
            If an array does not hold real numbers, or ``torch.nn`` has no module with such weights, or the layer
            has whole numbers.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: expected a mapping of names to arrays, got {type(state_dict).__name__}")
        forms = self._built_forms(number or 0)
        self._check_names(state_dict, prefix, {prefix + name for form in forms for name in form.names}, number)
        pairs: list[tuple[Variable, Array]] = []
        for form in forms:
            stored = form.store([variable.value for variable in form.variables])
            arrays = []
            for name, like in zip(form.names, stored, strict=True):
                array = _array(prefix + name, state_dict[prefix + name])
                check_shape(prefix + name, array, like.shape)
                arrays.append(array)
            values = zip(form.variables, form.load(arrays), strict=True)
            pairs += [(variable, variable.checked(value, f"{prefix}{form.names[0]}")) for variable, value in values]
        fill(pairs)

    def _built_forms(self, number: int) -> list[TorchForm]:
        if not self.built:
            hint = "call build(input_shape)"
            raise ValueError(f"layer {self.name!r}: expected a built one, got one without weights; {hint}")
        forms = self.torch_forms(number)
        for variable in (variable for form in forms for variable in form.variables):
            if variable.dtype.kind != "f":
                raise TypeError(f"layer {self.name!r}: expected weights of floating point, got {variable.dtype}")
        return forms

    def _check_names(self, given: Mapping[str, Any], prefix: str, used: set[str], number: int | None) -> None:
        """Raise ValueError unless what belongs to the module in a state dict is what the layer has."""
        own = [name for name in given if name.startswith(prefix) and not name.endswith(_NOT_READ)]
        if not self.is_graph:
            own = [name for name in own if "." not in name[len(prefix) :]]
        if number is not None:
            own = [name for name in own if re.search(rf"_l{number}(_reverse)?$", name)]
        missing, others = sorted(used - given.keys()), sorted(set(own) - used)
        if missing:
            found = ", ".join(own) or "no such names"
            raise ValueError(f"state_dict: expected {', '.join(missing)} for layer {self.name!r}, got {found}")
        if others:
            raise ValueError(f"state_dict: expected nothing else for layer {self.name!r}, got {', '.join(others)}")


def _array(name: str, value: Any) -> Array:
    """Return an array or a tensor of PyTorch as an array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        # NumPy has no bfloat16.
        value = (value.float() if value.is_floating_point() and value.itemsize < 4 else value).numpy()
    return checks.as_array(name, value)
