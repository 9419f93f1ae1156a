"""Runs of the compiled recurrent functions, and what the reference says to them."""

import numpy as np

from fastmask import PackedSequence, ops, reference
from fastmask.ops import tuning

from .numeric import assert_close, assert_same_bits
from .recurrent import gradients_by_name, in_float64, processing_mask


def on_packed_weights():
    """Run short sequences on packed weights for a while, too."""
    return tuning.override(FEW_TOKENS=-1, FEW_TOKENS_AT_FIRST=-1, FEW_OPERATIONS=-1, FEW_OPERATIONS_AT_FIRST=-1)


def run_ops(problem, x=None, **options):
    """The compiled function and its pullback, on the packed input or on a given sequence."""
    sequence = PackedSequence.from_padded(problem.x, problem.mask) if x is None else x
    function = getattr(ops, problem.cell.function + "_vjp")
    return function(sequence, *problem.parameters, **problem.options | options)


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


def check_against_reference(problem, return_sequences=True):
    """Compiled outputs, states and gradients equal the reference's."""
    actual = ops_results(problem, return_sequences=return_sequences)
    assert_results_close(actual, reference_results(problem, return_sequences), problem.x.dtype)
