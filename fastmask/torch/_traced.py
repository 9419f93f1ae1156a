"""The plan of a batch for calls that torch.compile traces: tensors and custom operators instead of a Packing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastmask.ops.rnn import CELLS
from fastmask.torch import _library
from fastmask.torch._kept import KeptProgram
from fastmask.torch._tape import Inputs, Options, Outputs


@dataclass(frozen=True)
class TracedPlan:
    """How padded tensors become packed ones and back; see :class:`fastmask.torch._plan.Plan`.

    Parameters
    ----------
    batch_sizes : int64 tensor (S,)
    sorted_indices : int64 tensor (B,)
    steps : int
        T, of padded tensors.
    mask : bool tensor (B, T), optional
    positions, cells : int64 tensors (N,) and (B * T,), optional
        Place of each token in the flattened padded tensor and the other way round, -1 where there is none; they
        come with a mask.
    time_major : bool, default False
    """

    batch_sizes: Tensor
    sorted_indices: Tensor
    steps: int
    mask: Tensor | None = None
    positions: Tensor | None = None
    cells: Tensor | None = None
    time_major: bool = False

    @classmethod
    def from_mask(cls, mask: Tensor, time_major: bool = False) -> TracedPlan:
        """The plan of a mask (B, T), or (T, B) if ``time_major``."""
        grid = mask.t() if time_major else mask
        batch_sizes, order, positions, cells, _, _ = _library.plan(grid, False, False)
        return cls(batch_sizes, order, grid.shape[1], grid, positions, cells, time_major)

    @classmethod
    def from_lengths(cls, lengths: Tensor, steps: int, time_major: bool = False) -> TracedPlan:
        """The plan of rows whose first ``lengths[b]`` of ``steps`` steps count."""
        mask = torch.arange(steps) < lengths[:, None]
        return cls.from_mask(mask.t() if time_major else mask, time_major)

    @classmethod
    def full(cls, batch: int, steps: int, time_major: bool = False) -> TracedPlan:
        """The plan of a batch whose every step counts."""
        return cls(torch.full((steps,), batch), torch.arange(batch), steps, time_major=time_major)

    @classmethod
    def from_batch_sizes(cls, batch_sizes: Tensor, sorted_indices: Tensor | None) -> TracedPlan:
        """The plan of a ``torch.nn.utils.rnn.PackedSequence``."""
        order = _library.sorted_order(batch_sizes) if sorted_indices is None else sorted_indices
        return cls(batch_sizes, order, batch_sizes.shape[0])

    @property
    def batch_size(self) -> int:
        """Rows of the batch."""
        return self.sorted_indices.shape[0]

    @property
    def sizes(self) -> tuple[Tensor, Tensor]:
        """``batch_sizes`` and ``sorted_indices`` of a PackedSequence."""
        return self.batch_sizes, self.sorted_indices

    def with_time_major(self, time_major: bool) -> TracedPlan:
        """The same plan for padded tensors of the other form."""
        return TracedPlan(
            self.batch_sizes, self.sorted_indices, self.steps, self.mask, self.positions, self.cells, time_major
        )

    def pack(self, x: Tensor) -> Tensor:
        """The valid tokens (N, F) of a padded tensor."""
        if self.positions is None:
            return (x if self.time_major else x.transpose(0, 1)).reshape(self.steps * self.batch_size, x.shape[2])
        rows = (x.transpose(0, 1) if self.time_major else x).reshape(self.batch_size * self.steps, x.shape[2])
        return _library.take(rows, self.positions, self.cells)

    def unpack(self, values: Tensor, *, repeat: bool = False, flipped: bool = False) -> Tensor:
        """The padded tensor of values (N, H)."""
        units = values.shape[1]
        if self.positions is None:
            padded = values.view(self.steps, self.batch_size, units)
            return padded if self.time_major else padded.transpose(0, 1)
        positions, cells = self.positions, self.cells
        if repeat or flipped:
            positions, cells = _library.plan(self.mask, repeat, flipped)[4:]
        rows = _library.take(values, cells, None if repeat else positions)
        padded = rows.view(self.batch_size, self.steps, units)
        return padded.transpose(0, 1) if self.time_major else padded

    def reverse(self, values: Tensor) -> Tensor:
        """Values of a run from the end in the order of time, or the other way round."""
        return _library.reverse(values, self.batch_sizes)

    def run(
        self, options: Options, inputs: Inputs, recorded: bool, index: Tensor | None = None,
        kept: KeptProgram | None = None,
    ) -> Outputs:
        """Run a layer on packed values. Graphs keep no programs."""
        states = (*inputs.states, None, None)[:2]
        sequence, *finals, _ = _library.recurrent(
            inputs.values, *inputs.weights, *states, index, self.batch_sizes, self.sorted_indices, recorded,
            *options,
        )
        return sequence if options.return_sequences else None, tuple(finals[: len(CELLS[options.cell].states)])
