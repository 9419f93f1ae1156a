"""Bad input for plans, packed sequences, the operations on them, and optimizer steps."""

import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from fastmask import PackedSequence, Packing, ops, reference

from .arrays import DAMAGES, OBJECTS, damaged
from .calls import DOCUMENTED, assert_names_an_argument, examples

SIZES = st.sampled_from([-(2**63), -1, 0, 1, 2, 3, 7, 2**40, 2**62, 2**63, 2**64, 2.0, True, None, "3"])


def anything(data, good):
    """An array, or with some luck something else."""
    return damaged(data, good, data.draw(st.sampled_from(DAMAGES))) if data.draw(st.booleans()) else good


def attempt(function, names, *arguments, **keywords):
    """What the call returns; None after a documented exception."""
    note(f"{getattr(function, '__name__', function)}{arguments} {keywords}")
    with np.errstate(all="ignore"):
        try:
            return function(*arguments, **keywords)
        except DOCUMENTED as error:
            assert_names_an_argument(error, names)
            return None


def assert_plan(plan, mask):
    """The plan is the reference's for a mask."""
    expected = reference.pack_plan(mask)
    for name, array in expected._asdict().items():
        np.testing.assert_array_equal(getattr(plan, name), array, err_msg=name)
    np.testing.assert_array_equal(plan.mask, mask)
    np.testing.assert_array_equal(plan.reverse, reference.reverse_order(mask))


@examples(150)
@given(st.data())
def test_plans(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    shape = data.draw(st.tuples(st.integers(0, 5), st.integers(0, 5)))
    mask = anything(data, rng.random(shape) < 0.6)
    plan = attempt(Packing.from_mask, ["mask"], mask)
    if plan is not None:
        assert_plan(plan, np.asarray(mask) != 0)
    lengths = anything(data, rng.integers(0, 6, shape[0]))
    total = data.draw(SIZES)
    plan = attempt(Packing.from_lengths, ["lengths", "total_length"], lengths, total)
    if plan is not None and plan.total_length < 100:
        assert_plan(plan, np.arange(plan.total_length) < np.asarray(lengths).astype(int).reshape(-1, 1))


@examples(100)
@given(SIZES, SIZES)
def test_full_plans(batch_size, total_length):
    plan = attempt(Packing.full, ["batch_size", "total_length"], batch_size, total_length)
    if plan is not None and plan.batch_size * plan.total_length < 1000:
        assert_plan(plan, np.ones((plan.batch_size, plan.total_length), bool))


@examples(150)
@given(st.data())
def test_lists_of_sequences(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    token = tuple(data.draw(st.lists(st.integers(0, 3), max_size=2)))
    lengths = data.draw(st.lists(st.integers(0, 4), max_size=4))
    rows = [anything(data, rng.standard_normal((n, *token))) for n in lengths]
    packed = attempt(PackedSequence.from_list, ["sequences", "values"], rows)
    if packed is not None:
        padded = packed.pad()
        for row, given_row in zip(padded, rows, strict=True):
            given_row = np.asarray(given_row)
            if given_row.size:  # a row of nothing may be of any dtype
                np.testing.assert_array_equal(row[: len(given_row)], given_row.astype(packed.dtype))


def a_plan(data, rng):
    """A small plan of any kind."""
    shape = data.draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    return data.draw(st.sampled_from([Packing.full(*shape), Packing.from_mask(rng.random(shape) < 0.5)]))


@examples(300)
@given(st.data())
def test_packed_sequences(data):
    """What can be made can be used."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    plan = a_plan(data, rng)
    indexed = data.draw(st.booleans())
    stored = data.draw(st.integers(0, 4)) if indexed else plan.tokens
    width = data.draw(st.integers(0, 3))
    masked = plan.batch_size * plan.total_length - plan.tokens
    arguments = {
        "values": rng.standard_normal((stored, width)).astype(data.draw(st.sampled_from([np.float32, np.float64]))),
        "packing": plan,
        "index": rng.integers(0, max(stored, 1), plan.tokens) if indexed else None,
        "fill": rng.standard_normal(width) if data.draw(st.booleans()) else None,
        "repeat": data.draw(st.booleans()),
        "shown": rng.integers(0, max(stored, 1), masked) if indexed and data.draw(st.booleans()) else None,
    }
    for name in data.draw(st.lists(st.sampled_from(sorted(arguments)), max_size=2)):
        arguments[name] = anything(data, arguments[name])
    packed = attempt(PackedSequence, arguments, **arguments)
    if packed is None:
        return
    names = [*arguments, "d", "dy", "cells", "x", "backward", "packed"]
    assert packed.pad().shape == packed.shape
    assert packed.expand().pad().shape == packed.shape
    plan = packed.packing
    for function in (ops.expand_vjp, ops.unpack_vjp, ops.time_order_vjp, ops.average_pool_vjp, ops.max_pool_vjp):
        result = attempt(function, names, packed)
        if result is not None:
            y, pullback = result
            d = y.values if isinstance(y, PackedSequence) else y
            gradient = attempt(pullback, names, anything(data, d))
            assert gradient is None or gradient.shape == packed.values.shape
    cells = anything(data, rng.integers(-1, 5, 3))
    result = attempt(ops.gather_vjp, names, packed, cells)
    if result is not None:
        grid = packed.pad().reshape(plan.batch_size * plan.total_length, *packed.values.shape[1:])
        np.testing.assert_array_equal(result[0], grid[np.asarray(cells).astype(int)])
        attempt(result[1], names, anything(data, result[0]))


@examples(150)
@given(st.data())
def test_embedding_of_packed_ids(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    plan = a_plan(data, rng)
    ids = anything(data, rng.integers(0, 4, plan.tokens))
    packed = attempt(PackedSequence, ["values", "fill"], ids, plan)
    if packed is None:
        return
    table = anything(data, rng.standard_normal((4, 3)).astype(np.float32))
    result = attempt(ops.embedding_vjp, ["ids", "embeddings"], packed, table)
    if result is None:
        return
    y, pullback = result
    np.testing.assert_array_equal(y.data, np.asarray(table)[np.asarray(ids).astype(np.int64)])
    rows = attempt(pullback, ["dy"], anything(data, y.values))
    if rows is not None:
        assert rows.dense().shape == np.shape(table)


STEPS = {
    "sgd_step": (["velocity"], ["learning_rate", "momentum"]),
    "rmsprop_step": (["mean_square", "momentum_buffer", "mean"], ["learning_rate", "rho", "momentum", "epsilon"]),
    "adam_step": (["m", "v", "v_max"], ["alpha", "beta_1", "beta_2", "epsilon"]),
    "lazy_adam_step": (["m", "v", "v_max"], ["alpha", "beta_1", "beta_2", "epsilon"]),
}


@pytest.mark.parametrize("name", STEPS)
@examples(150)
@given(st.data())
def test_optimizer_steps(name, data):
    check_step(name, data)


def check_step(name, data):
    """A refused call has changed nothing; an accepted one gives the reference's numbers."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    shape = data.draw(st.lists(st.integers(0, 5), max_size=3))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    states, rates = STEPS[name]
    arguments = {key: rng.random(shape).astype(dtype) for key in ("parameter", "gradient", *states)}
    arguments = {key: np.asarray(value) for key, value in arguments.items()} | dict.fromkeys(rates, 0.5)
    sparse = len(shape) == 2 and data.draw(st.booleans())
    if sparse:
        count = data.draw(st.integers(0, shape[0]))
        parts = (rng.permutation(shape[0])[:count], rng.random((count, shape[1])).astype(dtype))
        arguments["gradient"] = ops.SparseRows(*(anything(data, part) for part in parts), tuple(shape))
    for key in data.draw(st.lists(st.sampled_from(sorted(arguments)), max_size=2)):
        if not (sparse and key == "gradient"):
            arguments[key] = anything(data, arguments[key])
    before = {key: value.copy() if isinstance(value, np.ndarray) else value for key, value in arguments.items()}
    done = attempt(lambda **keywords: (getattr(ops, name)(**keywords), True), arguments, **arguments)
    if done is None:
        for key in ("parameter", *states):
            if isinstance(before[key], np.ndarray):
                np.testing.assert_array_equal(arguments[key], before[key])
        return
    gradient = before["gradient"].dense() if sparse else np.asarray(before["gradient"], float)
    numbers = [before[key] for key in ("parameter", *states) if isinstance(before[key], np.ndarray)]
    if not all((np.abs(v) < 1e15).all() for v in (gradient, *numbers)):  # squares overflow; NaN is not below either
        return
    args = [before[key].astype(float) if isinstance(before[key], np.ndarray) else before[key]
            for key in ("parameter", "gradient", *states, *rates) if key != "gradient"]
    rows = [gradient.astype(float)]
    if name == "lazy_adam_step" and sparse:
        rows = [np.asarray(before["gradient"].ids).astype(np.int64), np.asarray(before["gradient"].rows, float)]
    with np.errstate(all="ignore"):
        compare = getattr(reference, name if len(rows) == 2 else name.removeprefix("lazy_"))
        expected = compare(args[0], *rows, *args[1:])
    if np.abs(expected[0]).max(initial=0) < 1e15:
        np.testing.assert_allclose(arguments["parameter"], expected[0], rtol=1e-4, atol=1e-5)


@examples(100)
@given(st.data())
def test_batch_statistics(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    n, width = data.draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    x = anything(data, rng.standard_normal((n, width)).astype(np.float32))
    counts = anything(data, rng.integers(0, 3, n))
    result = attempt(ops.batch_training_vjp, ["x", "counts"], x, counts)
    if result is not None:
        (y, mean, variance), pullback = result
        assert mean.shape == variance.shape == y.shape[1:]
        attempt(pullback, ["dy"], anything(data, y))


@pytest.mark.parametrize("value", OBJECTS)
def test_what_is_no_packed_sequence(value):
    """Every operation on packed sequences says so."""
    functions = (ops.expand_vjp, ops.unpack, ops.unpack_vjp, ops.time_order, ops.average_pool, ops.max_pool_vjp)
    for function in functions:
        with pytest.raises(TypeError, match="expected a PackedSequence"):
            function(value)
    with pytest.raises(TypeError, match="forward: expected a PackedSequence"):
        ops.merge_directions_vjp(value, value)
    with pytest.raises(TypeError, match="x: expected a PackedSequence"):
        ops.lstm(value, np.zeros((2, 4)), np.zeros((1, 4)))


def test_plans_are_made_by_their_classmethods():
    with pytest.raises(TypeError, match="from_mask"):
        Packing()
