"""What SimpleRNN, LSTM and GRU share: everything but their equations."""

from dataclasses import replace
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar

import numpy as np

from fastmask import initializers, ops
from fastmask.batch.packing import PackedSequence, Packing
from fastmask.layers.base import checks
from fastmask.layers.base.checks import Array, Shape
from fastmask.layers.base.exchange import TorchForm
from fastmask.layers.base.flow import Back, cotangents, leave, run, same, tokens_of
from fastmask.layers.base.layer import Call, Gradients, Layer, Pullback, describe
from fastmask.layers.base.programs import Kept
from fastmask.layers.base.weights import add_kept, keep_options
from fastmask.layers.core import keep_factor
from fastmask.ops.rnn import layouts
from fastmask.random import as_generator

States = tuple[Array, ...]


class Recurrent(Layer):
    """Base of the recurrent layers; the table below is all that a subclass has to fill in.

    Attributes
    ----------
    op : str
        Name in `fastmask.ops`.
    gates : int
        Blocks of width `units` in the kernels.
    state_names : tuple of str
        The first one is the output.
    drops_all : bool
        Whether a dropout rate of exactly 1 drops everything; layers with gates ignore it, as in
        Keras.
    states : tuple of ndarray or None
        Kept from call to call by a stateful layer.
    """

    supports_masking = True
    takes_state = True
    input_rank = 3
    quantizable = MappingProxyType({"kernel": 0, "recurrent_kernel": 0})
    kernel_initializer: Any
    recurrent_initializer: Any
    bias_initializer: Any
    op: ClassVar[str]
    gates: ClassVar[int]
    state_names: ClassVar[tuple[str, ...]] = ("h",)
    drops_all: ClassVar[bool] = False
    has_number = True

    def __init__(
        self,
        *,
        units: int,
        activation: Any,
        use_bias: bool,
        dropout: float,
        recurrent_dropout: float,
        seed: Any,
        return_sequences: bool,
        return_state: bool,
        go_backwards: bool,
        stateful: bool,
        unroll: bool,
        zero_output_for_mask: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__(**self._take_initializers(arguments))
        self.units = checks.positive_int("units", units)
        self.activation = checks.activation_name("activation", activation, ops.RECURRENT_ACTIVATIONS)
        self.use_bias = bool(use_bias)
        self.dropout = checks.fraction("dropout", dropout)
        self.recurrent_dropout = checks.fraction("recurrent_dropout", recurrent_dropout)
        self.seed = seed
        if self.dropout or self.recurrent_dropout:
            self.seed_generator = as_generator(seed)
        self.return_sequences, self.return_state = bool(return_sequences), bool(return_state)
        self.go_backwards, self.stateful = bool(go_backwards), bool(stateful)
        self.unroll = bool(unroll)
        self.zero_output_for_mask = bool(zero_output_for_mask)
        self.states: States | None = None
        self._kept: Kept[ops.RNNProgram] = Kept()

    def _take_initializers(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Keep what concerns the weights; return the arguments of `Layer`."""
        for part in ("kernel", "recurrent", "bias"):
            names = [f"{part}_{kind}" for kind in ("initializer", "regularizer", "constraint")]
            keep_options(self, **{name: arguments.pop(name) for name in names})
        checks.choice("time_major", arguments.pop("time_major", False), (False,))
        arguments.pop("implementation", None)
        if "input_dim" in arguments:
            arguments.setdefault("input_length", None)
        return arguments

    def options(self) -> dict[str, Any]:
        """Return what tells the cell of this layer from others of its kind."""
        return {"activation": self.activation}

    def initial_bias(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return the bias to start from."""
        initialize = self.bias_initializer or initializers.Zeros()
        return np.asarray(initialize(shape, dtype))

    @property
    def weight_path(self) -> str:
        return f"{self.path}/{self.op}_cell"

    @property
    def passes_mask(self) -> bool:
        return self.return_sequences

    @property
    def stochastic(self) -> bool:
        return self.dropout > 0 or self.recurrent_dropout > 0

    def create_weights(self, input_shape: Shape) -> None:
        self.spec = ops.RNNSpec(
            self.op, self.known_features(input_shape), self.units, self.dtype.name, use_bias=self.use_bias,
            go_backwards=self.go_backwards, **self.options(),
        )
        self.kernel = add_kept(self, "kernel", self.spec.kernel_shape)
        start = self.recurrent_initializer or "orthogonal"
        self.recurrent_kernel = add_kept(self, "recurrent_kernel", self.spec.recurrent_shape, "recurrent", start)
        self.bias = None
        if self.use_bias:
            self.bias = add_kept(self, "bias", self.spec.bias_shape, initializer=self.initial_bias)

    def torch_forms(self, number: int) -> list[TorchForm]:
        if self.spec.resets_before:
            raise TypeError(f"{describe(self)}: expected reset_after=True, as torch.nn.GRU has it, got False")
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if self.use_bias else 2]
        variables = [self.kernel, self.recurrent_kernel, *([] if self.bias is None else [self.bias])]
        form = TorchForm([f"{name}_l{number}" for name in names], variables)
        return [form._replace(
            store=lambda arrays: layouts.to_torch(self.op, arrays),
            load=lambda arrays: layouts.from_torch(self.op, arrays),
        )]  # fmt: skip

    def compute_output_shape(self, input_shape: Shape) -> Any:
        state = (input_shape[0], self.units)
        y = (*input_shape[:2], self.units) if self.return_sequences else state
        return (y, *[state for _ in self.state_names]) if self.return_state else y

    def _make_program(self) -> ops.RNNProgram:
        bias = None if self.bias is None else self.bias.value
        if self.quantization_mode is None:
            return ops.RNNProgram(self.spec, self.kernel.value, self.recurrent_kernel.value, bias)
        return ops.RNNProgram(self.spec, self.quantized("kernel"), self.quantized("recurrent_kernel"), bias)

    def weights_quantized(self) -> None:
        self.spec = replace(self.spec, precision="int8")

    @property
    def is_plain(self) -> bool:
        """Whether it has one output, keeps no states, and shows nothing but outputs in the order of time."""
        backwards = self.go_backwards and self.return_sequences
        return not (self.stateful or self.return_state or self.zero_output_for_mask or backwards)

    def stages(self, module: ModuleType) -> list[Any] | None:
        return [module.Scan((self.scanned(module),), self.return_sequences)] if self.is_plain else None

    def scanned(self, module: ModuleType) -> tuple[Any, bool]:
        """Return the kernels' program, and whether it runs backwards."""
        program = self._kept.get(self._make_program, *self._variables)
        return program.weights.program(module), self.go_backwards

    def forward(self, x: Any, call: Call) -> tuple[Any, Pullback | None]:
        tokens, enter_back = tokens_of(x, call.mask)
        y, states, scan_back = self.scan(tokens, call)
        padded = not isinstance(x, PackedSequence)
        leave_back: Back = same
        if isinstance(y, PackedSequence):
            if self.go_backwards and not padded:
                y, leave_back = self._under_mask_of(tokens.plan, y, call.keep)
            else:
                y, leave_back = leave(y, padded, call.keep)
        output = (y, *states) if self.return_state else y
        if not call.keep:
            return output, None

        def pullback(dy: Any) -> Gradients:
            d, *d_states = cotangents(dy, output, self.dtype)
            gradients: Gradients = scan_back(None if d is None else leave_back(d), d_states)
            return Gradients(enter_back(gradients.inputs), gradients.weights, gradients.initial_state)

        return output, pullback

    def _under_mask_of(self, plan: Packing, steps: PackedSequence, keep: bool) -> tuple[PackedSequence, Back]:
        """Give outputs in processing order the plan of the input.

        Keras flips the time of the outputs of `go_backwards` but not of the mask that goes with
        them, so the outputs under the mask may be repeated ones: a masked batch takes the way over
        the padded grid. The packed result shows zeros where it is masked.
        """
        if np.array_equal(steps.packing.positions, plan.positions):
            return PackedSequence(steps.values, plan, repeat=steps.repeat), same
        grid, unpack_back = run("unpack", keep, steps)
        packed, pack_back = run("pack", keep, grid, plan.mask)
        return PackedSequence(packed.values, plan), lambda d: unpack_back(pack_back(d))

    def scan(self, tokens: ops.Tokens, call: Call) -> tuple["PackedSequence | Array", States, Back]:
        """Run the recurrence over a packed batch.

        Returns
        -------
        PackedSequence or ndarray
            All outputs in processing order, or the last ones (B, units).
        tuple of ndarray
            Final states (B, units).
        callable
            ``back(dy or None, d_states) -> Gradients``.
        """
        plan = tokens.plan
        initial = dropout = None
        if call.initial_state is not None or self.stateful:
            initial = self.initial_states(call.initial_state, plan.batch_size)
        if self.quantization_mode is not None and (call.keep or (call.training and self.stochastic)):
            self.refuse_training()
        if call.training and self.stochastic:
            dropout = self.draw_dropout(plan)
        program = self._kept.get(self._make_program, *self._variables)
        op_back: Back = same
        sequence: Array | None
        if call.keep:
            (sequence, states), tape = program.vjp(tokens, initial, dropout=dropout)
            op_back = tape.pullback
        else:
            sequence, states = program.run(tokens, initial, every_step=self.return_sequences, dropout=dropout)
        if self.stateful:
            self.states = tuple([state.copy() for state in states])
        y: PackedSequence | Array
        last_back: Back | None = None
        if self.return_sequences and sequence is not None:
            order = plan.reversed if self.go_backwards else plan
            y = PackedSequence(sequence, order, repeat=not self.zero_output_for_mask)
        elif self.zero_output_for_mask or plan.tokens == 0 or plan.batch_sizes[0] < plan.batch_size:
            y, last_back = self._last(states[0], plan)
        else:
            y, last_back = states[0].copy() if self.return_state else states[0], same
        given = call.initial_state is not None

        def back(d: Array | None, d_states: Any) -> Gradients:
            d_states = tuple(d_states) or (None,) * len(states)
            if last_back is not None and d is not None:
                d_h = last_back(d)
                d_states = (d_h if d_states[0] is None else d_h + d_states[0], *d_states[1:])
            g = op_back(None if last_back else d, d_states)
            weights = [w for w in (g.kernel, g.recurrent_kernel, g.bias) if w is not None]
            return Gradients(g.inputs, weights, g.initial_state if given else None)

        return y, states, back

    def _last(self, h: Array, plan: Packing) -> tuple[Array, Back]:
        """Return the last outputs where not every row has one: the states `h`, or zeros where none is due."""
        if self.zero_output_for_mask and plan.masked and plan.total_length:
            none_due = ~plan.mask[:, 0 if self.go_backwards else -1]
        else:
            none_due = plan.lengths == 0

        def without(values: Array) -> Array:
            values = values.copy()
            values[none_due] = 0
            return values

        return without(h), without

    def initial_states(self, given: Any, batch_size: int) -> States | None:
        """Return the states to start from: those given, checked, or those kept; None for zeros."""
        if given is not None:
            return self._checked_states("initial_state", given, batch_size)
        if not self.stateful:
            return None
        wanted, hint = (self.input_shape or (None,))[0], "its input has that batch_shape"
        if self.states is not None:
            wanted, hint = len(self.states[0]), "reset_states() forgets them"
        if wanted not in (None, batch_size):
            raise ValueError(
                f"x: expected the batch size {wanted} of the states that {describe(self)} keeps (stateful=True), got "
                f"{batch_size}; {hint}"
            )
        return self.states

    def _checked_states(self, argument: str, given: Any, batch_size: int | None) -> States:
        """Return states as arrays of this many rows; without a number, of as many as the first one has."""
        names = self.state_names
        if isinstance(given, np.ndarray):
            given = (given,) if given.ndim == 2 else tuple(np.atleast_1d(given))
        if not isinstance(given, (tuple, list)) or len(given) != len(names):
            found = len(given) if isinstance(given, (tuple, list)) else type(given).__name__
            raise ValueError(
                f"{argument}: expected {len(names)} arrays ({', '.join(names)}) for {describe(self)}, got {found}"
            )
        states: list[Array] = []
        for name, value in zip(names, given, strict=True):
            state = np.require(checks.real_array(argument, value, self.dtype), None, ("C", "A"))
            rows = batch_size if batch_size is not None else len(states[0] if states else np.atleast_1d(state))
            if state.shape != (rows, self.units):
                raise ValueError(f"{argument} {name}: expected shape {(rows, self.units)}, got {state.shape}")
            states.append(state)
        return tuple(states)

    def draw_dropout(self, plan: Packing) -> ops.Dropout | None:
        """Draw one factor per row for all steps, per gate if the recurrent state is dropped too."""
        groups = self.gates if self.recurrent_dropout and self.gates > 1 else 1
        factors = []
        for rate, width in ((self.dropout, self.spec.features), (self.recurrent_dropout, self.units)):
            acts = rate > 0 and (rate < 1 or self.drops_all)
            shape = groups, plan.batch_size, width
            factors.append(keep_factor(self.seed_generator, rate, shape, self.dtype) if acts else None)
        return ops.Dropout(*factors) if any(f is not None for f in factors) else None

    def compute_mask(self, x: Any, mask: Any = None) -> Any:
        """Return `mask` if the outputs are sequences, else None; in a list if there are states."""
        out = mask if self.return_sequences else None
        return [out, *[None for _ in self.state_names]] if self.return_state else out

    def reset_state(self, states: Any = None, rows: Any = None) -> None:
        """Forget the states that a stateful layer keeps, or set them.

        Parameters
        ----------
        states : array (B, H) or sequence of such arrays, optional
            What the next call starts from, zeros by default. With `rows`, an array has a row for each of these.
        rows : sequence of int or bool array (B,), optional
            The rows of the batch that change; the others keep their states. Without it all rows do, and any batch
            size may follow.

        Raises
        ------
        ValueError
            If the layer is not stateful, or an argument does not fit.
        """
        self.states = self.renewed_states(states, rows)

    reset_states = reset_state

    def renewed_states(self, given: Any, rows: Any) -> States | None:
        """Return what `reset_state` with these arguments keeps."""
        if not self.stateful:
            raise ValueError(f"stateful: expected True to reset the states of {describe(self)}, got False")
        if rows is None:
            found = None if given is None else self._checked_states("states", given, None)
            return None if found is None else tuple([state.copy() for state in found])
        if self.states is None:
            raise ValueError(f"rows: expected None for {describe(self)}, which keeps no states yet, got {rows!r}")
        places = checks.row_places("rows", rows, len(self.states[0]))
        values: Any = [0] * len(self.states) if given is None else self._checked_states("states", given, len(places))
        states = tuple([state.copy() for state in self.states])
        for state, value in zip(states, values, strict=True):
            state[places] = value
        return states

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"zero_output_for_mask": self.zero_output_for_mask}
