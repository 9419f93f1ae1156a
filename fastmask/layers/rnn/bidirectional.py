"""Bidirectional: a recurrent layer in both directions."""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Self, cast

import numpy as np

from fastmask import ops
from fastmask.batch.packing import PackedSequence
from fastmask.layers.base import checks
from fastmask.layers.base.arguments import with_dtype_of
from fastmask.layers.base.checks import Shape
from fastmask.layers.base.exchange import TorchForm
from fastmask.layers.base.flow import Back, Shown, cotangents, leave, run, same, tokens_of
from fastmask.layers.base.layer import Call, Gradients, Layer, Pullback, describe
from fastmask.layers.base.serialization import deserialize, serialize
from fastmask.layers.joining import Concatenate
from fastmask.layers.merging import Add, Average, Multiply
from fastmask.layers.rnn.base import Recurrent

_MERGES = {"concat": Concatenate, "sum": Add, "mul": Multiply, "ave": Average}
_MERGE_MODES = (*_MERGES, None)


class Bidirectional(Layer):
    """Run a recurrent layer in both directions and merge the outputs.

    Parameters
    ----------
    layer : SimpleRNN, LSTM or GRU
        Copied twice from its config, with new weights.
    merge_mode : {"concat", "sum", "mul", "ave", None}, default "concat"
        None returns the two outputs apart.
    weights : list of array_like, optional
        To start from: forward ones, then backward ones.
    backward_layer : SimpleRNN, LSTM or GRU, optional
        For the backward direction; must differ from `layer` in go_backwards.
    zero_output_for_mask : bool, default True
        Whether both halves of sequences are zero at masked steps. In Keras 1 and 2 they were not, outside of
        TensorFlow: each showed what it had shown at the step that it met before.
    **kwargs
        See `Layer`.

    Notes
    -----
    With return_sequences both halves are in time order. Without, each half is the last valid output of
    its direction. States, `initial_state` and weights are those of the forward direction, then those of
    the backward one.
    """

    supports_masking = True
    takes_state = True
    input_rank = 3
    has_number = True

    def __init__(
        self,
        layer: Recurrent,
        merge_mode: str | None = "concat",
        weights: Any = None,
        backward_layer: Recurrent | None = None,
        zero_output_for_mask: bool = True,
        **kwargs: Any,
    ) -> None:
        for name, given in (("layer", layer), ("backward_layer", backward_layer or layer)):
            if not isinstance(given, Recurrent):
                raise TypeError(f"{name}: expected a SimpleRNN, LSTM or GRU, got {given!r}")
        if layer.go_backwards:
            raise ValueError("layer: expected go_backwards=False, got True")
        self.merge_mode = checks.choice("merge_mode", merge_mode, _MERGE_MODES)
        self.forward_layer = _copy(layer, "forward_", go_backwards=False)
        self.backward_layer = backward_layer or _copy(layer, "backward_", go_backwards=True)
        self._check_pair()
        super().__init__(**with_dtype_of(layer, kwargs))
        self.return_sequences, self.return_state = layer.return_sequences, layer.return_state
        self.stateful = layer.stateful
        self.zero_output_for_mask = bool(zero_output_for_mask)
        for inner in (self.forward_layer, self.backward_layer):
            inner.zero_output_for_mask = self.return_sequences and self.zero_output_for_mask
        self._initial_weights = weights

    def _check_pair(self) -> None:
        forward, backward = self.forward_layer, self.backward_layer
        if not backward.go_backwards:
            raise ValueError("backward_layer: expected go_backwards=True, got False")
        for name in ("stateful", "return_sequences", "return_state", "dtype"):
            wanted, got = getattr(forward, name), getattr(backward, name)
            if wanted != got:
                raise ValueError(f"backward_layer: expected {name}={wanted} like layer, got {got}")
        if self.merge_mode in ("sum", "mul", "ave") and forward.units != backward.units:
            raise ValueError(
                f"backward_layer: expected units={forward.units} for merge_mode="
                f"{self.merge_mode!r}, got {backward.units}"
            )

    @property
    def sublayers(self) -> dict[str, Layer]:
        return {"forward_layer": self.forward_layer, "backward_layer": self.backward_layer}

    @property
    def passes_mask(self) -> bool:
        return self.return_sequences

    def mask_flow(self, masked: Sequence[int], outputs: int) -> list[int]:
        flows = masked[0] if self.passes_mask else 0
        merged = 1 if self.merge_mode is not None else 2
        return [flows] * merged + [0] * (outputs - merged)

    def create_weights(self, input_shape: Shape) -> None:
        self.known_features(input_shape)
        for layer in self.sublayers.values():
            if not layer.built:
                layer.parent_path = self.path
                layer.build(input_shape)
        if self._initial_weights is not None:
            self.set_weights(self._initial_weights)

    def torch_forms(self, number: int) -> list[TorchForm]:
        (forward,), (back,) = self.forward_layer.torch_forms(number), self.backward_layer.torch_forms(number)
        return [forward, back._replace(names=[f"{name}_reverse" for name in back.names])]

    def compute_output_shape(self, input_shape: Shape) -> Any:
        shapes = [layer.compute_output_shape(input_shape) for layer in self.sublayers.values()]
        states: list[Any] = []
        if self.return_state:
            states = [state for shape in shapes for state in shape[1:]]
            shapes = [shape[0] for shape in shapes]
        if self.merge_mode == "concat":
            shapes = [(*shapes[0][:-1], shapes[0][-1] + shapes[1][-1])]
        elif self.merge_mode is not None:
            shapes = shapes[:1]
        outputs = (*shapes, *states)
        return outputs if len(outputs) > 1 else outputs[0]

    def stages(self, module: ModuleType) -> list[Any] | None:
        pair = self.forward_layer, self.backward_layer
        plain = not (self.stateful or self.return_state) and self.merge_mode == "concat"
        if not (plain and all(layer.is_own for layer in pair)):
            return None
        return [module.Scan(tuple([layer.scanned(module) for layer in pair]), self.return_sequences)]

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        tokens, enter_back = tokens_of(x, call.mask)
        starts = (None, None) if call.initial_state is None else self._halves("initial_state", call.initial_state)
        pairs = zip((self.forward_layer, self.backward_layer), starts, strict=True)
        runs = [layer.scan(tokens, call._replace(initial_state=s)) for layer, s in pairs]
        (ahead, a_states, ahead_back), (back, b_states, back_back) = runs
        merged, merge_back = self._merge(ahead, back, call.keep)
        left: list[tuple[Any, Back]] = [(y, same) for y in merged]
        if self.return_sequences:
            left = [leave(y, not isinstance(x, PackedSequence), call.keep) for y in merged]
        states = (*a_states, *b_states) if self.return_state else ()
        outputs = (*[y for y, _ in left], *states)
        output = outputs if len(outputs) > 1 else outputs[0]

        def pullback(dy: Any) -> Gradients:
            d = cotangents(dy, output, self.dtype)
            d_merged = [None if g is None else b(g) for g, (_, b) in zip(d, left, strict=False)]
            d_ahead, d_back = merge_back(d_merged)
            half = len(left) + len(a_states)
            first = ahead_back(d_ahead, d[len(left) : half])
            second = back_back(d_back, d[half:])
            return _joined(first, second, enter_back)

        return output, pullback

    def _halves(self, argument: str, states: Any) -> tuple[Any, Any]:
        count = len(self.forward_layer.state_names) + len(self.backward_layer.state_names)
        if not isinstance(states, (tuple, list)) or len(states) != count:
            found = len(states) if isinstance(states, (tuple, list)) else type(states).__name__
            raise ValueError(
                f"{argument}: expected {count} arrays for {describe(self)}: forward states, "
                f"then backward states, got {found}"
            )
        half = len(self.forward_layer.state_names)
        return tuple(states[:half]), tuple(states[half:])

    def _merge(self, ahead: Any, back: Any, keep: bool) -> tuple[list[Any], Back]:
        """Return one merged output or two; the pullback takes and returns several gradients."""
        if self.return_sequences and ahead.packing.masked and not self.zero_output_for_mask:
            return self._merge_shown(ahead, back, keep)
        if self.merge_mode is not None:
            merge = ops.merge_directions_vjp if self.return_sequences else ops.merge_rows_vjp
            y, pullback = merge(ahead, back, self.merge_mode)
            return [y], lambda d: (None, None) if d[0] is None else pullback(d[0])
        if not self.return_sequences:
            return [ahead, back], lambda d: d
        turned, turn_back = run("time_order", keep, back)
        return [ahead, turned], lambda d: (d[0], None if d[1] is None else turn_back(d[1]))

    def _merge_shown(
        self, ahead: PackedSequence, back: PackedSequence, keep: bool
    ) -> tuple[list[PackedSequence], Back]:
        """Merge halves that show at masked steps what they showed before, each in its own direction."""
        grid = back.packing.grid(repeat=True)
        cells = np.where(grid < 0, len(back.values), grid).reshape(back.shape[:2])[:, ::-1]
        values = np.concatenate([back.values, np.zeros((1, back.values.shape[1]), back.dtype)])
        plan = ahead.packing
        turned = PackedSequence(values, plan, cells.reshape(-1)[plan.positions], None, False, cells[~plan.mask])
        if self.merge_mode is None:
            return [ahead, turned], lambda d: (d[0], None if d[1] is None else d[1][:-1])
        merge = _MERGES[self.merge_mode](name="merge", mask_mode="and", dtype=self.dtype)
        y, pullback = merge.apply([ahead, turned], keep=keep)

        def merge_back(d: Any) -> tuple[Any, Any]:
            if d[0] is None:
                return None, None
            first, second = cast(Pullback, pullback)(d[0]).inputs
            return first.values if isinstance(first, Shown) else first, second[:-1]

        return [y], merge_back

    def compute_mask(self, x: Any, mask: Any = None) -> Any:
        """Return `mask` if the outputs are sequences, else None; twice with ``merge_mode=None``."""
        out = mask if self.return_sequences else None
        outputs = [out] if self.merge_mode is not None else [out, out]
        if self.return_state:
            inner = (self.forward_layer, self.backward_layer)
            outputs += [None for layer in inner for _ in layer.state_names]
        return outputs if len(outputs) > 1 else out

    def reset_state(self, states: Any = None, rows: Any = None) -> None:
        """Forget the states that a stateful layer keeps, or set them, the forward ones first.

        For the arguments and errors see `reset_state` of the recurrent layers.
        """
        pair = (self.forward_layer, self.backward_layer)
        halves = (None, None) if states is None else self._halves("states", states)
        renewed = [layer.renewed_states(half, rows) for layer, half in zip(pair, halves, strict=True)]
        sizes = [len(own[0]) for own in renewed if own is not None]
        if len({*sizes}) > 1:
            raise ValueError(f"states: expected one batch size for {describe(self)}, got {sizes[0]} and {sizes[1]}")
        for layer, own in zip(pair, renewed, strict=True):
            layer.states = own

    reset_states = reset_state

    def get_config(self) -> dict[str, Any]:
        config = super().get_config() | {
            "layer": serialize(self.forward_layer),
            "backward_layer": serialize(self.backward_layer),
        }
        # Keras's constructor has no such argument.
        return {k: v for k, v in config.items() if k != "zero_output_for_mask" or not v}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Self:
        wrapped = [name for name in ("layer", "backward_layer") if config.get(name) is not None]
        inner = {name: deserialize(config[name], custom_objects) for name in wrapped}
        return cls(**{**config, **inner})


def _copy(layer: Recurrent, prefix: str, go_backwards: bool) -> Recurrent:
    name = prefix + layer.name.removeprefix(prefix)
    return type(layer).from_config(layer.get_config() | {"name": name, "go_backwards": go_backwards})


def _joined(first: Gradients, second: Gradients, enter_back: Back) -> Gradients:
    """Add up the gradients by the input that both directions share, and put the others together."""
    states = None
    if first.initial_state is not None and second.initial_state is not None:
        states = first.initial_state + second.initial_state
    inputs = enter_back(first.inputs + second.inputs)
    return Gradients(inputs, first.weights + second.weights, states)
