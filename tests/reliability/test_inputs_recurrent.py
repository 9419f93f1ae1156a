"""Bad input for the recurrent operations."""

import numpy as np
from helpers.recurrent import CELLS, make_problem
from hypothesis import given
from hypothesis import strategies as st

from fastmask import PackedSequence, ops, reference

from .calls import Call, check_damages, check_layouts, examples

NAMES = ("inputs", "kernel", "recurrent_kernel", "bias")


def results(sequence, states, gradients):
    """Arrays by name, those that are None left out."""
    found = {"y": sequence} | {f"state {i}": s for i, s in enumerate(states)}
    found |= {f"d {name}": getattr(gradients, name) for name in NAMES}
    found |= {f"d state {i}": s for i, s in enumerate(gradients.initial_state or ())}
    return {name: array for name, array in found.items() if array is not None}


def recurrent_call(data):
    """A good call of one of the recurrent operations and its pullback."""
    cell = data.draw(st.sampled_from(sorted(CELLS)))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    sizes = [data.draw(st.integers(0, n)) for n in (4, 5, 5, 18)]
    mask = data.draw(st.sampled_from(["none", "right", "holes", "empty_row"])) if sizes[0] * sizes[1] else "none"
    choices = {name: data.draw(st.booleans()) for name in ("bias", "initial_state", "go_backwards")}
    dropout = data.draw(st.sampled_from([None, "shared", "per_gate"]))
    seed = data.draw(st.integers(0, 1000))
    problem = make_problem(cell, *sizes, mask=mask, dtype=dtype, dropout=dropout, seed=seed, **choices)
    arguments = {
        "x": problem.x, "mask": problem.mask, "kernel": problem.kernel, "recurrent_kernel": problem.recurrent_kernel,
        "bias": problem.bias, "initial_state": problem.initial_state, "d_sequence": problem.dy,
        "d_states": problem.d_states, **{k: v for k, v in problem.options.items() if isinstance(v, np.ndarray)},
    }  # fmt: skip
    options = {k: v for k, v in problem.options.items() if k not in arguments}
    function, twin = (getattr(module, problem.cell.function + "_vjp") for module in (ops, reference))

    def run(x, mask, kernel, recurrent_kernel, bias, initial_state, d_sequence, d_states, **masks):
        packed = PackedSequence.from_padded(x, mask)
        (y, states), pullback = function(
            packed, kernel, recurrent_kernel, bias, initial_state, **masks, **options
        )
        valid = packed.packing.mask
        order = valid[:, ::-1] if options["go_backwards"] else valid
        gradient = PackedSequence.from_padded(d_sequence, order).values
        gradients = pullback(gradient, d_states)
        return results(y.pad(), states, gradients._replace(inputs=packed.with_values(gradients.inputs).pad()))

    def expected(x, mask, kernel, recurrent_kernel, bias, initial_state, d_sequence, d_states, **masks):
        valid = np.ones(x.shape[:2], bool) if mask is None else mask != 0
        order = valid[:, ::-1] if options["go_backwards"] else valid
        if initial_state is not None:
            zeros = np.zeros((x.shape[0], recurrent_kernel.shape[0]))
            initial_state = tuple(zeros if state is None else state for state in initial_state)
        x = np.where(valid.reshape(*valid.shape, 1), x, 0)
        (y, states), pullback = twin(
            x, kernel, recurrent_kernel, bias, initial_state, mask=valid, **masks, **options
        )
        if not order.any():
            d_sequence = np.zeros_like(y)
        d_sequence = np.where(order.reshape(*order.shape, 1), d_sequence, 0)
        return results(y, states, pullback(d_sequence, d_states))

    return Call(arguments, run, expected, dtype)


@examples(150)
@given(st.data())
def test_any_memory(data):
    check_layouts(data, recurrent_call(data))


@examples(300)
@given(st.data())
def test_reference_or_exception(data):
    check_damages(data, recurrent_call(data))
