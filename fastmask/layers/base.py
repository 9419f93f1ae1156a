"""What all layers share: names, weights, shapes, checks, and the two ways of calling them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from math import prod
from typing import Any, ClassVar, NamedTuple, Self, cast

import numpy as np
import numpy.typing as npt

from fastmask import initializers
from fastmask.layers import arguments, checks, flow
from fastmask.layers.checks import Array, Shape
from fastmask.layers.variable import Variable, assign_all
from fastmask.packing import PackedSequence
from fastmask.random import SeedGenerator

# Constructor arguments that Keras leaves out of configs too, or that wrappers add themselves.
_NOT_IN_CONFIG = {
    "self", "kwargs", "weights", "input_length", "use_cudnn", "lora_rank", "lora_alpha",
    "quantization_config", "layer", "backward_layer",
}  # fmt: skip


class Gradients(NamedTuple):
    """What a pullback returns.

    Attributes
    ----------
    inputs : ndarray or None
        Like the input array, or like ``x.values`` of a packed input; None if the input holds ids.
    weights : list
        In the order of ``get_weights()``; that of an `Embedding` is sparse (``SparseRows``).
    initial_state : tuple of ndarray, or None if no initial state was passed
    """

    inputs: Array | None
    weights: list[Any]
    initial_state: tuple[Array, ...] | None = None


Pullback = Callable[[Any], Gradients]


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of one call, checked. `keep` asks for a pullback."""

    mask: "npt.NDArray[np.bool_] | None" = None
    initial_state: Any = None
    training: bool = False
    keep: bool = False


class Layer:
    """Base of all layers.

    A subclass defines ``forward(x, call) -> (y, pullback)`` and, if it has weights,
    ``create_weights`` calling `add_weight`.

    Parameters
    ----------
    name : str, optional
        Made from the class name when left out: ``"lstm"``, then ``"lstm_1"``.
    trainable : bool, default True
    dtype : {"float32", "float64"}, optional
        Of weights, inputs and outputs; `fastmask.config.floatx` when left out.
    input_shape, batch_input_shape : tuple, optional
        Shape of the input without or with the batch axis; kept in `declared_shape`.

    Attributes
    ----------
    built : bool
    input_shape, output_shape : tuple or None
        Known once built; None stands for an axis of any length.
    supports_masking : bool
        Whether the layer can be given a mask.
    makes_mask : bool
        Whether it derives a mask from its input.
    takes_ids : bool
        Whether its input holds integer ids.
    input_rank : int or None
        Number of axes that its input must have.
    """

    supports_masking: bool = True
    makes_mask: bool = False
    takes_ids: bool = False
    takes_state: ClassVar[bool] = False
    input_rank: ClassVar[int | None] = None

    def __init__(
        self,
        *,
        name: str | None = None,
        trainable: bool = True,
        dtype: Any = None,
        activity_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        checks.not_supported(activity_regularizer=activity_regularizer)
        self.activity_regularizer = None
        self.declared_shape = arguments.declared_shape(type(self).__name__, kwargs)
        self.name = arguments.auto_name(type(self).__name__) if name is None else str(name)
        self.dtype = arguments.layer_dtype(dtype)
        self.built = False
        self.input_shape: Shape | None = None
        self.output_shape: Any = None
        self.features: int | None = None
        self.parent_path = ""
        self._variables: list[Variable] = []
        self._trainable = bool(trainable)

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        """Return the output and, if ``call.keep``, the pullback; `x` has been checked."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward(x, call)")

    def create_weights(self, input_shape: Shape) -> None:
        """Add the weights for inputs of `input_shape`; none here."""

    def compute_output_shape(self, input_shape: Shape) -> Any:
        """Return the shape of the output for inputs of `input_shape`, both with the batch axis."""
        return tuple(input_shape)

    def check_input(self, x: Any) -> Any:
        """Return `x` in the layer's dtype; ValueError or TypeError if it cannot be."""
        x = checks.float_input(x, self.dtype)
        self._check_rank("x", x.shape)
        return x

    @property
    def passes_mask(self) -> bool:
        """Whether the output carries the mask of the input."""
        return self.supports_masking and not self.makes_mask

    @property
    def stochastic(self) -> bool:
        """Whether training calls draw random numbers."""
        return any(layer.stochastic for layer in self.sublayers.values())

    @property
    def sublayers(self) -> dict[str, "Layer"]:
        """The wrapped layers by attribute name."""
        return {}

    def __call__(self, x: Any, mask: Any = None, initial_state: Any = None, training: bool = False) -> Any:
        """Return the output, padded for a padded input and packed for a packed one.

        Parameters
        ----------
        x : array_like (B, T, ...) or PackedSequence
        mask : array_like of bool (B, T), optional
            True where a step counts. A packed input carries its own.
        initial_state : tuple of array_like (B, units), optional
            For recurrent layers.
        training : bool, default False
            Whether dropout acts.

        Raises
        ------
        ValueError, TypeError, IndexError
            If an argument does not fit, naming it.
        """
        return self._apply(x, mask, initial_state, training, keep=False)[0]

    def vjp(self, x: Any, mask: Any = None, initial_state: Any = None, training: bool = False) -> tuple[Any, Pullback]:
        """Return the output and its pullback; arguments and errors as for a call.

        The pullback takes the gradient of a scalar by the output (for a packed output an array like
        its ``values``, for several outputs a tuple in which None stands for zeros) and returns
        `Gradients`.
        """
        y, pullback = self._apply(x, mask, initial_state, training, keep=True)
        return y, cast(Pullback, pullback)

    def _apply(self, x: Any, mask: Any, initial_state: Any, training: bool, keep: bool) -> tuple[Any, Pullback | None]:
        x = self.check_input(x)
        if isinstance(x, PackedSequence):
            if mask is not None:
                raise ValueError("mask must be None for a PackedSequence, which carries its own")
            masked = x.packing.masked
        else:
            mask = checks.mask_for(mask, x.shape)
            masked = mask is not None
        if masked and not self.supports_masking:
            require_mask_support(self)
        if initial_state is not None and not self.takes_state:
            raise TypeError(f"initial_state must be None: {describe(self)} has no state")
        shape = flow.open_shape(x)
        if not self.built:
            self.build(shape)
        self._check_features(shape)
        return self.forward(x, Call(mask, initial_state, bool(training), keep))

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Create the weights for inputs of a shape; later calls only check that it fits.

        Parameters
        ----------
        input_shape : tuple
            With the batch axis; None for an axis of any length.

        Raises
        ------
        ValueError
            If the layer cannot take inputs of this shape.
        """
        shape = tuple(None if n is None else int(n) for n in input_shape)
        self._check_rank("input_shape", shape)
        if not self.built:
            self.create_weights(shape)
            self.built = True
        self._check_features(shape)
        self.input_shape = shape
        self.output_shape = self.compute_output_shape(shape)

    def _check_rank(self, name: str, shape: Shape) -> None:
        if self.input_rank not in (None, len(shape)):
            raise ValueError(f"{name} must have {self.input_rank} axes for {describe(self)}, got shape {shape}")

    def _check_features(self, shape: Shape) -> None:
        if self.features is None:
            return
        if len(shape) < 2 or shape[-1] not in (None, self.features):
            raise ValueError(
                f"x must have {self.features} features on its last axis, as when {describe(self)} "
                f"was built, got shape {shape}"
            )

    def known_features(self, input_shape: Shape) -> int:
        """Return the last axis of `input_shape` and hold later inputs to it; ValueError if None."""
        if len(input_shape) < 2 or input_shape[-1] is None:
            raise ValueError(
                f"input_shape must have a batch axis and a known last axis to build {describe(self)}, got {input_shape}"
            )
        self.features = input_shape[-1]
        return self.features

    def add_weight(
        self,
        shape: tuple[int, ...],
        initializer: Any = None,
        name: str = "weight",
        trainable: bool = True,
    ) -> Variable:
        """Create a weight.

        Parameters
        ----------
        shape : tuple of int
        initializer : str or callable, default "glorot_uniform"
        name : str
        trainable : bool, default True

        Returns
        -------
        Variable
        """
        checks.require_memory(f"{name} of {describe(self)}", shape, self.dtype)
        initialize = initializers.get(initializer) or initializers.GlorotUniform()
        value = checks.real_array(f"{name}_initializer", initialize(shape, self.dtype), self.dtype)
        if value.shape != shape:
            raise ValueError(f"{name}_initializer must give shape {shape}, got {value.shape}")
        variable = Variable(value, name, trainable, f"{self.weight_path}/{name}")
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
        return self._variables + [w for layer in self.sublayers.values() for w in layer.weights]

    @property
    def trainable_weights(self) -> list[Variable]:
        """The weights that training changes: none if the layer is not trainable."""
        if not self.trainable:
            return []
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
            If one does not hold real numbers.
        """
        assign_all(self.weights, weights, describe(self), self.built)

    def count_params(self) -> int:
        """Return the number of entries of all weights."""
        return sum(prod(w.shape) for w in self.weights)

    def compute_mask(self, x: Any, mask: Any = None) -> Any:
        """Return the mask of the output: that of the input if it is passed on, else None."""
        return mask if self.passes_mask else None

    def pack_input(self, x: Any, mask: Any = None) -> PackedSequence:
        """Pack a padded batch (B, T, ...) on its way into this layer.

        Layers that make a mask ignore `mask` and pack by their own. Errors as for a call.
        """
        x = self.check_input(x)
        return PackedSequence.from_padded(x, checks.mask_for(mask, x.shape))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments in a form that JSON can hold."""
        names = [n for n in signature(type(self).__init__).parameters if n not in _NOT_IN_CONFIG]
        base = {"name": self.name, "trainable": self.trainable, "dtype": self.dtype.name}
        return base | {n: _plain(getattr(self, n)) for n in names if n not in base}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return a new layer, with new weights, made from what `get_config` returned."""
        return cls(**config)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}, built={self.built}>"


def describe(layer: Layer) -> str:
    """Return a layer's name and class for messages: ``layer 'lstm' (LSTM)``."""
    return f"layer {layer.name!r} ({type(layer).__name__})"


def require_mask_support(layer: Layer, source: Layer | None = None) -> None:
    """Raise TypeError if `layer` cannot be given a mask; the mask comes from `source`."""
    if layer.supports_masking:
        return
    origin = "its input" if source is None else f"the output of {describe(source)}"
    remedy = "give none (a list of sequences has one)" if source is None else "make none (mask_zero=False, no Masking)"
    raise TypeError(
        f"{describe(layer)} does not support masking, but {origin} carries a mask. Use it up before "
        f"with a recurrent layer with return_sequences=False, or {remedy}."
    )


def _plain(value: Any) -> Any:
    if isinstance(value, initializers.Initializer):
        return initializers.serialize(value)
    return value.initial_seed if isinstance(value, SeedGenerator) else value
