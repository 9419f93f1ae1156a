"""Layers that act on one step at a time (Dense, Activation, the dropouts and Identity)."""

from collections.abc import Sequence
from types import MappingProxyType, ModuleType
from typing import Any, cast

import numpy as np

from fastmask import ops
from fastmask.batch.packing import PackedSequence
from fastmask.layers.base import checks
from fastmask.layers.base.arguments import check_quantization_config, own_arguments
from fastmask.layers.base.checks import Array, Shape
from fastmask.layers.base.exchange import TorchForm, paired
from fastmask.layers.base.flow import Shown, as_rows, cotangents, enter, fill_of, leave, pulled, run, same, summed
from fastmask.layers.base.layer import Call, Gradients, Layer, Pullback
from fastmask.layers.base.programs import Kept
from fastmask.layers.base.weights import add_kept, keep_options
from fastmask.random import SeedGenerator, as_generator


class RowLayer(Layer):
    """Base of layers that map every row of values by itself.

    A packed batch is mapped where it is stored, so equal rows are mapped once; what it shows at
    masked places is mapped as well, as Keras computes those places too. Of a padded batch with a
    mask only the valid rows are read, and the masked ones taken for zeros.
    """

    supports_masking = True

    def map_rows(self, values: Array, call: Call) -> tuple[Array, Pullback | None]:
        """Return the outputs for values (n, ...) and, if ``call.keep``, the pullback."""
        raise NotImplementedError(f"{type(self).__name__} does not define map_rows(values, call)")

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        if not isinstance(x, PackedSequence):
            return self.map_rows(x, call) if call.mask is None else self._masked_grid(x, call)
        y, pullback = self.map_rows(x.values, call)
        if not x.packing.masked or x.shown is not None:
            return x.with_values(y), pullback
        fill, fill_pullback = self._map_fill(x, call.keep)

        def through(dy: Any) -> Gradients:
            valid = cast(Pullback, pullback)(dy)
            if not isinstance(dy, Shown):
                return valid
            shown = cast(Pullback, fill_pullback)(dy.fill[None])
            inputs = None
            if valid.inputs is not None and shown.inputs is not None:
                inputs = Shown(valid.inputs, shown.inputs[0])
            return Gradients(inputs, summed(valid.weights, shown.weights))

        return x.with_values(y, fill=fill), through

    def _map_fill(self, x: PackedSequence, keep: bool) -> tuple[Array, Pullback | None]:
        y, pullback = self.map_rows(fill_of(x)[None], Call(keep=keep))
        return y[0], pullback

    def _masked_grid(self, x: Array, call: Call) -> tuple[Array, Pullback | None]:
        source, enter_back = enter(x, call.mask, call.keep)
        values, pullback = self.map_rows(source.values, call)
        fill, fill_pullback = self._map_fill(source, call.keep)
        y, leave_back = leave(source.with_values(values, fill=fill), True, call.keep)

        def through(dy: Any) -> Gradients:
            d = cast(Array, cotangents(dy, y, self.dtype)[0])
            valid = cast(Pullback, pullback)(leave_back(d))
            shown = cast(Pullback, fill_pullback)(d[~source.packing.mask].sum(axis=0)[None])
            return Gradients(enter_back(valid.inputs), summed(valid.weights, shown.weights))

        return y, through


class Dense(RowLayer):
    """Fully connected layer: ``activation(x @ kernel + bias)``.

    Parameters
    ----------
    units : int
    activation : str, optional
        One of ``fastmask.ops.ACTIVATIONS``; None is linear.
    use_bias : bool, default True
    kernel_initializer : str or callable, default "glorot_uniform"
    bias_initializer : str or callable, default "zeros"
    kernel_regularizer, bias_regularizer : str or Regularizer, optional
        See `fastmask.regularizers`.
    kernel_constraint, bias_constraint : str or callable, optional
        See `fastmask.constraints`.
    activity_regularizer, lora_rank, lora_alpha
        Only None yet.
    quantization_config : mapping, optional
        None, or what Keras writes for int8.
    **kwargs
        See `Layer`.

    Notes
    -----
    Input (B, ..., F), output (B, ..., units); weights kernel (F, units) and bias (units,).
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        quantization_config: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        checks.not_supported(lora_rank=lora_rank, lora_alpha=lora_alpha)
        check_quantization_config(quantization_config)
        keep_options(self, **own_arguments(locals()))
        self.units = checks.positive_int("units", units)
        self.activation = checks.activation_name("activation", activation, ops.ACTIVATIONS)
        self.use_bias = bool(use_bias)
        self._kept: Kept[ops.DenseProgram] = Kept()

    quantizable = MappingProxyType({"kernel": 0})

    def create_weights(self, input_shape: Shape) -> None:
        features = self.known_features(input_shape)
        self.kernel = add_kept(self, "kernel", (features, self.units))
        self.bias = add_kept(self, "bias", (self.units,)) if self.use_bias else None

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.units)

    def torch_forms(self, number: int) -> list[TorchForm]:
        form = paired(("weight", "bias"), (self.kernel, self.bias))
        return [form._replace(store=_turned, load=_turned)]

    def _make_program(self) -> ops.DenseProgram:
        kernel = self.kernel.value if self.quantization_mode is None else self.quantized("kernel")
        return ops.DenseProgram(kernel, None if self.bias is None else self.bias.value, self.activation)

    def stages(self, module: ModuleType) -> list[Any] | None:
        program = self._kept.get(self._make_program, *self._variables)
        panels, start, units = program.packed(module)
        return [module.FullyConnected(panels, start, self.units, program.code, units)]

    def map_rows(self, values: Array, call: Call) -> tuple[Array, Pullback | None]:
        program = self._kept.get(self._make_program, *self._variables)
        if call.keep and self.quantization_mode is not None:
            self.refuse_training()
        rows = as_rows(values)
        if not (rows.flags.c_contiguous and rows.flags.aligned):
            rows = rows.copy()
        flat, back = program.vjp(rows) if call.keep else (program.run(rows), same)
        y = flat.reshape(*values.shape[:-1], self.units)

        def pullback(dy: Any) -> Gradients:
            d = cast(Array, cotangents(dy, y, self.dtype)[0])
            dx, *weights = back(d.reshape(flat.shape))
            return Gradients(dx.reshape(values.shape), weights[: len(self.weights)])

        return y, pullback


class Activation(RowLayer):
    """An activation function by itself.

    Parameters
    ----------
    activation : str
        One of ``fastmask.ops.ACTIVATIONS``; None is linear. Softmax is over the last axis.
    **kwargs
        See `Layer`.
    """

    def __init__(self, activation: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = checks.activation_name("activation", activation, ops.ACTIVATIONS)

    def map_rows(self, values: Array, call: Call) -> tuple[Array, Pullback | None]:
        y, back = run("activation", call.keep, values, self.activation)
        return y, pulled(y, back, self.dtype)


class Dropout(Layer):
    """Set inputs to zero at random while training, and scale up the others by 1 / (1 - rate).

    Parameters
    ----------
    rate : float
        From 0 to 1; the fraction dropped.
    noise_shape : tuple, optional
        Shape of the noise, with 1 for axes that share it and None for those of the input's length:
        ``(None, 1, None)`` drops whole features of a sequence.
    seed : int or SeedGenerator, optional
    **kwargs
        See `Layer`.
    """

    supports_masking = True

    def __init__(
        self,
        rate: float,
        noise_shape: Sequence[int | None] | None = None,
        seed: int | SeedGenerator | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rate = checks.fraction("rate", rate)
        self.noise_shape = None if noise_shape is None else tuple(noise_shape)
        self.seed = seed
        if self.rate:
            self.seed_generator = as_generator(seed)

    @property
    def stochastic(self) -> bool:
        return self.rate > 0

    def stages(self, module: ModuleType) -> list[Any] | None:
        return []

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        if not (call.training and self.stochastic):
            return passed_on(x, self.dtype)
        packed = isinstance(x, PackedSequence)
        if packed and x.shown is not None:
            return self._shown(x, call)
        data, collapse = run("expand", call.keep, x) if packed else (x, same)
        dropped, back = run("multiply", call.keep, data, self._factor(x, data.shape))
        y = PackedSequence(dropped, x.packing, None, x.fill, x.repeat) if packed else dropped

        def pullback(dy: Any) -> Gradients:
            d = collapse(back(cotangents(dy, y, self.dtype)[0]))
            return Gradients(Shown(d, dy.fill) if isinstance(dy, Shown) else d, [])

        return y, pullback

    def _shown(self, x: PackedSequence, call: Call) -> tuple[PackedSequence, Pullback]:
        """Drop tokens, each by itself, and leave alone what masked places show, as in other batches."""
        tokens = x.packing.tokens
        source = np.concatenate([cast(Array, x.index), np.arange(len(x.values))])
        factor = np.ones((len(source), *x.values.shape[1:]), x.dtype)
        factor[:tokens] = self._factor(x, (tokens, *x.values.shape[1:]))
        values = x.values[source] * factor
        y = PackedSequence(values, x.packing, np.arange(tokens), None, False, cast(Array, x.shown) + tokens)

        def pullback(dy: Any) -> Gradients:
            d = cast(Array, cotangents(dy, y, self.dtype)[0]) * factor
            inputs = d[tokens:]
            np.add.at(inputs, source[:tokens], d[:tokens])
            return Gradients(inputs, [])

        return y, pullback

    def _factor(self, x: Any, shape: tuple[int, ...]) -> Array:
        """Draw the noise for data of `shape`, one row per token if `x` is packed."""
        if self.noise_shape is None:
            return keep_factor(self.seed_generator, self.rate, shape, self.dtype)
        if len(self.noise_shape) != len(x.shape):
            raise ValueError(
                f"noise_shape: expected {len(x.shape)} axes for x of shape {x.shape}, got {self.noise_shape}"
            )
        wanted = [n if own is None else own for own, n in zip(self.noise_shape, x.shape, strict=True)]
        if any(own not in (1, n) for own, n in zip(wanted, x.shape, strict=True)):
            raise ValueError(f"noise_shape: expected a shape that fits x of shape {x.shape}, got {self.noise_shape}")
        noise = keep_factor(self.seed_generator, self.rate, tuple(wanted), self.dtype)
        if not isinstance(x, PackedSequence):
            return np.broadcast_to(noise, shape)
        grid = (*x.packing.leading, x.packing.total_length)
        axes = np.unravel_index(x.packing.positions, tuple(max(1, n) for n in grid))
        chosen = noise[tuple(along if n > 1 else along * 0 for along, n in zip(axes, wanted, strict=False))]
        return np.broadcast_to(chosen, shape)


class SpatialDropout1D(Dropout):
    """Dropout of whole features: what a row loses it loses at every step.

    Parameters
    ----------
    rate : float
        From 0 to 1; the fraction dropped.
    seed : int or SeedGenerator, optional
    name, dtype : str, optional
    **kwargs
        See `Layer`.
    """

    input_rank = 3

    def __init__(
        self,
        rate: float,
        seed: int | SeedGenerator | None = None,
        name: str | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(rate, (None, 1, None), seed, name=name, dtype=dtype, **kwargs)

    def get_config(self) -> dict[str, Any]:
        # Keras's constructor takes no other arguments.
        config = super().get_config()
        return {name: config[name] for name in ("rate", "seed", "name", "dtype")}


class Identity(Layer):
    """Return the input, with its mask.

    Parameters
    ----------
    **kwargs
        See `Layer`.
    """

    supports_masking = True

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        return passed_on(x, self.dtype)


def _turned(arrays: Sequence[Array]) -> Sequence[Array]:
    """Return a matrix and whatever else there is with the matrix transposed."""
    return [arrays[0].T, *arrays[1:]]


def passed_on(x: Any, dtype: np.dtype[Any]) -> tuple[Any, Pullback]:
    """Return `x` and the pullback of a layer that does nothing to it."""
    return x, lambda dy: Gradients(dy if isinstance(dy, Shown) else cotangents(dy, x, dtype)[0], [])


def keep_factor(source: SeedGenerator, rate: float, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Draw a factor of dropout: 0 with probability `rate`, else 1 / (1 - rate)."""
    kept = source.generator.random(shape, np.float32) >= rate
    factor: Array = kept.astype(dtype) / dtype.type(max(1 - rate, 1e-30))
    return factor
