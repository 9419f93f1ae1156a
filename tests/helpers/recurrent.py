"""Random problems for the recurrent functions."""

from dataclasses import dataclass, field, fields, replace

import numpy as np

from .masks import full_mask, make_mask


@dataclass(frozen=True)
class Cell:
    """A recurrent function by name, with its shape."""

    function: str
    gates: int
    states: int
    options: dict = field(default_factory=dict)
    biases: int = 1


CELLS = {
    "simple_rnn": Cell("simple_rnn", 1, 1),
    "lstm": Cell("lstm", 4, 2),
    "gru": Cell("gru", 3, 1, biases=2),
    "gru_reset_before": Cell("gru", 3, 1, {"reset_after": False}),
}

# Cells with the keywords that name an activation of theirs.
CELL_ACTIVATIONS = [(name, "activation") for name in CELLS] + [
    (name, "recurrent_activation") for name, cell in CELLS.items() if cell.gates > 1
]


@dataclass
class Problem:
    """Arguments of one call: ``x`` [B, T, F], ``mask``, parameters and keywords."""

    cell: Cell
    x: np.ndarray
    mask: np.ndarray | None
    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray | None
    initial_state: tuple | None
    options: dict
    dy: np.ndarray
    d_states: tuple

    @property
    def parameters(self):
        """Arguments after the input."""
        return self.kernel, self.recurrent_kernel, self.bias, self.initial_state

    @property
    def valid(self):
        """Mask as an array, bool [B, T]."""
        return full_mask(self.mask, *self.x.shape[:2])

    def arrays(self):
        """Differentiable arguments by name, an initial state by the name of its place."""
        named = {name: getattr(self, name) for name in ("x", "kernel", "recurrent_kernel")}
        if self.bias is not None:
            named["bias"] = self.bias
        for n, state in enumerate(self.initial_state or ()):
            named[f"initial_state[{n}]"] = state
        return named


def gradients_by_name(gradients):
    """RecurrentGradients under the names of :meth:`Problem.arrays`."""
    named = {
        "x": gradients.inputs,
        "kernel": gradients.kernel,
        "recurrent_kernel": gradients.recurrent_kernel,
    }
    if gradients.bias is not None:
        named["bias"] = gradients.bias
    for n, state in enumerate(gradients.initial_state or ()):
        named[f"initial_state[{n}]"] = state
    return named


def dropout_multiplier(rng, shape, dtype):
    """Inverted dropout at rate 1/3."""
    return (rng.random(shape) < 2 / 3).astype(dtype) * dtype(1.5)


def make_problem(
    cell,
    batch=3,
    time=4,
    features=3,
    units=2,
    mask="holes",
    dtype=np.float64,
    bias=True,
    initial_state=True,
    dropout=None,
    seed=0,
    size=1.0,
    **options,
):
    """A random problem.

    ``dropout`` is None, ``"shared"`` (multipliers [B, F] and [B, H]) or ``"per_gate"``
    ([G, B, F] and [G, B, H]). ``size`` scales all arrays. Further keywords go to the recurrent
    function.
    """
    rng = np.random.default_rng(seed)
    cell = CELLS[cell]
    dtype = np.dtype(dtype).type

    def normal(*shape, scale=1.0):
        return (rng.standard_normal(shape) * scale * size).astype(dtype)

    options = cell.options | options
    gates = (cell.gates,) if dropout == "per_gate" else ()
    if dropout is not None:
        options["input_mask"] = dropout_multiplier(rng, (*gates, batch, features), dtype)
        options["recurrent_mask"] = dropout_multiplier(rng, (*gates, batch, units), dtype)
    width = cell.gates * units
    bias_shape = (width,) if cell.biases == 1 else (cell.biases, width)
    states = tuple(normal(batch, units) for _ in range(cell.states))
    return Problem(
        cell=cell,
        x=normal(batch, time, features),
        mask=make_mask(mask, batch, time, seed),
        kernel=normal(features, width, scale=max(1, features) ** -0.5),
        recurrent_kernel=normal(units, width, scale=max(1, units) ** -0.5),
        bias=normal(*bias_shape, scale=0.5) if bias else None,
        initial_state=states if initial_state else None,
        options=options,
        dy=normal(batch, time, units),
        d_states=tuple(normal(batch, units) for _ in range(cell.states)),
    )


def in_float64(problem):
    """The same problem with every float array in float64."""

    def convert(value):
        if isinstance(value, tuple):
            return tuple(convert(v) for v in value)
        is_float = isinstance(value, np.ndarray) and value.dtype.kind == "f"
        return value.astype(np.float64) if is_float else value

    options = {name: convert(value) for name, value in problem.options.items()}
    changes = {f.name: convert(getattr(problem, f.name)) for f in fields(problem)}
    return replace(problem, **changes | {"options": options})


def processing_mask(problem):
    """Mask in the order in which the steps run, bool [B, T]."""
    return problem.valid[:, ::-1] if problem.options.get("go_backwards") else problem.valid
