"""Embedding: ids to vectors, each distinct id of a packed batch once."""

from collections.abc import Hashable
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np

from fastmask import initializers, ops
from fastmask.batch.packing import PackedSequence
from fastmask.core.arguments import described, integers
from fastmask.core.errors import IdError
from fastmask.layers.base import checks
from fastmask.layers.base.arguments import check_quantization_config
from fastmask.layers.base.checks import Array, Shape
from fastmask.layers.base.exchange import TorchForm, paired
from fastmask.layers.base.flow import Back, Shown, add, cotangents, run, same, unread_ids
from fastmask.layers.base.layer import Call, Gradients, Layer, Pullback
from fastmask.layers.base.symbolic import KerasTensor
from fastmask.layers.base.weights import add_kept, keep_options
from fastmask.layers.logic import NotEqual
from fastmask.ops import SparseRows
from fastmask.ops._embedding import distinct_ids


class Embedding(Layer):
    """A table of vectors, looked up by integer ids.

    Parameters
    ----------
    input_dim : int
        Number of ids: the largest id plus one.
    output_dim : int
        Length of a vector.
    embeddings_initializer : str or callable, default "uniform"
    embeddings_regularizer : str or Regularizer, optional
        See `fastmask.regularizers`; it makes the gradient dense.
    embeddings_constraint : str or callable, optional
        See `fastmask.constraints`.
    lora_rank, lora_alpha
        Only None yet.
    quantization_config : mapping, optional
        None, or what Keras writes for int8.
    mask_zero : bool, default False
        Whether id 0 stands for padding, which later layers then skip.
    weights : array_like (input_dim, output_dim), or a list of one, optional
        The table to start from.
    input_length : int, optional
        Number of steps, if it is fixed; only `output_shape` tells it.
    **kwargs
        See `Layer`.

    Notes
    -----
    Input ids of any shape, or packed ids; output has one axis more, and the mask has the shape of
    the ids. The weight is embeddings (input_dim, output_dim); its gradient is sparse
    (``SparseRows``). Ids from 0 to input_dim - 1 are legal, others raise IndexError; floats are taken if all are
    whole numbers. Row 0 is an ordinary row even with `mask_zero`.

    A mask that is passed in is ignored with `mask_zero`. Without, it is passed on, and id 0 is looked up
    where it masks: what stands there is not read.
    """

    supports_masking = True
    takes_ids = True
    quantizable = MappingProxyType({"embeddings": 1})

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        embeddings_constraint: Any = None,
        mask_zero: bool = False,
        weights: Any = None,
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        quantization_config: Any = None,
        input_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        checks.not_supported(lora_rank=lora_rank, lora_alpha=lora_alpha)
        check_quantization_config(quantization_config)
        keep_options(self, embeddings_initializer=embeddings_initializer)
        keep_options(self, embeddings_regularizer=embeddings_regularizer, embeddings_constraint=embeddings_constraint)
        self.input_dim = checks.positive_int("input_dim", input_dim)
        self.output_dim = checks.positive_int("output_dim", output_dim)
        self.mask_zero = self.makes_mask = bool(mask_zero)
        self.input_length = None if input_length is None else checks.positive_int("input_length", input_length)
        # A table that is given takes the place of zeros, which cost less than random numbers.
        self._start = None if weights is None else initializers.Zeros()
        if weights is not None:
            self.build((None, self.input_length))
            self.set_weights(weights if isinstance(weights, (list, tuple)) else [weights])

    def create_weights(self, input_shape: Shape) -> None:
        self.embeddings = add_kept(self, "embeddings", (self.input_dim, self.output_dim), initializer=self._start)

    def torch_forms(self, number: int) -> list[TorchForm]:
        return [paired(("weight",), (self.embeddings,))]

    @property
    def pack_key(self) -> Hashable:
        return "nonzero" if self.mask_zero else None

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        if len(input_shape) == 2 and input_shape[1] is None:
            input_shape = (input_shape[0], self.input_length)
        return (*input_shape, self.output_dim)

    def check_input(self, x: Any) -> Any:
        ids = x if type(x) is np.ndarray else x.values if isinstance(x, PackedSequence) else checks.as_array("x", x)
        found = ids if ids.dtype.kind in "iu" else integers(ids)
        if found is None:
            raise TypeError(f"x: expected integer ids, got {described(ids)}")
        if not isinstance(x, PackedSequence):
            return found
        return x if found is ids else x.with_values(found, None if x.fill is None else np.asarray(x.fill, found.dtype))

    def compute_mask(self, x: Any, mask: Any = None) -> Any:
        """Return ``x != 0`` with `mask_zero`, which ignores `mask`; else `mask`. `x` may be symbolic."""
        if not self.mask_zero:
            return mask
        return NotEqual()(x) if isinstance(x, KerasTensor) else np.not_equal(x, 0)

    def pack_input(self, x: Any, mask: Any = None) -> PackedSequence:
        """Pack padded ids (B, T) by the mask that `compute_mask` gives."""
        ids = self.check_input(x)
        if mask is not None:
            mask = checks.mask_for(mask, ids.shape, ids=True)
        return PackedSequence.from_padded(ids, self.compute_mask(ids, mask))

    def stages(self, module: ModuleType) -> list[Any] | None:
        if self.quantization_mode is not None:
            return [module.QuantizedLookUp(*self.quantized("embeddings"), self.mask_zero)]
        return [module.LookUp(self.embeddings.value, self.mask_zero)]

    def _table(self) -> Any:
        return self.embeddings.value if self.quantization_mode is None else self.quantized("embeddings")

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        table: Any = self.embeddings.value
        version: Hashable = self.embeddings.version
        if self.quantization_mode is not None:
            if call.keep:
                self.refuse_training()
            table, versions = self._table(), tuple([weight.version for weight in self._variables])
            version = None if None in versions else versions
        if isinstance(x, PackedSequence) and self.mask_zero and not x.values.all():
            x = self.pack_input(x.pad())
        elif call.mask is not None and not self.mask_zero:
            x = unread_ids(x, call.mask)
        if isinstance(x, PackedSequence) and x.values.ndim > 1:
            return self._several_each(x, call.keep)
        packed = isinstance(x, PackedSequence) and x.packing.masked
        fill = ops.rows_of(table, 0 if x.fill is None else int(x.fill)).copy() if packed else None
        y: Array | PackedSequence
        back: Back = same
        if call.keep:
            y, back = ops.embedding_vjp(x, table, fill)
        else:
            y = ops.embedding(x, table, version, fill)

        def pullback(dy: Any) -> Gradients:
            gradient = back(cotangents(dy, y, self.dtype)[0])
            if isinstance(dy, Shown):
                shown = np.array([0 if x.fill is None else x.fill], np.int64)
                gradient = add(gradient, SparseRows(shown, dy.fill[None], gradient.shape))
            return Gradients(None, [gradient])

        return y, pullback

    def _several_each(self, x: PackedSequence, keep: bool) -> tuple[PackedSequence, Pullback]:
        """Look up the ids (N, ...) of tokens that have several each."""
        fill = np.zeros(x.values.shape[1:], x.dtype) if x.fill is None else np.asarray(x.fill, x.dtype)
        try:
            stored, back = run("embedding", keep, np.concatenate([x.values, fill[None]]), self._table())
        except IdError:
            distinct_ids(x.values, self.input_dim, x.packing, x.index)  # Its error names the place in the batch.
            raise
        y = x.with_values(stored[:-1], fill=stored[-1] if x.packing.masked else None)

        def pullback(dy: Any) -> Gradients:
            shown = dy.fill if isinstance(dy, Shown) else np.zeros_like(stored[-1])
            return Gradients(None, [back(np.concatenate([cotangents(dy, y, self.dtype)[0], shown[None]]))])

        return y, pullback
