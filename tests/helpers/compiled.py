"""Runs of the compiled recurrent functions, and what the reference says to them."""

import threading

import numpy as np

from fastmask import PackedSequence, ops, reference
from fastmask.ops import tuning
from fastmask.ops.rnn.checks import check_dropout

from .numeric import assert_close, assert_same_bits
from .recurrent import gradients_by_name, in_float64, processing_mask


def on_packed_weights():
    """Run short sequences on packed weights for a while, too."""
    return tuning.override(
        FEW_TOKENS=-1, FEW_TOKENS_AT_FIRST=-1, FEW_OPERATIONS=-1, FEW_OPERATIONS_AT_FIRST=-1, LYING_STEPS=0
    )


def run_ops(problem, x=None, **options):
    """The compiled function and its pullback, on the packed input or on a given sequence."""
    sequence = PackedSequence.from_padded(problem.x, problem.mask) if x is None else x
    function = getattr(ops, problem.cell.function + "_vjp")
    return function(sequence, *problem.parameters, **problem.options | options)


def make_program(problem):
    """The program of a problem's cell and weights."""
    kernel, recurrent_kernel, bias, _ = problem.parameters
    names = {"activation", "recurrent_activation", "reset_after", "go_backwards"} & problem.options.keys()
    spec = ops.RNNSpec(
        problem.cell.function, *(matrix.shape[0] for matrix in (kernel, recurrent_kernel)), kernel.dtype.name,
        use_bias=bias is not None, **{name: problem.options[name] for name in names},
    )
    return ops.RNNProgram(spec, kernel, recurrent_kernel, bias)


def run_program(program, problem, x, return_sequences=True):
    """Outputs and states, as the operation on a packed batch gives them."""
    masks = [problem.options.get(name) for name in ("input_mask", "recurrent_mask")]
    tokens = ops.Tokens(x.values, x.packing, x.index, x.index is not None)
    dropout = check_dropout(program.spec, x.packing.batch_size, *masks)
    values, states = program.run(tokens, problem.initial_state, every_step=return_sequences, dropout=dropout)
    plan = x.packing.reversed if program.spec.go_backwards else x.packing
    return None if values is None else PackedSequence(values, plan, repeat=True), states


def ops_results(problem, x=None, **options):
    """Packed outputs, states and gradients of the compiled function by name."""
    (sequence, states), pullback = run_ops(problem, x, **options)
    dy = None if sequence is None else reference.pack(problem.dy, processing_mask(problem))
    results = gradients_by_name(pullback(dy, problem.d_states))
    if sequence is not None:
        results["y"] = sequence.values
    return results | {f"state[{n}]": state for n, state in enumerate(states)}


def reference_results(problem, return_sequences=True):
    """What :func:`ops_results` must be, in float64."""
    problem = in_float64(problem)
    order = processing_mask(problem)
    function = getattr(reference, problem.cell.function + "_vjp")
    (y, states), pullback = function(problem.x, *problem.parameters, mask=problem.mask, **problem.options)
    dy = np.where(order[:, :, None], problem.dy, 0) if return_sequences else None
    results = gradients_by_name(pullback(dy, problem.d_states))
    results["x"] = reference.pack(results["x"], problem.valid)
    if return_sequences:
        results["y"] = reference.pack(y, order)
    return results | {f"state[{n}]": state for n, state in enumerate(states)}


def assert_results_close(actual, expected, dtype):
    """Compare the results of two calls by name."""
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name].dtype == dtype, name
        assert_close(actual[name], array, name)


def assert_same_results(actual, expected):
    """Compare the results of two calls by name, bit for bit."""
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert_same_bits(actual[name], array, name)


def assert_same_for_callers(problem, expected):
    """Four threads that call the compiled function at once, five times each, get the expected bits."""
    wrong = []

    def work():
        for _ in range(5):
            try:
                assert_same_results(ops_results(problem), expected)
            except AssertionError as error:
                wrong.append(error)

    callers = [threading.Thread(target=work) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


def check_against_reference(problem, return_sequences=True):
    """Compiled outputs, states and gradients equal the reference's."""
    actual = ops_results(problem, return_sequences=return_sequences)
    assert_results_close(actual, reference_results(problem, return_sequences), problem.x.dtype)
