"""An ``Embedding`` that takes each distinct row of a batch once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fastmask.ops._embedding import distinct_ids
from fastmask.torch import _library
from fastmask.torch._checks import check_tensor, exactly
from fastmask.torch._plan import packed_plan, padded_plan
from fastmask.torch._rows import PackedRows
from fastmask.torch._tape import as_array
from fastmask.torch._ways import Unscriptable, Way, way

__all__ = ["Embedding"]


class _DistinctRows(torch.autograd.Function):
    """Rows of a table by ids of which each occurs once; the gradient is dense or a sparse tensor."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, unique: Tensor, padding: int | None, sparse: bool) -> Tensor:
        ctx.save_for_backward(unique)
        ctx.shape, ctx.padding, ctx.sparse = weight.shape, padding, sparse
        return weight.index_select(0, unique)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        (unique,) = ctx.saved_tensors
        if ctx.padding is not None:
            kept = unique != ctx.padding
            unique, d = unique[kept], d[kept]
        if ctx.sparse:
            return torch.sparse_coo_tensor(unique[None], d, ctx.shape, check_invariants=False), None, None, None
        return d.new_zeros(ctx.shape).index_copy(0, unique, d), None, None, None


def _checked_ids(ids: Tensor, found: Way) -> Tensor:
    if not isinstance(ids, Tensor):
        raise TypeError(f"input: expected a tensor or a PackedSequence of ids, got {type(ids).__name__}")
    if ids.dtype.is_floating_point:
        ids = exactly(ids, torch.int64, found)
    if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype is torch.bool:
        raise TypeError(f"input: expected integers, got {ids.dtype}")
    if ids.device.type != "cpu":
        raise ValueError(f"input: expected ids on the CPU, got {ids.device}")
    return ids


class Embedding(Unscriptable, torch.nn.Embedding):
    """:class:`torch.nn.Embedding` that reads and differentiates each distinct row of a batch once.

    Constructor arguments, ``weight``, initialisation, ``from_pretrained`` and state dicts are those of
    ``torch.nn.Embedding``; ``max_norm`` and ``scale_grad_by_freq`` are refused. With ``sparse=True`` the gradient
    of the weight is a sparse tensor in which each row occurs once, as ``torch.optim.SparseAdam`` takes it. The
    gradient of the row ``padding_idx`` is zero.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, *arguments: Any, **keywords: Any) -> None:
        super().__init__(num_embeddings, embedding_dim, *arguments, **keywords)
        if self.max_norm is not None:
            raise ValueError(f"max_norm: expected None, got {self.max_norm}; use torch.nn.Embedding for it")
        if self.scale_grad_by_freq:
            raise ValueError("scale_grad_by_freq: expected False, got True; use torch.nn.Embedding for it")

    def forward(
        self, input: Tensor | PackedSequence, *, mask: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> Any:
        """Take the rows that ids name.

        Parameters
        ----------
        input : integer tensor, or PackedSequence of ids
            Ids from 0 to ``num_embeddings - 1``. Floats are taken in calls that run on the kernels, if all are whole.
        mask : bool tensor (B, T), optional
            Which ids of a tensor (B, T) count; the others are not read.
        lengths : integer tensor (B,) or sequence of int, optional
            How many leading ids of each row count, instead of a mask.

        Returns
        -------
        tensor of shape ``input.shape + (D,)``
            From a tensor without mask and lengths.
        PackedRows
            Otherwise: the distinct rows and their places, for a layer of this package.

        Raises
        ------
        IndexError
            Where an id that counts is out of range.
        TypeError, ValueError
            Where a tensor has another dtype, device or shape.
        RuntimeError
            Where the call is recorded by TorchScript, an ONNX exporter or ``torch.fx.symbolic_trace``.
        """
        ids = input.data if isinstance(input, PackedSequence) else input
        found = way((ids, mask, lengths, self.weight))
        check_tensor("weight", self.weight)
        ids = _checked_ids(ids, found)
        if isinstance(input, PackedSequence):
            if mask is not None or lengths is not None:
                raise ValueError("mask, lengths: expected neither with packed ids, which say what counts, got one")
            plan = packed_plan(found, input.batch_sizes, input.sorted_indices)
            rows, index = self._distinct(found, ids, plan)
            return PackedRows(rows, index, plan, tuple(input[1:]))
        if mask is None and lengths is None:
            rows, index = self._distinct(found, ids)
            return rows.index_select(0, index).view(*ids.shape, self.embedding_dim)
        if ids.dim() != 2:
            raise ValueError(f"input: expected ids (batch, steps), got shape {tuple(ids.shape)}")
        plan = padded_plan(found, ids.shape, mask, lengths)
        rows, index = self._distinct(found, plan.pack(ids[:, :, None]).reshape(-1), plan)
        return PackedRows(rows, index, plan, None)

    def _distinct(self, found: Way, ids: Tensor, plan: Any = None) -> tuple[Tensor, Tensor]:
        if found is Way.KERNELS:
            arrays = distinct_ids(as_array(ids), self.num_embeddings, None if plan is None else plan.packing)
            unique, index = map(torch.from_numpy, arrays)
            return _DistinctRows.apply(self.weight, unique, self.padding_idx, self.sparse), index
        ids = ids.reshape(-1)
        if torch.compiler.is_compiling() and found is Way.OPERATORS:
            unique, index = _library.distinct(ids, self.num_embeddings)
        else:
            # Which ids are distinct is not known of fake tensors, or of all samples within torch.vmap.
            unique, index = ids, torch.arange(ids.shape[0])
        return torch.nn.functional.embedding(unique, self.weight, self.padding_idx, sparse=self.sparse), index
