"""Numbers nearer to zero than the smallest normal one count as zeros in every kernel, and only there."""

import numpy as np
import pytest
from helpers.recurrent import CELLS

from fastmask import PackedSequence, kernels, ops
from fastmask.batch.packing import Packing
from fastmask.kernels.memory import aligned_empty
from fastmask.ops import RNNSpec, tuning
from fastmask.ops.rnn.schedule import Schedule, prepare
from fastmask.ops.rnn.weights import RNNWeights

CALLS = {}


def call(function):
    """Make a function of a dtype, which returns arrays that must hold zeros, one of the calls that are tried."""
    CALLS[function.__name__] = function
    return function


def denormal(dtype, *shape):
    """A number below the smallest normal one; times `large` it is an ordinary number."""
    return np.full(shape, np.finfo(dtype).tiny / 4, dtype)


def large(dtype, *shape):
    return np.full(shape, 1 / np.finfo(dtype).tiny ** 0.9, dtype)


def weights(cell, kernel, recurrent_kernel, features=3, units=5):
    """A kernel and a recurrent kernel, each of one number."""
    columns = CELLS[cell].gates * units
    return [np.broadcast_to(w, (n, columns)).copy() for w, n in ((kernel, features), (recurrent_kernel, units))]


def states(cell, value, rows=2, units=5):
    return tuple(np.broadcast_to(value, (rows, units)).copy() for _ in range(CELLS[cell].states))


def recurrent_calls(cell):
    options = CELLS[cell].options
    function, vjp = getattr(ops, CELLS[cell].function), getattr(ops, f"{CELLS[cell].function}_vjp")

    def forward(dtype):
        """From denormal inputs, and with denormal results."""
        arguments = weights(cell, large(dtype), dtype(0))
        found = []
        for shape in ((1, 3, 3), (2, 1, 3)):
            x = PackedSequence.from_padded(denormal(dtype, *shape))
            for sequence, after in (function(x, *arguments, **options), vjp(x, *arguments, **options)[0]):
                found += [sequence.values, *after]
        x = PackedSequence.from_padded(np.full((2, 2, 3), np.finfo(dtype).tiny, dtype))
        sequence, _ = vjp(x, *weights(cell, dtype(1e-2), dtype(0)), **options, activation="linear")[0]
        return [*found, sequence.values]

    def backward(dtype):
        """A denormal gradient of the states, which would be an ordinary one of the initial states."""
        x = PackedSequence.from_padded(np.ones((2, 1, 3), dtype))
        _, pullback = vjp(x, *weights(cell, dtype(0.1), large(dtype)), None, states(cell, dtype(0)), **options)
        return pullback(None, states(cell, denormal(dtype))).initial_state

    def gradients(dtype):
        """Gradients of inputs and kernel, each of them a product of a denormal number and a large one."""
        x = PackedSequence.from_padded(denormal(dtype, 2, 1, 3))
        _, pullback = vjp(x, *weights(cell, denormal(dtype), dtype(0)), **options)
        found = pullback(None, states(cell, large(dtype)))
        return [found.inputs, found.kernel]

    def gradients_apart(dtype):
        """The same gradients where each is a product of its own."""
        with tuning.override(GRADIENTS_AT_ONCE=0):
            return gradients(dtype)

    for each in (forward, backward, gradients, gradients_apart):
        CALLS[f"{cell} {each.__name__}"] = each


for name in CELLS:
    recurrent_calls(name)


@call
def cells(dtype):
    found = []
    for op in ("simple_rnn", "lstm", "gru"):
        found += ops.Cell(op, *weights(op, large(dtype), dtype(0)))(denormal(dtype, 2, 3))
    return found


@call
def products_ahead(dtype):
    kernel, plan = kernels.module(np.dtype(dtype)), Packing.from_lengths([4])
    z = aligned_empty((4, 5), np.dtype(dtype))
    spec = RNNSpec("simple_rnn", 3, 5, np.dtype(dtype).name, use_bias=False)
    program = RNNWeights(spec, large(dtype, 3, 5), np.zeros((5, 5), dtype), None).program(kernel)
    (run,) = prepare(Schedule([(0, 1)], 1, 1), kernel, program, plan, (denormal(dtype, 4, 3), None, z))
    run.make_products()
    return [z]


@call
def dense(dtype):
    y, pullback = ops.dense_vjp(denormal(dtype, 4, 3), large(dtype, 3, 5))
    inputs, _, *_ = ops.dense_vjp(np.ones((4, 3), dtype), large(dtype, 3, 5))[1](denormal(dtype, 4, 5))
    return [y, inputs, pullback(large(dtype, 4, 5))[1]]


def optimizer_step(name, slots, sparse):
    def step(dtype):
        gradient = denormal(dtype, 4, 3)
        if sparse:
            gradient = ops.SparseRows(np.arange(4), gradient, (4, 3))
        parameter, *arrays = [np.zeros((4, 3), dtype) for _ in range(1 + slots)]
        getattr(ops, name)(parameter, gradient, *(arrays or [None]), float(large(dtype)))
        return [parameter, *arrays]

    return step


for name, slots in (("sgd_step", 0), ("sgd_step", 1), ("rmsprop_step", 3), ("adam_step", 3), ("lazy_adam_step", 3)):
    for kind in ("dense", "sparse"):
        CALLS[f"{name} {slots} {kind}"] = optimizer_step(name, slots, kind == "sparse")


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CALLS)
def test_denormals_count_as_zeros(name, dtype, set_threads):
    set_threads(1)
    for array in CALLS[name](dtype):
        np.testing.assert_array_equal(array, 0)
    # The caller's arithmetic is as it was.
    assert (denormal(dtype, 8) * dtype(0.5) > 0).all()
