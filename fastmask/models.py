"""Sequential models: a stack of layers that packs a batch once, at its entry."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmask.data import as_rows
from fastmask.layers import Embedding, Gradients, Layer, require_mask_support
from fastmask.layers.arguments import auto_name
from fastmask.layers.base import describe
from fastmask.layers.variable import assign_all
from fastmask.packing import PackedSequence
from fastmask.summary import table
from fastmask.training import Trainer

Array = NDArray[Any]
Shape = tuple[int | None, ...]
Pullback = Callable[[Any], Gradients]


@dataclass(frozen=True)
class Input:
    """The shape of a model's input, given as the first entry of a `Sequential`.

    Parameters
    ----------
    shape : tuple of int or None
        Without the batch axis; None for an axis of any length: ``Input((None,))`` for ids,
        ``Input((None, 8))`` for sequences of 8 features.
    batch_size : int, optional
    dtype, name : str, optional
        Accepted for Keras's sake.
    """

    shape: Shape
    batch_size: int | None = None
    dtype: Any = None
    name: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.shape, (tuple, list)):
            raise TypeError(f"shape must be a tuple of int or None, got {self.shape!r}")
        object.__setattr__(self, "shape", tuple(self.shape))

    @property
    def batch_shape(self) -> Shape:
        """The shape with the batch axis."""
        return (self.batch_size, *self.shape)


class Sequential(Trainer):
    """A stack of layers.

    Parameters
    ----------
    layers : iterable of Layer, optional
        May start with an `Input`.
    name : str, optional
        Made from the class name when left out.

    Attributes
    ----------
    layers : list of Layer
    optimizer, loss, history, stop_training
        See `compile` and `fit`.

    Notes
    -----
    Where the first layer fixes the shape of the input (an `Input` before it, an `Embedding`, or
    `input_shape=`), layers are built when they are added; otherwise, and after a `Flatten` of sequences of
    any length, by `build` or the first batch.
    """

    def __init__(
        self, layers: Iterable[Layer | Input] | None = None, name: str | None = None
    ) -> None:
        super().__init__()
        self.name = auto_name(type(self).__name__) if name is None else str(name)
        self.layers: list[Layer] = []
        self._declared: Shape | None = None
        for layer in layers or ():
            self.add(layer)

    def add(self, layer: Layer | Input) -> None:
        """Put a layer on top.

        Raises
        ------
        TypeError
            If it is no layer, or one that cannot take the mask that reaches it.
        ValueError
            If the model has a layer of this name, or the shapes do not fit.
        """
        if isinstance(layer, Input):
            if self.layers or self._declared:
                raise ValueError("an Input must be the first entry of a Sequential")
            self._declared = layer.batch_shape
            return
        if not isinstance(layer, Layer):
            raise TypeError(f"layer must be a Layer or an Input, got {layer!r}")
        if any(layer.name == other.name for other in self.layers):
            raise ValueError(f"layers must have different names, got {layer.name!r} twice")
        source = self.mask_sources[-1] if self.layers else None
        if source is not None:
            require_mask_support(layer, source)
        layer.parent_path = self.name
        shape = self._shape_above(layer)
        if shape is not None and (layer.takes_ids or shape[-1] is not None):
            layer.build(shape)
            _require_one_output(layer, layer.output_shape)
        self.layers.append(layer)

    def pop(self) -> Layer:
        """Take the last layer off and return it; IndexError if there is none."""
        if not self.layers:
            raise IndexError("the model has no layers to pop")
        return self.layers.pop()

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Create the weights of all layers for inputs of a shape (with the batch axis).

        Raises
        ------
        ValueError
            If a layer cannot take what it would get.
        TypeError
            If it cannot take the mask that reaches it.
        """
        shape: Shape = tuple(input_shape)
        source: Layer | None = None
        for layer, next_source in zip(self._layers_or_fail(), self.mask_sources, strict=True):
            if source is not None:
                require_mask_support(layer, source)
            layer.build(shape)
            _require_one_output(layer, layer.output_shape)
            shape, source = layer.output_shape, next_source

    @property
    def built(self) -> bool:
        """Whether all layers have their weights."""
        return bool(self.layers) and all(layer.built for layer in self.layers)

    @property
    def input_shape(self) -> Shape:
        """Shape of the input with the batch axis; AttributeError while it is unknown."""
        if not self.layers or self.layers[0].input_shape is None:
            raise AttributeError(f"model {self.name!r} has no input shape until it is built")
        return self.layers[0].input_shape

    @property
    def output_shape(self) -> Shape:
        """Shape of the output with the batch axis; AttributeError while it is unknown."""
        if not self.layers or self.layers[-1].output_shape is None:
            raise AttributeError(f"model {self.name!r} has no output shape until it is built")
        shape: Shape = self.layers[-1].output_shape
        return shape

    @property
    def mask_sources(self) -> list[Layer | None]:
        """For every layer the one that made the mask which its output carries, None if none."""
        sources: list[Layer | None] = []
        for layer in self.layers:
            incoming = sources[-1] if sources else None
            sources.append(layer if layer.makes_mask else incoming if layer.passes_mask else None)
        return sources

    @property
    def takes_ids(self) -> bool:
        """Whether the input holds integer ids."""
        return isinstance(self._layers_or_fail()[0], Embedding)

    @property
    def weights(self) -> list[Any]:
        """The variables of all layers in order."""
        return [variable for layer in self.layers for variable in layer.weights]

    @property
    def trainable_weights(self) -> list[Any]:
        """The variables that training changes."""
        return [variable for layer in self.layers for variable in layer.trainable_weights]

    @property
    def non_trainable_weights(self) -> list[Any]:
        """The variables that training leaves alone."""
        return [variable for layer in self.layers for variable in layer.non_trainable_weights]

    @property
    def trainable(self) -> bool:
        """Whether training changes any layer; setting it reaches all layers."""
        return any(layer.trainable for layer in self.layers)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for layer in self.layers:
            layer.trainable = value

    def get_weights(self) -> list[Array]:
        """Return copies of all weights."""
        return [variable.numpy() for variable in self.weights]

    def set_weights(self, weights: Sequence[ArrayLike]) -> None:
        """Overwrite all weights, or none if one does not fit.

        Raises
        ------
        ValueError
            If their number or a shape differs.
        TypeError
            If one does not hold real numbers.
        """
        assign_all(self.weights, weights, f"model {self.name!r}", self.built)

    def count_params(self) -> int:
        """Return the number of entries of all weights."""
        return sum(layer.count_params() for layer in self.layers)

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """Return a layer by its name or its place.

        Raises
        ------
        ValueError
            If there is none, or not exactly one argument is given.
        """
        if (name is None) == (index is None):
            raise ValueError("exactly one of name and index must be given")
        names = [layer.name for layer in self.layers]
        if name is None and index is not None and -len(names) <= index < len(names):
            return self.layers[index]
        if name not in names:
            raise ValueError(
                f"{'index' if name is None else 'name'} must be that of one of the layers "
                f"{', '.join(names)}, got {index if name is None else name!r}"
            )
        return self.layers[names.index(name)]

    def reset_states(self) -> None:
        """Forget the states that stateful layers keep."""
        for layer in self.layers:
            if getattr(layer, "stateful", False):
                layer.reset_states()  # type: ignore[attr-defined]

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Print the layers with their output shapes, numbers of weights, and the mask's way.

        Parameters
        ----------
        print_fn : callable, default print
            Gets the text.
        """
        print_fn(table(self))

    def __call__(self, x: Any, mask: ArrayLike | None = None, training: bool = False) -> Any:
        """Return the output for one batch.

        Parameters
        ----------
        x : array_like (B, ...), sequence of B sequences, or PackedSequence
        mask : array_like of bool (B, T), optional
            For a padded `x` whose first layer makes no mask of its own.
        training : bool, default False
            Whether dropout acts.

        Returns
        -------
        ndarray, list of ndarray or PackedSequence
            As `predict` returns it, or packed for a packed `x`.
        """
        if isinstance(x, PackedSequence):
            return self.run(x, training=training)[0]
        return self.predict_step(as_rows(x, ids=self.takes_ids), mask, training)

    def run(
        self, x: Any, mask: ArrayLike | None = None, *, training: bool = False, keep: bool = False
    ) -> tuple[Any, Callable[[Any], list[Any]]]:
        """Return the output, packed if it has a time axis, and its pullback.

        Parameters
        ----------
        x, mask, training
            As for a call.
        keep : bool, default False
            Whether the pullback will be used.

        Returns
        -------
        output : ndarray or PackedSequence
        pullback : callable
            Takes the gradient by the output's values, returns those by `trainable_weights`.
        """
        y = self._enter(x, mask)
        pullbacks: list[tuple[Layer, Pullback]] = []
        for layer in self._layers_or_fail():
            if keep and (pullbacks or not layer.built or layer.trainable_weights):
                y, pullback = layer.vjp(y, training=training)
                pullbacks.append((layer, pullback))
            else:
                y = layer(y, training=training)
            _require_one_output(layer, y)
        return y, lambda dy: _pull(pullbacks, dy)

    def _enter(self, x: Any, mask: ArrayLike | None) -> Any:
        """Pack a batch that has a time axis."""
        if isinstance(x, PackedSequence):
            return x
        if isinstance(x, list):
            return PackedSequence.from_list(x)
        first = self._layers_or_fail()[0]
        if x.ndim == (2 if self.takes_ids else 3):
            return first.pack_input(x, mask)
        if mask is not None:
            raise ValueError(f"mask must be None for x of shape {x.shape}, which has no time axis")
        return x

    def _shape_above(self, layer: Layer) -> Shape | None:
        """Return the shape that a new layer would get, None if unknown."""
        if self.layers:
            shape: Shape | None = self.layers[-1].output_shape
            return shape
        if self._declared is None and layer.declared_shape is None and isinstance(layer, Embedding):
            return (None, layer.input_length)
        return self._declared or layer.declared_shape

    def _layers_or_fail(self) -> list[Layer]:
        if not self.layers:
            raise ValueError(f"model {self.name!r} has no layers: add some first")
        return self.layers

    def __repr__(self) -> str:
        return f"<Sequential name={self.name}, built={self.built}>"


def _require_one_output(layer: Layer, output: Any) -> None:
    """Raise ValueError if an output, or the shape of one, is several."""
    if isinstance(output, tuple) and isinstance(output[0], (tuple, np.ndarray, PackedSequence)):
        raise ValueError(f"{describe(layer)} must have one output in a Sequential, got {len(output)}")


def _pull(pullbacks: list[tuple[Layer, Pullback]], dy: Any) -> list[Any]:
    """Run pullbacks from the top down; return the gradients by the trainable weights."""
    grads: list[Any] = []
    for layer, pullback in reversed(pullbacks):
        found = pullback(dy)
        trained = {id(variable) for variable in layer.trainable_weights}
        pairs = zip(layer.weights, found.weights, strict=True)
        grads[:0] = [grad for variable, grad in pairs if id(variable) in trained]
        dy = found.inputs
    return grads
