"""Padding is never read, and a sequence gives the same bits wherever it stands."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from helpers.compiled import (
    assert_results_close,
    assert_same_results,
    make_program,
    ops_results,
    reference_results,
    run_program,
)
from helpers.masks import MASKED_KINDS
from helpers.numeric import assert_same_bits
from helpers.recurrent import CELLS, make_problem, processing_mask

from fastmask import PackedSequence, ops, reference, threads
from fastmask.batch.packing import Packing
from fastmask.kernels import memory
from fastmask.ops import tuning

pytestmark = pytest.mark.usefixtures("instruction_set")

THREADS = [1, 2, 3]
VARIANTS = {
    "plain": {},
    "backwards": {"go_backwards": True},
    "dropout": {"dropout": "per_gate"},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mask", MASKED_KINDS)
@pytest.mark.parametrize("cell", CELLS)
def test_nan_in_padding_changes_no_bit(cell, mask, variant):
    problem = make_problem(cell, 7, 6, 5, 9, mask=mask, dtype=np.float32, **VARIANTS[variant])
    problem.x[~problem.mask] = 1e30
    expected = ops_results(problem)
    problem.x[~problem.mask] = np.nan
    assert_same_results(ops_results(problem), expected)
    assert all(np.isfinite(array).all() for array in expected.values())


def inside_nan(array):
    """A contiguous copy of ``array`` with NaN before and behind it in memory."""
    room = np.full(array.size + 128, np.nan, array.dtype)
    view = room[64 : 64 + array.size].reshape(array.shape)
    view[...] = array
    return view


@pytest.mark.parametrize("dropout", [None, "shared", "per_gate"])
@pytest.mark.parametrize("cell", CELLS)
def test_nothing_beside_the_arrays_is_used(cell, dropout):
    problem = make_problem(cell, 5, 4, 5, 9, mask="right", dtype=np.float32, dropout=dropout)
    expected = ops_results(problem)
    for name in ("x", "kernel", "recurrent_kernel", "bias", "dy"):
        setattr(problem, name, inside_nan(getattr(problem, name)))
    for name in ("initial_state", "d_states"):
        setattr(problem, name, tuple(map(inside_nan, getattr(problem, name))))
    for name in ("input_mask", "recurrent_mask"):
        if dropout:
            problem.options[name] = inside_nan(problem.options[name])
    x = PackedSequence.from_padded(problem.x, problem.mask)
    x = x.with_values(inside_nan(x.values))
    assert_same_results(ops_results(problem, x), expected)


LENGTHS = np.array([4, 0, 7, 1, 4, 7, 5, 2, 3, 3, 6, 0, 1, 7, 2, 5, 4])
LAYOUTS = ("right", "left", "holes", "far right", "far left")


def valid_grid(lengths, layout):
    """Mask in which row n has ``lengths[n]`` valid steps; None for rows of one length without padding."""
    longest = int(lengths.max(initial=0))
    time = longest + (6 if layout in ("holes", "far right", "far left") else 0)
    if layout == "no mask":
        return np.ones((len(lengths), longest), bool)
    rng = np.random.default_rng(3)
    mask = np.arange(time) < lengths[:, None]
    if layout == "holes":
        return rng.permuted(mask, axis=1)
    return mask[:, ::-1].copy() if "left" in layout else mask


def lay_out(problem, layout, rows=None):
    """Some of the rows (default all) of a batch on a grid of their own, with NaN at all masked places.

    Step k that is run of row n gets ``x[n, k]`` and ``dy[n, k]`` in every layout.
    """
    rows = np.arange(len(LENGTHS)) if rows is None else np.asarray(rows)
    mask = valid_grid(LENGTHS[rows], layout)
    options = dict(problem.options)
    for name in ("input_mask", "recurrent_mask"):
        if name in options:
            options[name] = options[name][..., rows, :]
    placed = replace(
        problem,
        x=np.full((*mask.shape, problem.x.shape[-1]), np.nan, problem.x.dtype),
        dy=np.full((*mask.shape, problem.dy.shape[-1]), np.nan, problem.dy.dtype),
        mask=None if layout == "no mask" else mask,
        initial_state=tuple(s[rows] for s in problem.initial_state),
        d_states=tuple(s[rows] for s in problem.d_states),
        options=options,
    )
    order = processing_mask(placed)
    for n, row in enumerate(rows):
        length = LENGTHS[row]
        steps = np.flatnonzero(mask[n])
        placed.x[n, steps] = problem.x[row, :length]
        placed.dy[n, order[n]] = problem.dy[row, :length]
    return placed


def results_by_row(problem, results=None):
    """What belongs to one sequence, for each: outputs, states and their gradients, input gradients."""
    results = ops_results(problem) if results is None else results
    order = processing_mask(problem)
    y = reference.unpack(results["y"], order)
    dx = reference.unpack(results["x"], problem.valid)
    by_row = []
    for n in range(len(order)):
        row = {name: array[n] for name, array in results.items() if "state[" in name}
        by_row.append(row | {"y": y[n, order[n]], "x": dx[n, problem.valid[n]]})
    return by_row


def make_batch(cell, variant, units=9):
    """A batch whose rows end after ``LENGTHS`` steps."""
    return make_problem(cell, len(LENGTHS), max(LENGTHS), 5, units, dtype=np.float32, **VARIANTS[variant])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cell", CELLS)
class TestPlace:
    @pytest.mark.parametrize("units", [9, 70])
    def test_alone(self, cell, variant, units):
        batch = make_batch(cell, variant, units)
        in_batch = results_by_row(lay_out(batch, "right"))
        for row, expected in enumerate(in_batch):
            for layout in ("no mask", "far left"):
                (alone,) = results_by_row(lay_out(batch, layout, [row]))
                assert_same_results(alone, expected)

    def test_anywhere_in_a_batch(self, cell, variant):
        batch = make_batch(cell, variant)
        expected = results_by_row(lay_out(batch, "right"))
        rng = np.random.default_rng(5)
        for layout in LAYOUTS:
            rows = rng.permutation(len(LENGTHS))
            for row, actual in zip(rows, results_by_row(lay_out(batch, layout, rows)), strict=True):
                assert_same_results(actual, expected[row])

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_padding_side(self, cell, variant, layout):
        """With the gradients of the weights, which sum over the batch."""
        batch = make_batch(cell, variant)
        first, other = lay_out(batch, "right"), lay_out(batch, layout)
        expected, actual = ops_results(first), ops_results(other)
        pairs = zip(results_by_row(other, actual), results_by_row(first, expected), strict=True)
        for by_row in pairs:
            assert_same_results(*by_row)
        for name in ("kernel", "recurrent_kernel", "bias"):
            assert_same_bits(actual[name], expected[name], name)


def test_small_problems_are_shared_out(set_threads, monkeypatch):
    """What the tests of thread counts rely on."""
    counts = []
    run = threads.run
    monkeypatch.setattr(threads, "run", lambda tasks, *most: (counts.append(len(tasks)), run(tasks, *most)))
    set_threads(3)
    ops_results(make_problem("lstm", 130, 12, 9, 17, dtype=np.float32))
    assert sum(count >= 3 for count in counts) >= 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cell", CELLS)
def test_number_of_threads(cell, variant, dtype, set_threads):
    problem = make_problem(cell, 130, 12, 9, 17, dtype=dtype, **VARIANTS[variant])
    results = []
    for count in THREADS:
        set_threads(count)
        results.append(ops_results(problem))
    for other in results[1:]:
        assert_same_results(other, results[0])


@pytest.mark.usefixtures("packed_weights")
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cell", CELLS)
def test_number_of_threads_in_inference(cell, variant, return_sequences, set_threads):
    problem = make_problem(cell, 130, 12, 9, 17, dtype=np.float32, **VARIANTS[variant])
    x = PackedSequence.from_padded(problem.x, problem.mask)
    program = make_program(problem)
    results = []
    for count in THREADS:
        set_threads(count)
        sequence, states = run_program(program, problem, x, return_sequences)
        results.append([*states, *([sequence.values] if return_sequences else [])])
    for other in results[1:]:
        for array, expected in zip(other, results[0], strict=True):
            assert_same_bits(array, expected)


@pytest.mark.parametrize("cell", CELLS)
def test_number_of_threads_with_repeated_rows(cell, set_threads):
    problem = make_problem(cell, 130, 12, 9, 17, dtype=np.float32)
    rng = np.random.default_rng(0)
    table = rng.standard_normal((20, 9)).astype(np.float32)
    packing = Packing.from_mask(problem.mask)
    x = PackedSequence(table, packing, rng.integers(0, 20, packing.tokens))
    results = []
    for count in THREADS:
        set_threads(count)
        results.append(ops_results(problem, x))
    for other in results[1:]:
        assert_same_results(other, results[0])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("initial_state", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_at_once_or_apart(cell, initial_state, bias):
    problem = make_problem(cell, 7, 6, 5, 9, dtype=np.float32, initial_state=initial_state, bias=bias)
    expected = ops_results(problem)
    with tuning.override(GRADIENTS_AT_ONCE=0):
        assert_same_results(ops_results(problem), expected)


@pytest.fixture
def nan_in_new_memory(monkeypatch):
    """Arrays that are not made of zeros hold NaN."""

    def filled(shape, dtype):
        array = memory.aligned_empty(shape, dtype)
        if array.dtype.kind == "f":
            array.fill(np.nan)
        return array

    for name, module in list(sys.modules.items()):
        if name.startswith("fastmask.") and module is not memory and hasattr(module, "aligned_empty"):
            monkeypatch.setattr(module, "aligned_empty", filled)


@pytest.mark.usefixtures("nan_in_new_memory")
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cell", CELLS)
def test_what_memory_held_before_is_not_used(cell, variant, at_once):
    """Values with padding that no token stands at have a gradient of zeros."""
    problem = make_problem(cell, 7, 6, 5, 9, dtype=np.float32, **VARIANTS[variant])
    plan = Packing.from_mask(problem.mask)
    x = PackedSequence(problem.x.reshape(-1, 5), plan, plan.positions, apart=True)
    with tuning.override(**{} if at_once else {"GRADIENTS_AT_ONCE": 0}):
        actual = ops_results(problem, x)
    expected = reference_results(problem)
    assert not actual["x"][~problem.mask.reshape(-1)].any()
    assert_results_close(actual | {"x": actual["x"][plan.positions]}, expected, np.float32)


def dense_results(x, kernel, bias, dy):
    y, pullback = ops.dense_vjp(x, kernel, bias, "tanh")
    return dict(zip(("y", "x", "kernel", "bias"), (y, *pullback(dy)), strict=True))


def dense_arrays(rows=3000):
    rng = np.random.default_rng(0)
    shapes = ((rows, 17), (17, 23), (23,), (rows, 23))
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def test_dense_for_any_number_of_threads(set_threads):
    results = []
    for count in THREADS:
        set_threads(count)
        results.append(dense_results(*dense_arrays()))
    for other in results[1:]:
        assert_same_results(other, results[0])


def test_rows_of_a_dense_layer_do_not_depend_on_each_other():
    x, kernel, bias, dy = dense_arrays(40)
    expected = dense_results(x, kernel, bias, dy)
    for rows in (slice(0, 1), slice(7, 20), slice(3, None, 2)):
        part = dense_results(x[rows], kernel, bias, dy[rows])
        assert_same_bits(part["y"], expected["y"][rows])
        assert_same_bits(part["x"], expected["x"][rows])


def test_embedding_for_any_number_of_threads(set_threads):
    rng = np.random.default_rng(0)
    table = rng.standard_normal((50, 33)).astype(np.float32)
    ids = rng.integers(0, 50, (100, 40))
    dy = rng.standard_normal((100, 40, 33)).astype(np.float32)
    results = []
    for count in THREADS:
        set_threads(count)
        y, pullback = ops.embedding_vjp(ids, table)
        results.append({"y": y, "table": pullback(dy).dense()})
    for other in results[1:]:
        assert_same_results(other, results[0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_embedding_gradient_for_any_padding(layout):
    """Summed by id over the tokens of a batch, in an order that padding does not change."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((6, 5)).astype(np.float32)
    shape = (len(LENGTHS), max(LENGTHS))
    ids, dy = rng.integers(0, 6, shape), rng.standard_normal((*shape, 5)).astype(np.float32)
    gradients = []
    for chosen in ("right", layout):
        mask = valid_grid(LENGTHS, chosen)
        first_steps = valid_grid(LENGTHS, "right")
        grid_ids = np.full(mask.shape, 10**6)
        grid_dy = np.full((*mask.shape, 5), np.nan, np.float32)
        grid_ids[mask], grid_dy[mask] = ids[first_steps], dy[first_steps]
        y, pullback = ops.embedding_vjp(PackedSequence.from_padded(grid_ids, mask), table)
        _, unpack_pullback = ops.unpack_vjp(y)
        gradients.append(pullback(unpack_pullback(grid_dy)).dense())
    assert_same_bits(*gradients)
