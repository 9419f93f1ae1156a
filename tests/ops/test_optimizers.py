"""Fused optimizer steps against the reference."""

import numpy as np
import pytest
from helpers.numeric import assert_close, assert_same_bits

from fastmask import ops, reference
from fastmask.ops import tuning

pytestmark = pytest.mark.usefixtures("instruction_set")

DTYPES = [np.float32, np.float64]
SHAPES = [(1,), (3,), (17,), (4, 9), (53, 3), (2, 3, 5), (0, 4)]

# Each step: its slots, in the order of the arguments, and its numbers.
STEPS = {
    "sgd": ("sgd_step", [None], (0.1, 0.0, False)),
    "sgd momentum": ("sgd_step", ["velocity"], (0.1, 0.9, False)),
    "sgd nesterov": ("sgd_step", ["velocity"], (0.1, 0.9, True)),
    "rmsprop": ("rmsprop_step", ["square", None, None], (0.1, 0.8, 0.0, 1e-3)),
    "rmsprop momentum": ("rmsprop_step", ["square", "buffer", None], (0.1, 0.8, 0.7, 1e-3)),
    "rmsprop centered": ("rmsprop_step", ["square", None, "mean"], (0.1, 0.8, 0.0, 1e-3)),
    "rmsprop all": ("rmsprop_step", ["square", "buffer", "mean"], (0.1, 0.8, 0.7, 1e-3)),
    "adam": ("adam_step", ["m", "v", None], (0.1, 0.9, 0.99, 1e-3)),
    "amsgrad": ("adam_step", ["m", "v", "largest"], (0.1, 0.9, 0.99, 1e-3)),
}


def arrays_of(slots, shape, dtype):
    """Parameter and slots at the start."""
    param = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    return [param, *(None if slot is None else np.zeros(shape, dtype) for slot in slots)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("step", STEPS)
def test_three_steps(step, shape, dtype):
    name, slots, numbers = STEPS[step]
    arrays = arrays_of(slots, shape, dtype)
    expected = [None if a is None else a.astype(np.float64) for a in arrays]
    rng = np.random.default_rng(1)
    for _ in range(3):
        grad = rng.standard_normal(shape).astype(dtype)
        kept = grad.copy()
        getattr(ops, name)(arrays[0], grad, *arrays[1:], *numbers)
        assert_same_bits(grad, kept)
        param, *others = expected
        expected = list(getattr(reference, name)(param, grad.astype(np.float64), *others, *numbers))
    for array, other in zip(arrays, expected, strict=True):
        assert (array is None) == (other is None)
        if array is not None:
            assert_close(array, other)


@pytest.mark.parametrize("step", STEPS)
def test_bits_do_not_depend_on_the_place(step):
    name, slots, numbers = STEPS[step]
    whole, parts = arrays_of(slots, (61,), np.float32), arrays_of(slots, (61,), np.float32)
    grad = np.random.default_rng(1).standard_normal(61).astype(np.float32)
    for cut in (slice(0, 5), slice(5, 38), slice(38, 61)):
        pieces = [None if a is None else a[cut] for a in parts]
        getattr(ops, name)(pieces[0], grad[cut], *pieces[1:], *numbers)
    getattr(ops, name)(whole[0], grad, *whole[1:], *numbers)
    for array, other in zip(whole, parts, strict=True):
        if array is not None:
            assert_same_bits(array, other)


@pytest.mark.parametrize("step", STEPS)
def test_bad_gradient_is_named(step):
    name, slots, numbers = STEPS[step]
    param, *others = arrays_of(slots, (4, 3), np.float32)
    for grad, error in [
        (np.ones((3, 4), np.float32), ValueError),
        (np.ones((4, 3), np.float64), TypeError),
    ]:
        with pytest.raises(error, match=r"\bgradient\b"):
            getattr(ops, name)(param, grad, *others, *numbers)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("step", STEPS)
def test_sparse_rows_give_the_bits_of_the_dense_gradient(step, dtype):
    name, slots, numbers = STEPS[step]
    dense, sparse = arrays_of(slots, (40, 13), dtype), arrays_of(slots, (40, 13), dtype)
    for arrays in (dense, sparse):
        for slot in arrays[1:]:
            if slot is not None:
                slot[20:] = 0  # rows that no step has touched yet
    rng = np.random.default_rng(2)
    for _ in range(4):
        ids = rng.choice(30, 7, replace=False)
        grad = ops.SparseRows(ids, rng.standard_normal((7, 13)).astype(dtype), (40, 13))
        getattr(ops, name)(dense[0], grad.dense(), *dense[1:], *numbers)
        getattr(ops, name)(sparse[0], grad, *sparse[1:], *numbers)
    for array, other in zip(dense, sparse, strict=True):
        if array is not None:
            assert_same_bits(array, other)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("step", STEPS)
def test_known_rows_at_rest_give_the_bits_of_the_dense_gradient(step, dtype, count, set_threads):
    """Steps meet more and more rows; in between a gradient is dense, but for the last rows."""
    set_threads(count)
    (name, slots, numbers), rng = STEPS[step], np.random.default_rng(3)
    dense, sparse = arrays_of(slots, (400, 13), dtype), arrays_of(slots, (400, 13), dtype)
    program, resting = ops.UpdateProgram(name.split("_")[0], [sparse]), np.zeros(400, np.uint8)
    for number in range(20):
        ids = rng.choice(20 * number + 10, number, replace=False)
        grad = ops.SparseRows(ids, rng.standard_normal((number, 13)).astype(dtype), (400, 13))
        whole = grad.dense()
        if number == 12:
            whole[:350] = rng.standard_normal((350, 13))
            grad = whole
        getattr(ops, name)(dense[0], whole, *dense[1:], *numbers)
        with tuning.override(OPERATIONS_PER_THREAD=1000):
            program.prepare([grad], numbers, resting=[resting])()
        for array, other in zip(dense, sparse, strict=True):
            if array is not None:
                assert_same_bits(array, other)
                assert not array[resting != 0].any() or array is dense[0]
        assert not resting[ids].any()
        assert resting.any() == (number != 12)


def test_states_of_known_rows_are_not_read():
    arrays, resting = arrays_of(["m", "v", "largest"], (40, 13), np.float32), np.zeros(40, np.uint8)
    program = ops.UpdateProgram("adam", [arrays])

    def step(row):
        grad = ops.SparseRows(np.array([row]), np.ones((1, 13), np.float32), (40, 13))
        program.prepare([grad], STEPS["adam"][2], resting=[resting])()

    step(3)
    for state in arrays[1:]:
        state[5] = np.nan
    kept = arrays[0][5].copy()
    step(3)
    assert_same_bits(arrays[0][5], kept)
    resting[5] = 0
    step(3)
    assert np.isnan(arrays[0][5]).all()
    assert not resting[5]


def test_refused_rows_at_rest():
    table = np.ones((4, 3), np.float32)
    program = ops.UpdateProgram("sgd", [(table, None)])
    grad = ops.SparseRows(np.array([1]), np.ones((1, 3), np.float32), (4, 3))
    for bad in (np.zeros(3, np.uint8), np.zeros(4, np.int64), np.zeros(8, np.uint8)[::2], np.zeros((4, 1), np.uint8)):
        with pytest.raises(ValueError, match=r"resting: expected 4 contiguous numbers of uint8"):
            program.prepare([grad], (0.1, 0.0, False), resting=[bad])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [1.0, -1.0, -0.0, "denormal", "nan"])
@pytest.mark.parametrize("columns", [1, 7, 131])
@pytest.mark.parametrize("slot", [0, 1, 2])
def test_no_number_of_a_state_is_passed_over(slot, columns, value, dtype):
    """One number stands alone in each row of a state, at another place in each."""
    number = {"denormal": np.finfo(dtype).smallest_subnormal, "nan": np.nan}.get(value, value)
    dense, sparse = (arrays_of(["m", "v", "largest"], (columns + 1, columns), dtype) for _ in range(2))
    grad = ops.SparseRows(np.zeros(0, np.int64), np.zeros((0, columns), dtype), (columns + 1, columns))
    for arrays in (dense, sparse):
        arrays[1 + slot][np.arange(columns), np.arange(columns)] = number
    ops.adam_step(dense[0], grad.dense(), *dense[1:], 0.1)
    ops.adam_step(sparse[0], grad, *sparse[1:], 0.1)
    for array, other in zip(dense, sparse, strict=True):
        assert_same_bits(array, other)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("largest", [None, "largest"])
def test_lazy_steps(largest, dtype):
    """Rows with a gradient as the reference has them, the others bit for bit as they were."""
    arrays = arrays_of(["m", "v", largest], (40, 13), dtype)
    expected = [None if a is None else a.astype(np.float64) for a in arrays]
    rng = np.random.default_rng(2)
    numbers = (0.1, 0.9, 0.99, 1e-3)
    for count in (7, 40, 1, 0, 7):
        ids = rng.choice(40, count, replace=False)
        rows = rng.standard_normal((count, 13)).astype(dtype)
        before = [None if a is None else a.copy() for a in arrays]
        ops.lazy_adam_step(arrays[0], ops.SparseRows(ids, rows, (40, 13)), *arrays[1:], *numbers)
        param, *slots = expected
        expected = list(reference.lazy_adam_step(param, ids, rows.astype(np.float64), *slots, *numbers))
        for array, kept in zip(arrays, before, strict=True):
            if array is not None:
                others = np.setdiff1d(np.arange(40), ids)
                assert_same_bits(array[others], kept[others])
    for array, other in zip(arrays, expected, strict=True):
        if array is not None:
            assert_close(array, other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_lazy_steps_with_all_rows_have_the_bits_of_adam(dtype, set_threads):
    plain, dense, sparse = (arrays_of(["m", "v", "largest"], (40, 13), dtype) for _ in range(3))
    rng = np.random.default_rng(3)
    for count in (1, 2, 3):
        set_threads(count)
        grad = rng.standard_normal((40, 13)).astype(dtype)
        order = rng.permutation(40)
        ops.adam_step(plain[0], grad, *plain[1:], 0.1)
        ops.lazy_adam_step(dense[0], grad, *dense[1:], 0.1)
        ops.lazy_adam_step(sparse[0], ops.SparseRows(order, grad[order], (40, 13)), *sparse[1:], 0.1)
    for array, *others in zip(plain, dense, sparse, strict=True):
        for other in others:
            assert_same_bits(array, other)


@pytest.mark.parametrize(
    ("ids", "error"), [([1, 1], ValueError), ([0, 4], IndexError), ([-1, 0], IndexError), ([0.5, 1.0], TypeError)]
)
def test_bad_ids_of_a_lazy_step_change_nothing(ids, error):
    arrays = arrays_of(["m", "v", None], (4, 3), np.float32)
    kept = arrays[0].copy()
    grad = ops.SparseRows(np.array(ids), np.ones((2, 3), np.float32), (4, 3))
    with pytest.raises(error, match=r"\bgradient\b"):
        ops.lazy_adam_step(arrays[0], grad, *arrays[1:], 0.1)
    assert_same_bits(arrays[0], kept)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("rule", ["sgd", "rmsprop", "adam", "lazy adam"])
def test_a_program_of_several_parameters(rule, count, set_threads):
    """One program for several parameters gives the bits of single steps, with any number of threads."""
    set_threads(count)
    step = {"sgd": "sgd nesterov", "rmsprop": "rmsprop all", "adam": "amsgrad", "lazy adam": "amsgrad"}[rule]
    (name, slots, numbers), rng = STEPS[step], np.random.default_rng(1)
    lazy, name = rule.startswith("lazy"), "lazy_adam_step" if rule.startswith("lazy") else name
    shapes = [((700, 128), "f4"), ((64, 512), "f4"), ((512,), "f4"), ((9, 3), "f8"), ((1, 1), "f4")]
    plain, arrays = ([arrays_of(slots, shape, dtype) for shape, dtype in shapes] for _ in range(2))
    program = ops.UpdateProgram(rule.split()[-1], arrays)
    with tuning.override(OPERATIONS_PER_THREAD=1000):
        for _ in range(3):
            grads = [rng.standard_normal(shape).astype(dtype) for shape, dtype in shapes]
            for number in (0, 3):
                ids = rng.choice(len(grads[number]), 5, replace=False)
                grads[number] = ops.SparseRows(ids, grads[number][ids], grads[number].shape)
            for own, grad in zip(plain, grads, strict=True):
                getattr(ops, name)(own[0], grad, *own[1:], *numbers)
            program.prepare(grads, numbers, lazy)()
    for own, others in zip(arrays, plain, strict=True):
        for array, other in zip(own, others, strict=True):
            assert_same_bits(array, other)


def test_a_program_takes_arrays_that_fit():
    rows, other = np.ones((4, 3), np.float32), np.ones((4, 3), np.float32)
    for rule, own, error in (
        ("sgd", (rows, other[:3]), ValueError), ("sgd", (rows, other.astype(float)), TypeError),
        ("adam", (rows, other, None, None), TypeError), ("adam", (rows, other), ValueError),
        ("sgd", (rows[:, :2], None), TypeError),
    ):  # fmt: skip
        with pytest.raises(error):
            ops.UpdateProgram(rule, [own])
    program = ops.UpdateProgram("sgd", [(rows, None)])
    for gradients in ([], [other, other], [other[:3]], [other.astype(float)]):
        with pytest.raises((ValueError, TypeError)):
            program.prepare(gradients, (0.1, 0.0, False))
    with pytest.raises(ValueError, match=r"rule: expected one of sgd, rmsprop, adam, got 'adagrad'"):
        ops.UpdateProgram("adagrad", [])
