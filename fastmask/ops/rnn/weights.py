"""The weights of a recurrent layer as they lie, and as the kernels read them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from fastmask.kernels.memory import aligned_empty
from fastmask.ops._arrays import Array, check_float, check_shape, gate_panels, product_panels, readable_bias
from fastmask.ops._products import fill_product
from fastmask.ops._quantized import Quantized, check_quantized, quantized_rows, readable_units, words
from fastmask.ops.rnn.spec import RNNSpec

Made = tuple[ModuleType | None, Any]
_NOTHING: Made = None, None


class RNNWeights:
    """Weights of one layer, checked, and what is made of them at first need.

    What is made is published by one assignment: threads that come at once may each make it, with the same bits.

    Parameters
    ----------
    spec : RNNSpec
    kernel, recurrent_kernel : arrays of the spec's shapes and precision, in any order of memory
        Each a `Quantized` if the precision is int8.
    bias : array of the spec's shape, or None

    Attributes
    ----------
    size : int
        Numbers in both kernels.
    lie_whole : bool
        Whether the compiled kernels can read them where they lie.

    Raises
    ------
    TypeError, ValueError
        If an array does not fit.
    """

    def __init__(
        self, spec: RNNSpec, kernel: Array | Quantized, recurrent_kernel: Array | Quantized, bias: Array | None
    ) -> None:
        self.spec = spec
        self.quantized: tuple[Quantized, Quantized] | None = None
        if spec.precision == "int8":
            self.quantized = (
                check_quantized("kernel", kernel, spec.kernel_shape),
                check_quantized("recurrent_kernel", recurrent_kernel, spec.recurrent_shape),
            )
            self.kernel, self.recurrent_kernel = (words(matrix.values) for matrix in self.quantized)
        else:
            self.recurrent_kernel = check_float("recurrent_kernel", recurrent_kernel, 2, spec.dtype, strided=True)
            check_shape("recurrent_kernel", self.recurrent_kernel, spec.recurrent_shape)
            self.kernel = check_float("kernel", kernel, 2, spec.dtype, strided=True)
            check_shape("kernel", self.kernel, spec.kernel_shape)
        self.bias = self.input_bias = self.recurrent_bias = None
        if bias is not None:
            self.bias = self.input_bias = check_float("bias", bias, len(spec.bias_shape), spec.dtype)
            check_shape("bias", self.bias, spec.bias_shape)
            if self.bias.ndim == 2:
                self.input_bias, self.recurrent_bias = self.bias
        self.size = self.kernel.size + self.recurrent_kernel.size
        self.lie_whole: bool = (
            self.kernel.size > 0 and self.kernel.flags.c_contiguous and self.recurrent_kernel.flags.c_contiguous
            and not spec.resets_before and self.quantized is None
        )
        self._inputs = self._cell = self._transposed = self._packed = _NOTHING

    def cell(self, module: ModuleType) -> Any:
        """The kernels' cell on the weights as they lie."""
        known, cell = self._cell
        if known is not module:
            biases = tuple([bias for bias in (self.input_bias, self.recurrent_bias) if bias is not None])
            code = getattr(module, self.spec.kind.code)
            cell = module.Cell(code, self.spec.codes, self.kernel, self.recurrent_kernel, biases, False)
            self._cell = module, cell
        return cell

    def program(self, module: ModuleType) -> Any:
        """The kernels' program on packed weights."""
        known, program = self._packed
        return program if known is module else self._pack(module)

    def _pack(self, module: ModuleType) -> Any:
        spec, columns, candidate = self.spec, self.spec.recurrent_columns, None
        if spec.cell == "simple_rnn":
            panels = product_panels(module, self.recurrent_kernel)
        else:
            panels = gate_panels(module, self.recurrent_kernel[:, :columns], columns // max(1, spec.units))
        if spec.resets_before:
            candidate = product_panels(module, self.recurrent_kernel[:, columns:])
        second = None if self.recurrent_bias is None else readable_bias(module, self.recurrent_bias)
        recurrent: tuple[Array | None, ...] = panels, candidate, second
        if self.quantized is not None:
            units = readable_units(module, self.quantized[1])
            recurrent += (units, units[columns:] if spec.resets_before else None)
        program = module.Program(
            getattr(module, spec.kind.code), *spec.codes, (spec.features, spec.units), self._input_panels(module),
            recurrent,
        )
        self._packed = module, program
        return program

    def transposed(self, module: ModuleType) -> Any:
        """What the kernels' backward pass reads of the recurrent kernel."""
        known, transposed = self._transposed
        if known is not module:
            recurrent, columns, candidate = self.recurrent_kernel, self.spec.recurrent_columns, None
            if self.spec.resets_before:
                candidate = product_panels(module, recurrent[:, columns:].T)
            transposed = module.Transposed(product_panels(module, recurrent[:, :columns].T), candidate)
            self._transposed = module, transposed
        return transposed

    def products(self, module: ModuleType, values: Array | Quantized) -> Array:
        """``values @ kernel + bias`` [U, gates * H], the bias being that of the inputs."""
        if isinstance(values, Quantized):
            values = values.rows(slice(None))
        out = aligned_empty((values.shape[0], self.spec.columns), self.spec.dtype)
        panels, bias, *units = self._input_panels(module)
        fill_product(module, self.operands(module, values), panels, bias, out, *units)
        return out

    def operands(self, module: ModuleType, values: Array) -> Array:
        """What meets the kernel: values (U, F), or quantised rows."""
        return values if self.quantized is None else quantized_rows(module, values)

    def _input_panels(self, module: ModuleType) -> tuple[Any, ...]:
        """The panels of the kernel, the bias of the inputs as the compiled kernels read it, and units if there are."""
        known, made = self._inputs
        if known is not module:
            bias = None if self.input_bias is None else readable_bias(module, self.input_bias)
            made = product_panels(module, self.kernel), bias
            if self.quantized is not None:
                made += (readable_units(module, self.quantized[0]),)
            self._inputs = module, made
        return made  # type: ignore[no-any-return]

    def dropout(self, module: ModuleType, masks: Array) -> Any:
        """The kernels' recurrent dropout by masks (1 or gates, B, H) in sorted order."""
        reset = None
        if self.spec.resets_before:
            # The last mask belongs to r * h.
            reset = np.ascontiguousarray(masks[-1])
            masks = masks[:2] if masks.shape[0] == 3 else masks
        width = self.spec.recurrent_columns // masks.shape[0]
        parts = [self.recurrent_kernel[:, g * width : (g + 1) * width] for g in range(masks.shape[0])]
        panels = np.stack([product_panels(module, part) for part in parts])
        transposed = np.stack([product_panels(module, part.T) for part in parts])
        return module.RecurrentDropout(np.ascontiguousarray(masks), panels, transposed, reset)
