"""The layer of ONNX's RNN, LSTM and GRU: lengths and initial states as inputs, outputs in ONNX's forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from fastmask.batch.packing import PackedSequence, Packing
from fastmask.convert.onnx.layers import FileLayer
from fastmask.layers.base.calls import Call, Gradients, Pullback
from fastmask.layers.base.checks import Array
from fastmask.layers.base.flow import Back, leave, run, same, summed, tokens_of
from fastmask.layers.base.layer import Layer
from fastmask.layers.rnn.base import Recurrent

Y, Y_H, Y_C, SEQUENCE, LAST = range(5)


class Recurrence(FileLayer):
    """One or two recurrent layers on sequences of given lengths.

    Parameters
    ----------
    directions : list of Recurrent
        One for each direction, with ``return_sequences`` and ``return_state``; they hold the weights.
    inputs : list of str, ndarray or None
        What there is of x, lengths, h, c and a mask, (T, B) or (T, B, 1), under which steps repeat the output before
        them: an array that is a constant, or ``"call"`` for the next value that the
        layer is called on.
    outputs : list of int
        Which ones, in their order: Y, Y_h and Y_c of ONNX, all steps as (B, T, D * H), or the last ones as (B, D * H).
    first : bool
        Whether the batch is the first axis of x.
    layout : int
        ONNX's, for its own outputs and the states.
    """

    def __init__(
        self, directions: list[Recurrent], inputs: list[Any], outputs: list[int], first: bool, layout: int,
        shapes: Sequence[tuple[int | None, ...]], name: str,
    ) -> None:
        super().__init__(shapes, name, directions[0].dtype)
        self.directions, self.inputs, self.outputs = directions, inputs, outputs
        self.first, self.layout = first, layout

    @property
    def sublayers(self) -> dict[str, Layer]:
        names = ("forward_layer", "backward_layer")
        return {names[layer.go_backwards]: layer for layer in self.directions}

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        given = iter(x)
        values = [next(given) if isinstance(entry, str) else entry for entry in self.inputs]
        batch, enter_back = self._batch(values[0], call.keep)
        mask = self._mask(values[1], values[4], batch)
        if mask is not None and isinstance(batch, PackedSequence):
            # Equal tokens stay stored once, as an Embedding gives them.
            plan = Packing.from_mask(mask)
            batch, mask = replace(batch, packing=plan, index=batch.cells()[plan.positions], apart=False), None
        tokens, tokens_back = tokens_of(batch, mask)
        initial = self._initial(values[2:4], batch.shape[0])
        runs = []
        for number, layer in enumerate(self.directions):
            states = None if initial is None else tuple(state[number] for state in initial)
            y, last, back = layer.scan(tokens, call._replace(initial_state=states))
            turn: Back = same
            if layer.go_backwards:
                y, turn = run("time_order", call.keep, y)
            grid, leave_back = leave(cast(PackedSequence, y), True, call.keep)
            runs.append((grid, last, back, _after(leave_back, turn)))
        outputs = [self._output(kind, [grid for grid, *_ in runs], [last for _, last, *_ in runs])
                   for kind in self.outputs]  # fmt: skip

        def pullback(dy: Any) -> Gradients:
            parts = dy if isinstance(dy, tuple) else (dy,)
            found = self._pulled(parts, runs)
            x_back = enter_back(tokens_back(found.inputs))
            inputs: list[Any] = [x_back, None, *self._states_back(found.initial_state), None]
            return Gradients([g for g, e in zip(inputs, self.inputs, strict=True) if isinstance(e, str)], found.weights)

        output = outputs[0] if len(outputs) == 1 else tuple(outputs)
        return output, pullback if call.keep else None

    def _batch(self, x: Any, keep: bool) -> tuple[Any, Back]:
        """Return x with the batch first, checked, and the way back."""
        back: Back = same
        if not self.first:
            if isinstance(x, PackedSequence):
                x, back = run("unpack", keep, x)
            x = np.ascontiguousarray(np.swapaxes(x, 0, 1)) if x.ndim == 3 else x
            back = _after(lambda d: np.ascontiguousarray(np.swapaxes(d, 0, 1)), back)
        inner = self.directions[0]
        x = inner.check_input(x)
        if x.shape[-1] != inner.features:
            raise ValueError(f"x: expected {inner.features} features for layer {self.name!r}, got shape {x.shape}")
        return x, back

    def _mask(self, lengths: Any, steps: Any, batch: Any) -> Any:
        """Return the mask (B, T) of lengths, or of a mask with the time first; None if there is neither."""
        rows, time = batch.shape[:2]
        if lengths is not None:
            lengths = np.asarray(lengths)
            if lengths.shape != (rows,):
                raise ValueError(f"sequence_lens: expected shape ({rows},), got {lengths.shape}")
            if rows and (lengths.min() < 0 or lengths.max() > time):
                raise ValueError(f"sequence_lens: expected numbers from 0 to {time}, got {lengths.tolist()}")
            return np.arange(time) < lengths[:, None]
        if steps is None:
            return None
        if steps.shape[:2] != (time, rows):
            raise ValueError(f"mask: expected shape {(time, rows)}, got {steps.shape}")
        return np.ascontiguousarray(steps.reshape(time, rows).T)

    def _initial(self, states: Sequence[Any], rows: int) -> list[Array] | None:
        """Return the initial states, each (D, B, H); None for zeros."""
        units, names = self.directions[0].units, self.directions[0].state_names
        if all(state is None for state in states):
            return None
        shape = len(self.directions), rows, units
        found = []
        for name, state in zip(names, states, strict=False):
            turned = np.zeros(shape, self.dtype) if state is None else np.asarray(state, self.dtype)
            turned = turned.swapaxes(0, 1) if self.layout and state is not None and turned.ndim == 3 else turned
            if turned.shape != shape:
                raise ValueError(f"initial_{name}: expected shape {shape}, got {turned.shape}")
            found.append(turned)
        return found

    def _output(self, kind: int, grids: list[Array], states: list[Any]) -> Array:
        if kind in (SEQUENCE, LAST):
            parts = grids if kind == SEQUENCE else [own[0] for own in states]
            return parts[0] if len(parts) == 1 else np.concatenate(parts, -1)
        if kind == Y:
            return np.stack(grids, 2) if self.layout else np.stack([grid.swapaxes(0, 1) for grid in grids], 1)
        return np.stack([own[kind - Y_H] for own in states], 1 if self.layout else 0)

    def _pulled(self, parts: Sequence[Any], runs: list[Any]) -> Gradients:
        """Return the gradients by tokens, weights and initial states (D, B, H)."""
        inputs: Any = None
        weights: list[Any] = []
        starts: list[Any] = []
        for number, (_, states, back, leave_back) in enumerate(runs):
            d_grid: Any = None
            d_states: list[Any] = [None] * len(states)
            for kind, d in zip(self.outputs, parts, strict=True):
                if d is None:
                    continue
                own = self._part(kind, np.asarray(d, self.dtype), number)
                if kind in (Y, SEQUENCE):
                    d_grid = own if d_grid is None else d_grid + own
                else:
                    place = 1 if kind == Y_C else 0
                    d_states[place] = own if d_states[place] is None else d_states[place] + own
            found = back(None if d_grid is None else leave_back(np.ascontiguousarray(d_grid)), tuple(d_states))
            inputs = found.inputs if inputs is None else summed([inputs], [found.inputs])[0]
            weights += found.weights
            starts.append(found.initial_state)
        return Gradients(inputs, weights, tuple(starts))

    def _part(self, kind: int, d: Array, number: int) -> Array:
        """Return the part of a gradient that belongs to one direction."""
        if kind in (SEQUENCE, LAST):
            return np.ascontiguousarray(np.split(d, len(self.directions), -1)[number])
        if kind == Y:
            return d[:, :, number] if self.layout else d[:, number].swapaxes(0, 1)
        return np.ascontiguousarray(d[:, number] if self.layout else d[number])

    def _states_back(self, starts: Any) -> list[Any]:
        """Return the gradients by h and c as they were given."""
        if starts[0] is None:
            return [None, None]
        found: list[Any] = [np.stack(parts, 1 if self.layout else 0) for parts in zip(*starts, strict=True)]
        return [*found, None][:2]


def _after(first: Back, second: Back) -> Back:
    """Return the way back that takes one way and then another."""
    return lambda d: second(first(d))
