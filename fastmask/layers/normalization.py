"""LayerNormalization and BatchNormalization, over the features or over other axes."""

from collections.abc import Sequence
from operator import index
from typing import Any, SupportsIndex, cast

import numpy as np

from fastmask import config
from fastmask.batch.packing import PackedSequence
from fastmask.layers.base import checks
from fastmask.layers.base.arguments import own_arguments
from fastmask.layers.base.checks import Array, Shape
from fastmask.layers.base.exchange import TorchForm, paired
from fastmask.layers.base.flow import Back, Shown, as_rows, cotangents, enter, fill_of, leave, pack_by, run
from fastmask.layers.base.layer import Call, Gradients, Layer, Pullback, describe
from fastmask.layers.base.variable import Variable
from fastmask.layers.base.weights import add_kept, keep_options
from fastmask.layers.core import RowLayer


class Normalization(Layer):
    """Base of the layers that normalize along some axes, of which `axis` tells.

    Attributes
    ----------
    axes : tuple of int
        Those axes in their order, counted from the end.
    """

    supports_masking = True
    axis: int | Sequence[int]
    axes: tuple[int, ...] = (-1,)
    rank: int | None = None

    def weights_shape(self, input_shape: Shape) -> tuple[int, ...]:
        """Return the lengths of the axes, and hold later inputs to them; ValueError if they cannot be normalized."""
        rank = len(input_shape)
        given = [self.axis] if isinstance(self.axis, int) else sorted(self.axis)
        axes = [place - rank if place >= 0 else place for place in given]
        if not axes or axes != sorted({*axes}) or not -rank < axes[0] <= axes[-1] < 0:
            raise ValueError(
                f"axis: expected different axes behind that of the batch, all counted from one end, for "
                f"{describe(self)} and inputs of shape {input_shape}, got {self.axis!r}"
            )
        self.axes = tuple(axes)
        if self.axes == (-1,):
            return (self.known_features(input_shape),)
        self.rank, sizes = rank, [input_shape[place] for place in axes]
        known = tuple([size for size in sizes if size is not None])
        if len(known) < len(sizes):
            raise ValueError(
                f"input_shape: expected known lengths of the axes {self.axis!r} to build {describe(self)}, "
                f"got {input_shape}"
            )
        return known

    def mask_flow(self, masked: Sequence[int], outputs: int) -> list[int]:
        if self.rank is not None and masked[0] > self.rank + self.axes[0]:
            self._refuse_mask()
        return super().mask_flow(masked, outputs)

    def normalize(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        """Return the normalized input and its pullback; the steps of a packed one are not among the axes."""
        raise NotImplementedError(f"{type(self).__name__} does not define normalize(x, call)")

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        if self.axes == (-1,):
            return self.normalize(x, call)
        self._check_shape(x.shape)
        steps, mask = 1, call.mask
        if isinstance(x, PackedSequence):
            steps, mask = len(x.packing.leading) + 1, x.packing.mask if x.packing.masked else None
        if (steps if mask is None else mask.ndim) <= len(x.shape) + self.axes[0]:
            return self.normalize(x, call)
        if mask is not None:
            self._refuse_mask()
        return self._over_steps(x, call) if isinstance(x, PackedSequence) else self.normalize(x, call)

    def _over_steps(self, x: PackedSequence, call: Call) -> tuple[PackedSequence, Pullback]:
        """Normalize a packed batch without padding along axes of its steps."""
        grid, enter_back = run("unpack", call.keep, x)
        y, pullback = self.normalize(grid, call)
        packed, leave_back = pack_by(y, x.packing)

        def through(dy: Any) -> Gradients:
            found = cast(Pullback, pullback)(leave_back(cast(Array, cotangents(dy, packed, self.dtype)[0])))
            return found._replace(inputs=enter_back(found.inputs))

        return packed, through

    def _check_shape(self, shape: Shape) -> None:
        wanted = cast(Shape, self.input_shape)
        if len(shape) != len(wanted) or any(shape[place] != wanted[place] for place in self.axes):
            raise ValueError(f"x: expected shape {wanted} for {describe(self)}, got {tuple(shape)}")

    def _refuse_mask(self) -> None:
        raise TypeError(
            f"axis: expected axes behind those of the mask for {describe(self)}, since masked steps have no values, "
            f"got {self.axis!r}; drop the mask with DropMask to count what stands in the padding, too"
        )


class LayerNormalization(Normalization, RowLayer):
    """Bring the features of each step to mean 0 and variance 1, then scale and shift them.

    Parameters
    ----------
    axis : int or sequence of int, default -1
        All axes but that of the batch; those of a mask are not normalized along.
    epsilon : float, default 0.001
        Added to the variance.
    center, scale : bool, default True
        Whether there is a beta to add, a gamma to multiply with.
    beta_initializer : str or callable, default "zeros"
    gamma_initializer : str or callable, default "ones"
    beta_regularizer, gamma_regularizer : str or Regularizer, optional
    beta_constraint, gamma_constraint : str or callable, optional
    **kwargs
        See `Layer`. With Keras's old ``rms_scaling=True`` values are divided by the root of variance and epsilon
        and multiplied with a gamma, but neither centered nor shifted.

    Notes
    -----
    Weights gamma and beta, both of the lengths of the axes: (F,) for the last one. The mask is passed on.
    """

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
        self.rms_scaling = bool(kwargs.pop("rms_scaling", False))
        super().__init__(**kwargs)
        self.axis = index(axis) if isinstance(axis, SupportsIndex) else [index(place) for place in axis]
        self.epsilon = float(epsilon)
        self.center, self.scale = bool(center), bool(scale)
        keep_options(self, **own_arguments(locals()))

    def create_weights(self, input_shape: Shape) -> None:
        shape = self.weights_shape(input_shape)
        self.gamma = add_kept(self, "gamma", shape) if self.scale or self.rms_scaling else None
        self.beta = add_kept(self, "beta", shape) if self.center and not self.rms_scaling else None

    def normalize(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        return RowLayer.forward(self, x, call)

    def torch_forms(self, number: int) -> list[TorchForm]:
        return [paired(("weight", "bias"), (self.gamma, self.beta))]

    def map_rows(self, values: Array, call: Call) -> tuple[Array, Pullback | None]:
        affine = _value(self.gamma), _value(self.beta), self.epsilon
        y, back = run("layer_normalization", call.keep, values, *affine, self.axes, self.rms_scaling)

        def pullback(dy: Any) -> Gradients:
            g = back(cotangents(dy, y, self.dtype)[0])
            return Gradients(g.x, [w for w in (g.gamma, g.beta) if w is not None])

        return y, pullback

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"rms_scaling": self.rms_scaling}


class BatchNormalization(Normalization):
    """Bring every feature to mean 0 and variance 1 over the batch, then scale and shift it.

    Parameters
    ----------
    axis : int, default -1
        The axis of the features, any but that of the batch; with a mask one behind the masked ones.
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
    passed on. With another `axis` than the last F is its length, and all others are normalized along.
    """

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
        self.axis = index(axis)
        self.momentum, self.epsilon = float(momentum), float(epsilon)
        self.center, self.scale = bool(center), bool(scale)
        keep_options(self, **own_arguments(locals()))
        self.renorm = checks.choice("renorm", renorm, (False,))
        self.synchronized = checks.choice("synchronized", synchronized, (False,))
        self.renorm_clipping, self.renorm_momentum = renorm_clipping, renorm_momentum

    def create_weights(self, input_shape: Shape) -> None:
        shape = self.weights_shape(input_shape)
        self.gamma = add_kept(self, "gamma", shape) if self.scale else None
        self.beta = add_kept(self, "beta", shape) if self.center else None
        self.moving_mean = self.add_weight(shape, self.moving_mean_initializer, "moving_mean", False)
        self.moving_variance = self.add_weight(shape, self.moving_variance_initializer, "moving_variance", False)

    def torch_forms(self, number: int) -> list[TorchForm]:
        variables = self.gamma, self.beta, self.moving_mean, self.moving_variance
        return [paired(("weight", "bias", "running_mean", "running_var"), variables)]

    def normalize(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
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
        rows, restore = self._rows_of(x)
        y, back = self._rows(rows, None, 0.0, call)
        output = restore(y)

        def pullback(dy: Any) -> Gradients:
            d, _ = self._rows_of(cast(Array, cotangents(dy, output, self.dtype)[0]))
            dx, weights = back(d)
            return Gradients(restore(dx), weights)

        return output, pullback

    def _rows_of(self, x: Array) -> tuple[Array, Back]:
        """Return rows of what the axis counts, and the way back to the shape of `x`."""
        moved = np.moveaxis(x, self.axes[0], -1)
        return as_rows(moved), lambda y: np.ascontiguousarray(np.moveaxis(y.reshape(moved.shape), -1, self.axes[0]))

    def _tokens(self, x: PackedSequence, call: Call) -> tuple[PackedSequence, Any]:
        """Normalize stored rows, each counted as often as it occurs, and below them what masked places show."""
        fill = fill_of(x)
        stored = np.concatenate([x.values, fill[None]])
        rows, restore = self._rows_of(stored)
        counts = np.ones(len(stored)) if x.index is None else np.bincount(x.index, minlength=len(stored))
        counts[-1] = 0
        each = np.repeat(counts, len(rows) // len(stored))
        y, back = self._rows(rows, each, config.epsilon() if x.packing.masked else 0.0, call)
        y = restore(y)

        def pullback(d: Array, shown: Array | None) -> tuple[Any, list[Any]]:
            last = np.zeros_like(fill) if shown is None else shown
            dx, weights = back(self._rows_of(np.concatenate([d, last[None]]))[0])
            dx = restore(dx)
            return dx[:-1] if shown is None else Shown(dx[:-1], dx[-1]), weights

        return x.with_values(y[:-1], fill=y[-1] if x.packing.masked else None), pullback

    def _rows(self, rows: Array, counts: Array | None, guard: float, call: Call) -> tuple[Array, Any]:
        """Normalize rows (n, F); the pullback returns the gradients by them and by all weights."""
        affine = (_value(self.gamma), _value(self.beta), self.epsilon)
        if call.training and self.trainable:
            (y, mean, variance), back = run("batch_training", call.keep, rows, counts, *affine, guard)
            if len(rows) if counts is None else counts.any():
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
