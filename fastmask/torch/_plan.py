"""The plan of a batch for calls outside of torch.compile."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fastmask.packing import Packing
from fastmask.torch import _eager
from fastmask.torch._tape import Inputs, Job, Outputs, Spec, Tensor, as_array

Indices = NDArray[np.int64]


class Plan:
    """How padded tensors become packed ones and back.

    Parameters
    ----------
    packing : Packing
    time_major : bool, default False
        Padded tensors are (T, B, F) instead of (B, T, F).
    """

    def __init__(self, packing: Packing, time_major: bool = False) -> None:
        self.packing = packing
        self.time_major = time_major

    @classmethod
    def from_mask(cls, mask: Tensor, time_major: bool = False) -> Plan:
        """The plan of a mask (B, T), or (T, B) if ``time_major``."""
        grid = as_array(mask)
        return cls(Packing.from_mask(grid.T if time_major else grid), time_major)

    @classmethod
    def from_lengths(cls, lengths: Tensor, steps: int, time_major: bool = False) -> Plan:
        """The plan of rows whose first ``lengths[b]`` of ``steps`` steps count."""
        return cls(Packing.from_lengths(as_array(lengths), steps), time_major)

    @classmethod
    def full(cls, batch: int, steps: int, time_major: bool = False) -> Plan:
        """The plan of a batch whose every step counts."""
        return cls(Packing.full(batch, steps), time_major)

    @classmethod
    def from_batch_sizes(cls, batch_sizes: Tensor, sorted_indices: Tensor | None) -> Plan:
        """The plan of a ``torch.nn.utils.rnn.PackedSequence``."""
        order = None if sorted_indices is None else as_array(sorted_indices)
        return cls(Packing.from_batch_sizes(as_array(batch_sizes), order))

    @cached_property
    def _positions(self) -> Indices:
        """Place of each packed token in the flattened padded tensor."""
        return self._places(self.packing)

    def _places(self, packing: Packing) -> Indices:
        if not self.time_major:
            return packing.positions
        return (packing.positions - packing.rows * packing.total_length) * packing.batch_size + packing.rows

    def _cells(self, packing: Packing, repeat: bool) -> Indices:
        """Packed token that each place of the flattened padded tensor shows, or -1."""
        cells = packing.grid(repeat)
        if not self.time_major:
            return cells
        return np.ascontiguousarray(cells.reshape(packing.batch_size, packing.total_length).T).reshape(-1)

    def pack(self, x: Tensor) -> Tensor:
        """The valid tokens (N, F) of a padded tensor."""
        features = x.shape[2]
        if not self.packing.masked:
            return (x if self.time_major else x.transpose(0, 1)).reshape(self.packing.tokens, features)
        rows = x.reshape(x.shape[0] * x.shape[1], features)
        return _eager.take(rows, self._positions, self._cells(self.packing, False))

    def unpack(self, values: Tensor, *, repeat: bool = False, flipped: bool = False) -> Tensor:
        """The padded tensor of values (N, H).

        Parameters
        ----------
        values : tensor (N, H)
        repeat : bool, default False
            Masked places show the valid token before them; otherwise zeros.
        flipped : bool, default False
            The values are in the order of a run from the end, and so are the steps of the result.
        """
        batch, steps, units = self.packing.batch_size, self.packing.total_length, values.shape[1]
        if not self.packing.masked:
            padded = values.view(steps, batch, units)
            return padded if self.time_major else padded.transpose(0, 1)
        packing = self.packing.reversed if flipped else self.packing
        rows = _eager.take(values, self._cells(packing, repeat), None if repeat else self._places(packing))
        return rows.view(*((steps, batch) if self.time_major else (batch, steps)), units)

    def reverse(self, values: Tensor) -> Tensor:
        """Values of a run from the end in the order of time, or the other way round."""
        return _eager.take(values, self.packing.reverse, self.packing.reverse)

    def run(self, spec: Spec, inputs: Inputs, differentiable: bool, index: Indices | None = None) -> Outputs:
        """Run a layer on packed values."""
        return _eager.recurrent(Job(spec, self.packing, index), inputs, differentiable)
