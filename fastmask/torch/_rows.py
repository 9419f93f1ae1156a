"""A packed batch of tokens of which equal ones are stored once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fastmask.torch._plan import Plan


@dataclass(frozen=True, eq=False)
class PackedRows:
    """What :class:`fastmask.torch.Embedding` makes of packed or masked ids: each distinct row of the batch once.

    The layers of this package take it as their input.

    Attributes
    ----------
    rows : tensor (U, D)
        The row of each distinct id of the batch.
    index : int64 tensor (N,)
        Token n is ``rows[index[n]]``, in the order of ``PackedSequence.data``.
    plan : Plan
        Which steps of the batch count.
    packed : tuple of tensors or None
        ``batch_sizes``, ``sorted_indices`` and ``unsorted_indices`` of the PackedSequence that the ids came in.
    """

    rows: Tensor
    index: Tensor
    plan: Plan
    packed: tuple[Tensor, Tensor | None, Tensor | None] | None

    @property
    def data(self) -> Tensor:
        """One row for each token, (N, D)."""
        return self.rows.index_select(0, self.index)

    def expand(self) -> PackedSequence | Tensor:
        """The same batch for other layers.

        Returns
        -------
        PackedSequence, or tensor (B, T, D) with zeros at masked places
            In the form of the ids.
        """
        if self.packed is not None:
            return PackedSequence(self.data, *self.packed)
        return self.plan.with_time_major(False).unpack(self.data)
