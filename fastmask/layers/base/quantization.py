"""Weights in 8-bit integers, for inference."""

import warnings
from collections.abc import Iterator, Mapping
from typing import ClassVar, NoReturn, cast

from fastmask import ops
from fastmask.layers.base import checks
from fastmask.layers.base.checks import Array
from fastmask.layers.base.holder import WeightHolder, describe
from fastmask.layers.base.variable import Variable


class QuantizableHolder(WeightHolder):
    """What layers and models know of quantised weights.

    Attributes
    ----------
    quantizable : mapping of str to int
        Attributes with the weights that can be quantised, and the axis whose numbers share a scale.
    quantization_mode : {"int8"} or None
        As Keras's dtype policies have it.
    """

    quantizable: ClassVar[Mapping[str, int]] = {}
    quantization_mode: str | None = None

    def quantize(self, mode: str = "int8") -> None:
        """Turn the kernels and tables of the layer, or of all layers of a model, into 8-bit integers.

        They take a quarter of the memory, and products with them less time. Inputs of a product are quantised token
        by token and states row by row, so that a row's result depends on no other row. What can be quantised are the
        weights of Dense, Embedding, SimpleRNN, LSTM and GRU, in wrappers too; biases stay as they are. Quantised layers
        do not train, and there is no way back.

        Parameters
        ----------
        mode : {"int8"}, default "int8"

        Raises
        ------
        ValueError
            If `mode` is another, the layer is not built, a weight is not finite, or nothing is left to be quantised.

        Warns
        -----
        UserWarning
            Naming the layers that stay as they are: those of float64, and kernels of more than 66,311 rows.
        """
        checks.choice("mode", mode, ("int8",))
        found = {id(layer): layer for layer in _layers(self) if layer.quantizable and layer.quantization_mode is None}
        left = [layer for layer in found.values() if not layer._can_be_quantized()]
        chosen = [layer for layer in found.values() if layer._can_be_quantized()]
        if not chosen:
            raise ValueError(f"mode: expected float32 kernels or tables to quantize in {describe(self)}, got none")
        if left:
            names = ", ".join(describe(layer) for layer in left)
            warnings.warn(f"quantize leaves alone what is float64 or too deep: {names}", stacklevel=2)
        made = [(layer, layer._quantized_weights()) for layer in chosen]
        for layer, weights in made:
            layer._take_quantized(weights)

    def _can_be_quantized(self) -> bool:
        if not self.built:
            raise ValueError(f"mode: expected a built layer to quantize, got {describe(self)}; call build first")
        shapes = [getattr(self, name).shape for name, axis in self.quantizable.items() if axis == 0]
        return self.dtype.name == "float32" and all(shape[0] <= ops.DEEPEST for shape in shapes)

    def _quantized_weights(self) -> list[tuple[Array, Array]]:
        found = []
        for name, axis in self.quantizable.items():
            try:
                found.append(ops.abs_max_quantize(getattr(self, name).value, axis))
            except ValueError:
                raise ValueError(f"{name} of {describe(self)}: expected finite numbers, got others") from None
        return cast(list[tuple[Array, Array]], found)

    def _take_quantized(self, weights: list[tuple[Array, Array]]) -> None:
        """Put integers in the place of weights, and their scales behind all weights."""
        for name, (values, scale) in zip(self.quantizable, weights, strict=True):
            old: Variable = getattr(self, name)
            old.version = None  # what was prepared for it is out of date
            new = Variable(values, old.name, False, old.path)
            setattr(self, name, new)
            self._variables = [new if variable is old else variable for variable in self._variables]
            scales = Variable(scale, f"{old.name}_scale", False, f"{old.path}_scale")
            setattr(self, f"{name}_scale", scales)
            self._variables.append(scales)
        for variable in self._variables:
            variable.trainable = False
        self.quantization_mode = "int8"
        self.weights_quantized()

    def weights_quantized(self) -> None:
        """Take notice that weights have become integers."""

    def quantized(self, name: str) -> ops.Quantized:
        """Return the integers and scale of the weight `name`."""
        return ops.Quantized(getattr(self, name).value, getattr(self, f"{name}_scale").value)

    def refuse_training(self) -> NoReturn:
        """Raise the error of a quantised layer that is to train."""
        raise ValueError(f"training: expected inference, since {describe(self)} is quantised to int8, got training")

    def refuse_quantized(self) -> None:
        """Raise ValueError if a layer is quantised, so that nothing can be trained."""
        for layer in _layers(self):
            if layer.quantization_mode is not None:
                layer.refuse_training()


def _layers(holder: WeightHolder) -> Iterator[QuantizableHolder]:
    yield cast(QuantizableHolder, holder)
    for layer in holder.sublayers.values():
        yield from _layers(layer)
