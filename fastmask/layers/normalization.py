"""LayerNormalization and BatchNormalization, over the last axis."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from fastmask import config
from fastmask.batch.packing import PackedSequence
from fastmask.layers.base import checks
from fastmask.layers.base.arguments import own_arguments
from fastmask.layers.base.checks import Array, Shape
from fastmask.layers.base.exchange import TorchForm, paired
from fastmask.layers.base.flow import Shown, as_rows, cotangents, enter, fill_of, leave, run
from fastmask.layers.base.layer import Call, Gradients, Layer, Pullback, describe
from fastmask.layers.base.variable import Variable
from fastmask.layers.base.weights import add_kept, keep_options
from fastmask.layers.core import RowLayer


class LayerNormalization(RowLayer):
    """Bring the features of each step to mean 0 and variance 1, then scale and shift them.

    Parameters
    ----------
    axis : int or sequence of one int, default -1
        Must be the last one.
    epsilon : float, default 0.001
        Added to the variance.
    center, scale : bool, default True
        Whether there is a beta to add, a gamma to multiply with.
    beta_initializer : str or callable, default "zeros"
    gamma_initializer : str or callable, default "ones"
    beta_regularizer, gamma_regularizer : str or Regularizer, optional
    beta_constraint, gamma_constraint : str or callable, optional
    **kwargs
        See `Layer`. Keras's old `rms_scaling` must be False.

    Notes
    -----
    Weights gamma (F,) and beta (F,). The mask is passed on.
    """

    supports_masking = True

    def __init__(
        self,
        axis: int | Sequence[int] = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        self.rms_scaling = checks.choice("rms_scaling", kwargs.pop("rms_scaling", False), (False,))
        super().__init__(**kwargs)
        self.axis, self.epsilon = axis, float(epsilon)
        self.center, self.scale = bool(center), bool(scale)
        keep_options(self, **own_arguments(locals()))

    def create_weights(self, input_shape: Shape) -> None:
        shape = (self.known_features(input_shape),)
        _require_last_axis(self, input_shape)
        self.gamma = add_kept(self, "gamma", shape) if self.scale else None
        self.beta = add_kept(self, "beta", shape) if self.center else None

    def torch_forms(self, number: int) -> list[TorchForm]:
        return [paired(("weight", "bias"), (self.gamma, self.beta))]

    def map_rows(self, values: Array, call: Call) -> tuple[Array, Pullback | None]:
        y, back = run("layer_normalization", call.keep, values, _value(self.gamma), _value(self.beta), self.epsilon)

        def pullback(dy: Any) -> Gradients:
            g = back(cotangents(dy, y, self.dtype)[0])
            return Gradients(g.x, [w for w in (g.gamma, g.beta) if w is not None])

        return y, pullback

    def get_config(self) -> dict[str, Any]:
        axis = self.axis if isinstance(self.axis, int) else list(self.axis)
        return super().get_config() | {"axis": axis, "rms_scaling": False}


class BatchNormalization(Layer):
    """Bring every feature to mean 0 and variance 1 over the batch, then scale and shift it.

    Parameters
    ----------
    axis : int, default -1
        Must be the last one.
    momentum : float, default 0.99
        Share of the old moving statistics that a training call keeps.
    epsilon : float, default 0.001
        Added to the variance.
    center, scale : bool, default True
        Whether there is a beta to add, a gamma to multiply with.
    beta_initializer, gamma_initializer, moving_mean_initializer, moving_variance_initializer : \
str or callable
        "zeros", "ones", "zeros" and "ones" by default.
    beta_regularizer, gamma_regularizer : str or Regularizer, optional
    beta_constraint, gamma_constraint : str or callable, optional
    renorm, renorm_clipping, renorm_momentum, synchronized
        Accepted for Keras's sake; `renorm` and `synchronized` must be False.
    **kwargs
        See `Layer`.

    Notes
    -----
    Weights gamma (F,), beta (F,) and, which training does not change by gradient, moving_mean (F,)
    and moving_variance (F,). The statistics of a training call are those of the valid tokens; other
    calls, and all calls of a layer with ``trainable=False``, use the moving ones. The mask is
    passed on.
    """

    supports_masking = True
    moving_mean_initializer: Any
    moving_variance_initializer: Any

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        renorm: bool = False,
        renorm_clipping: Any = None,
        renorm_momentum: float = 0.99,
        synchronized: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.axis = int(axis)
        self.momentum, self.epsilon = float(momentum), float(epsilon)
        self.center, self.scale = bool(center), bool(scale)
        keep_options(self, **own_arguments(locals()))
        self.renorm = checks.choice("renorm", renorm, (False,))
        self.synchronized = checks.choice("synchronized", synchronized, (False,))
        self.renorm_clipping, self.renorm_momentum = renorm_clipping, renorm_momentum

    def create_weights(self, input_shape: Shape) -> None:
        shape = (self.known_features(input_shape),)
        _require_last_axis(self, input_shape)
        self.gamma = add_kept(self, "gamma", shape) if self.scale else None
        self.beta = add_kept(self, "beta", shape) if self.center else None
        self.moving_mean = self.add_weight(shape, self.moving_mean_initializer, "moving_mean", False)
        self.moving_variance = self.add_weight(shape, self.moving_variance_initializer, "moving_variance", False)

    def torch_forms(self, number: int) -> list[TorchForm]:
        variables = self.gamma, self.beta, self.moving_mean, self.moving_variance
        return [paired(("weight", "bias", "running_mean", "running_var"), variables)]

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        if not isinstance(x, PackedSequence) and call.mask is None:
            return self._grid(x, call)
        source, enter_back = enter(x, call.mask, call.keep)
        packed, back = self._tokens(source, call)
        y, leave_back = leave(packed, not isinstance(x, PackedSequence), call.keep)
        padded_mask = None if isinstance(x, PackedSequence) else source.packing.mask

        def pullback(dy: Any) -> Gradients:
            d = cast(Array, cotangents(dy, y, self.dtype)[0])
            shown = dy.fill if isinstance(dy, Shown) else None
            if padded_mask is not None:
                shown = d[~padded_mask].sum(axis=0)
            inputs, weights = back(leave_back(d), shown)
            return Gradients(inputs if shown is None or padded_mask is None else enter_back(inputs.values), weights)

        return y, pullback

    def _grid(self, x: Array, call: Call) -> tuple[Array, Pullback]:
        y, back = self._rows(as_rows(x), None, 0.0, call)

        def pullback(dy: Any) -> Gradients:
            d = cast(Array, cotangents(dy, y.reshape(x.shape), self.dtype)[0])
            dx, weights = back(d.reshape(y.shape))
            return Gradients(dx.reshape(x.shape), weights)

        return y.reshape(x.shape), pullback

    def _tokens(self, x: PackedSequence, call: Call) -> tuple[PackedSequence, Any]:
        """Normalize stored rows, each counted as often as it occurs, and below them what masked places show."""
        fill = fill_of(x)
        stored = np.concatenate([x.values, fill[None]])
        rows = as_rows(stored)
        counts = np.ones(len(stored)) if x.index is None else np.bincount(x.index, minlength=len(stored))
        counts[-1] = 0
        each = np.repeat(counts, len(rows) // len(stored))
        y, back = self._rows(rows, each, config.epsilon() if x.packing.masked else 0.0, call)
        y = y.reshape(stored.shape)

        def pullback(d: Array, shown: Array | None) -> tuple[Any, list[Any]]:
            last = np.zeros_like(fill) if shown is None else shown
            dx, weights = back(np.concatenate([d, last[None]]).reshape(rows.shape))
            dx = dx.reshape(stored.shape)
            return dx[:-1] if shown is None else Shown(dx[:-1], dx[-1]), weights

        return x.with_values(y[:-1], fill=y[-1] if x.packing.masked else None), pullback

    def _rows(self, rows: Array, counts: Array | None, guard: float, call: Call) -> tuple[Array, Any]:
        """Normalize rows (n, F); the pullback returns the gradients by them and by all weights."""
        affine = (_value(self.gamma), _value(self.beta), self.epsilon)
        if call.training and self.trainable:
            (y, mean, variance), back = run("batch_training", call.keep, rows, counts, *affine, guard)
            if len(rows) > (counts is not None):
                self._move(self.moving_mean, mean)
                self._move(self.moving_variance, variance)
        else:
            moments = (self.moving_mean.value.copy(), self.moving_variance.value.copy())
            y, back = run("batch_normalization", call.keep, rows, *moments, *affine)

        def pullback(d: Array) -> tuple[Array, list[Any]]:
            g = back(d)
            return g.x, [*[w for w in (g.gamma, g.beta) if w is not None], g.mean, g.variance]

        return y, pullback

    def _move(self, variable: Variable, found: Array) -> None:
        with variable.changing() as average:
            average *= average.dtype.type(self.momentum)
            average += found * found.dtype.type(1 - self.momentum)


def _value(variable: Any) -> Array | None:
    return None if variable is None else variable.value


def _require_last_axis(layer: Any, input_shape: Shape) -> None:
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    if axes not in ([-1], [len(input_shape) - 1]):
        raise ValueError(f"axis: expected the last one, -1, for {describe(layer)}, got {layer.axis!r}")
