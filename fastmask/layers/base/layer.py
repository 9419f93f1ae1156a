"""What all layers share: names, weights, shapes, checks, and the two ways of calling them."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from inspect import signature
from types import ModuleType
from typing import Any, ClassVar, Self, cast

import numpy as np

from fastmask import constraints, initializers, regularizers
from fastmask.batch.packing import PackedSequence
from fastmask.layers.base import arguments, checks, custom, flow, symbolic
from fastmask.layers.base.calls import Call as Call
from fastmask.layers.base.calls import Gradients as Gradients
from fastmask.layers.base.calls import Pullback as Pullback
from fastmask.layers.base.checks import Shape
from fastmask.layers.base.holder import WeightHolder
from fastmask.layers.base.holder import describe as describe
from fastmask.layers.base.support import require_mask_support
from fastmask.random import SeedGenerator

# Constructor arguments that Keras leaves out of configs too, or that wrappers add themselves.
_NOT_IN_CONFIG = {
    "self", "weights", "input_length", "use_cudnn", "lora_rank", "lora_alpha",
    "quantization_config", "layer", "backward_layer",
}  # fmt: skip


class Layer(WeightHolder):
    """Base of all layers, those of users included.

    A layer of your own defines ``call(self, x)`` on arrays, ``vjp(self, x) -> (y, pullback)`` for
    training, and where they are not the defaults ``build(self, input_shape)`` with calls of
    `add_weight`, ``compute_output_shape``, ``compute_mask`` and ``get_config``. `call` and `vjp`
    may also take ``mask`` and ``training``. The pullback takes dy and returns the gradient by x,
    or that and a list of the gradients by the weights.

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
        Whether the layer can be given a mask, which its output then carries; False unless a layer
        says otherwise.
    makes_mask : bool
        Whether it derives a mask from its input.
    takes_list : bool
        Whether its input is a list of several.
    call_options : tuple of str
        Names of further arguments of a call.
    nodes : list of Node
        The calls on symbolic tensors.
    takes_ids : bool
        Whether its input holds integer ids.
    takes_grid : bool
        Whether it gets what enters a model as it is, not packed.
    input_rank : int or None
        Number of axes that its input must have.
    keras_class : tuple of str or None
        Module, class and registered name that configs have for it, if these are not ``keras.layers`` and its own name.
    """

    supports_masking: bool = False
    makes_mask: bool = False
    takes_ids: bool = False
    takes_grid: ClassVar[bool] = False
    takes_state: ClassVar[bool] = False
    input_rank: ClassVar[int | None] = None
    takes_list: bool = False
    is_graph: ClassVar[bool] = False
    keras_class: ClassVar[tuple[str, str, str | None] | None] = None
    call_options: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        custom.adopt(cls, Layer)

    def __init__(
        self,
        *,
        name: str | None = None,
        trainable: bool = True,
        dtype: Any = None,
        activity_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        if activity_regularizer is not None:
            raise NotImplementedError(
                "activity_regularizer: expected None, since fastmask penalizes weights only (kernel_regularizer, "
                f"embeddings_regularizer), got {activity_regularizer!r}"
            )
        self.activity_regularizer = None
        self.declared_shape = arguments.declared_shape(type(self).__name__, kwargs)
        self.name = arguments.auto_name(type(self).__name__) if name is None else str(name)
        self.dtype = arguments.layer_dtype(dtype)
        super().__init__(trainable)
        self.built = False
        self.input_shape: Shape | None = None
        self.output_shape: Any = None
        self.features: int | None = None
        self.nodes: list[symbolic.Node] = []

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        """Return the output and, if ``call.keep``, the pullback; `x` has been checked."""
        return custom.forward(self, x, call)

    @property
    def is_own(self) -> bool:
        """Whether its class is one of fastmask's, and not derived from one."""
        return type(self).__module__.startswith("fastmask.layers.")

    def stages(self, module: ModuleType) -> list[Any] | None:
        """Return what a compiled chain runs in the layer's place in inference; None if only `forward` can.

        Parameters
        ----------
        module
            The compiled kernels of the layer's dtype.
        """
        return None

    def call(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the output for padded arrays; a layer of your own defines it."""
        raise NotImplementedError(f"{describe(self)} must define call(self, x)")

    def create_weights(self, input_shape: Shape) -> None:
        """Add the weights for inputs of `input_shape`; none here."""

    def compute_output_shape(self, input_shape: Shape) -> Any:
        """Return the shape of the output for inputs of `input_shape`, both with the batch axis."""
        return tuple(input_shape)

    def check_input(self, x: Any) -> Any:
        """Return `x` in the layer's dtype; ValueError or TypeError if it cannot be."""
        if type(x) is not np.ndarray or x.dtype != self.dtype:
            x = checks.float_input(x, self.dtype)
        if self.input_rank != len(x.shape):
            self.check_rank("x", x.shape)
        return x

    @property
    def passes_mask(self) -> bool:
        """Whether the output carries the mask of the input."""
        return self.supports_masking and not self.makes_mask

    @property
    def stochastic(self) -> bool:
        """Whether training calls draw random numbers."""
        return any(cast(Layer, layer).stochastic for layer in self.sublayers.values())

    @property
    def pack_key(self) -> Hashable:
        """Layers with the same key pack a padded input by the same plan."""
        return None

    @property
    def may_mask(self) -> bool:
        """Whether a mask may begin at this layer."""
        return self.makes_mask or custom.computes_mask(self)

    def input_takes_ids(self, index: int) -> bool:
        """Return whether input number `index` holds integer ids."""
        return self.takes_ids

    def mask_flow(self, masked: Sequence[int], outputs: int) -> list[int]:
        """Return the number of axes of the mask of each output, 0 for none, given those of the masks of the inputs."""
        if custom.computes_mask(self):
            return custom.mask_flow(self, masked, outputs)
        flows = self.made_axes if self.makes_mask else max(masked) if self.passes_mask else 0
        return [flows, *[0] * (outputs - 1)]

    @property
    def made_axes(self) -> int:
        """Number of axes of the mask that the layer derives from its input."""
        return len(self.input_shape or ()) - (not self.takes_ids)

    def reads(self, shapes: Sequence[Any], masks: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
        """Return for each of several inputs the steps that the output depends on; None for those that count.

        Parameters
        ----------
        shapes : sequence of tuple of int
        masks : sequence of ndarray of bool (B, T) or None
        options : mapping
            Further arguments of the call.

        Returns
        -------
        list of ndarray of bool (B, T) or None
        """
        return [None] * len(shapes)

    def __call__(
        self, x: Any, mask: Any = None, initial_state: Any = None, training: bool | None = None, **options: Any
    ) -> Any:
        """Return the output, padded for a padded input and packed for a packed one.

        Parameters
        ----------
        x : array_like (B, T, ...) or PackedSequence, or KerasTensor
            A list of them for layers that take several; a `KerasTensor` comes out of a `KerasTensor`.
        mask : array_like of bool (B, T), or KerasTensor, optional
            True where a step counts; a list of masks and None where `x` is a list. A packed input
            carries its own. A symbolic mask counts in place of that of a symbolic input.
        initial_state : tuple of array_like (B, units), optional
            For recurrent layers.
        training : bool, default False
            Whether dropout acts.
        **options
            What else the layer's call takes.

        Raises
        ------
        ValueError, TypeError, IndexError
            If an argument does not fit, naming it.
        """
        if options:
            self._check_options(options)
        if type(x) is not np.ndarray and symbolic.is_symbolic(x):
            return self._connect(x, mask, initial_state, training, options)
        return self.apply(x, mask, initial_state, training, False, options)[0]

    def vjp(
        self, x: Any, mask: Any = None, initial_state: Any = None, training: bool = False, **options: Any
    ) -> tuple[Any, Pullback]:
        """Return the output and its pullback; arguments and errors as for a call.

        The pullback takes the gradient of a scalar by the output (for a packed output an array like
        its ``values``, for several outputs a tuple in which None stands for zeros) and returns
        `Gradients`.
        """
        self._check_options(options)
        y, pullback = self.apply(x, mask, initial_state, training, True, options)
        return y, cast(Pullback, pullback)

    def apply(
        self,
        x: Any,
        mask: Any = None,
        initial_state: Any = None,
        training: bool | None = False,
        keep: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Any, Pullback | None]:
        """Return the output and, if `keep`, the pullback, whatever `call` and `vjp` a subclass defines."""
        if initial_state is not None and not self.takes_state:
            raise TypeError(f"initial_state: expected None, since {describe(self)} has no state, got one")
        if self.takes_list:
            return flow.apply_several(self, x, mask, Call(None, initial_state, bool(training), keep, options or {}))
        x = self.check_input(x)
        if isinstance(x, PackedSequence):
            if mask is not None:
                raise ValueError("mask: expected None with a PackedSequence, which carries its own, got one")
            masked, shape = x.packing.masked, x.values.shape
        else:
            mask = checks.mask_for(mask, x.shape, self.takes_ids)
            masked, shape = mask is not None, x.shape
        if masked and not self.supports_masking:
            self.require_masking()
        if not self.built:
            self.build(flow.open_shape(x))
        if self.features is not None and shape[1:][-1:] != (self.features,):
            self._check_features(flow.open_shape(x), ())
        return self.forward(x, Call(mask, initial_state, bool(training), keep, options or {}))

    def _connect(self, x: Any, mask: Any, initial_state: Any, training: bool | None, options: dict[str, Any]) -> Any:
        states = symbolic.symbolic_list("initial_state", initial_state)
        if states and not self.takes_state:
            raise TypeError(f"initial_state: expected None, since {describe(self)} has no state, got one")
        inputs = symbolic.symbolic_list("x", x)
        if len(inputs) != 1 and not self.takes_list:
            raise ValueError(f"x: expected one tensor for {describe(self)}, got {len(inputs)}")
        masks = symbolic.symbolic_masks(mask, inputs, self)
        outputs = symbolic.connect(symbolic.Node(self, inputs, states, training, options, masks=masks))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def require_masking(self, source: "Layer | None" = None, axes: int = 2) -> None:
        """Raise TypeError if the layer cannot be given a mask of so many axes; the mask comes from `source`."""
        require_mask_support(self, source, axes)

    def _check_options(self, options: Mapping[str, Any]) -> None:
        unknown = [name for name in options if name not in self.call_options]
        if unknown:
            raise TypeError(f"{describe(self)} got unknown arguments of a call: {', '.join(unknown)}")

    @property
    def input(self) -> Any:
        """The symbolic input of the first call; AttributeError if there was none."""
        inputs = self._first_node().inputs
        return inputs if self.takes_list else inputs[0]

    @property
    def output(self) -> Any:
        """The symbolic output of the first call; AttributeError if there was none."""
        outputs = self._first_node().outputs
        return outputs[0] if len(outputs) == 1 else outputs

    def _first_node(self) -> symbolic.Node:
        if not self.nodes:
            raise AttributeError(f"{describe(self)} has not been called on a symbolic tensor")
        return self.nodes[0]

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
        shape = checks.plain_shape(input_shape)
        for entry in shape if symbolic.several(shape) else [shape]:
            self.check_rank("input_shape", entry)
        if not self.built:
            self.create_weights(shape)
            self.built = True
        self._check_features(shape)
        self.input_shape = shape
        self.output_shape = self.compute_output_shape(shape)

    def check_rank(self, name: str, shape: Shape) -> None:
        """Raise ValueError unless `shape` has `input_rank` axes; the layer's name stands in the message."""
        if self.input_rank not in (None, len(shape)):
            raise ValueError(f"{name}: expected {self.input_rank} axes for {describe(self)}, got shape {shape}")

    def _check_features(self, shape: Shape, unknown: tuple[None, ...] = (None,)) -> None:
        # The features of an array are known, so that an open last axis can only be that of steps of single numbers.
        if self.features is None or (len(shape) > 1 and shape[-1] == self.features) or symbolic.several(shape):
            return
        if len(shape) < 2 or shape[-1] not in (self.features, *unknown):
            raise ValueError(
                f"x: expected {self.features} features on its last axis, as when {describe(self)} "
                f"was built, got shape {shape}"
            )

    def known_features(self, input_shape: Shape) -> int:
        """Return the last axis of `input_shape` and hold later inputs to it; ValueError if None."""
        if len(input_shape) < 2 or input_shape[-1] is None:
            raise ValueError(
                f"input_shape: expected a batch axis and a known last axis to build {describe(self)}, got {input_shape}"
            )
        self.features = input_shape[-1]
        return self.features

    def compute_mask(self, x: Any, mask: Any = None) -> Any:
        """Return the mask of the output: that of the input if it is passed on, else None."""
        return mask if self.passes_mask else None

    def pack_input(self, x: Any, mask: Any = None) -> PackedSequence:
        """Pack a padded batch (B, T, ...) on its way into this layer.

        Layers that make a mask ignore `mask` and pack by their own. Errors as for a call.
        """
        x = self.check_input(x)
        return PackedSequence.from_padded(x, checks.mask_for(mask, x.shape, self.takes_ids))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments in a form that JSON can hold."""
        base = {"name": self.name, "trainable": self.trainable, "dtype": self.dtype.name}
        return base | self.kept_arguments(base)

    def kept_arguments(self, others: Collection[str]) -> dict[str, Any]:
        """Return the constructor's arguments but for `others`, from the attributes that have their names.

        Raises
        ------
        NotImplementedError
            If there is no such attribute, and no `get_config` in the class of the constructor or a subclass of it.
        """
        own = type(self)
        given = signature(own.__init__).parameters.values()
        names = [p.name for p in given if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        names = [n for n in names if n not in _NOT_IN_CONFIG and n not in others]
        missing = [n for n in names if not hasattr(self, n)]
        if missing and custom.depth_of(own, "__init__") < custom.depth_of(own, "get_config"):
            raise NotImplementedError(f"{describe(self)} must override get_config: it has no attribute {missing[0]!r}")
        return {n: _plain(getattr(self, n)) for n in names if n not in missing}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return a new layer, with new weights, made from what `get_config` returned."""
        return cls(**config)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}, built={self.built}>"


def _plain(value: Any) -> Any:
    if isinstance(value, initializers.Initializer):
        return initializers.serialize(value)
    if isinstance(value, regularizers.Regularizer):
        return regularizers.serialize(value)
    if isinstance(value, constraints.Constraint):
        return constraints.serialize(value)
    return value.initial_seed if isinstance(value, SeedGenerator) else value
