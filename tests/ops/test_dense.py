"""Products, activations and the movement of tokens against the reference."""

import numpy as np
import pytest
from helpers.masks import MASK_KINDS, full_mask, make_mask
from helpers.numeric import assert_close, assert_same_bits, ulp_error

from fastmask import PackedSequence, ops, reference
from fastmask.batch.packing import Packing

pytestmark = pytest.mark.usefixtures("instruction_set")

DTYPES = [np.float32, np.float64]
SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 29, 33, 53, 64, 65, 131]


def random_arrays(dtype, *shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turn", range(len(SIZES)))
class TestSizes:
    def shape(self, turn):
        """Rows, depth and columns, so that each takes all sizes."""
        return tuple(SIZES[(turn * step + step) % len(SIZES)] for step in (1, 3, 5))

    def test_matmul(self, turn, dtype):
        n, k, m = self.shape(turn)
        x, weights = random_arrays(dtype, (n, k), (k, m))
        y = ops.matmul(x, weights)
        assert y.dtype == dtype
        assert_close(y, x.astype(np.float64) @ weights.astype(np.float64))

    @pytest.mark.parametrize("bias", [False, True])
    def test_dense(self, turn, dtype, bias):
        n, k, m = self.shape(turn)
        x, kernel, b, dy = random_arrays(dtype, (n, k), (k, m), (m,), (n, m))
        arguments = (x, kernel, b if bias else None)
        y, pullback = ops.dense_vjp(*arguments, "tanh")
        wide = [None if a is None else a.astype(np.float64) for a in arguments]
        expected, reference_pullback = reference.dense_vjp(*wide, "tanh")
        assert y.dtype == dtype
        assert_close(y, expected)
        assert_same_bits(ops.dense(*arguments, "tanh"), y)
        for actual, gradient in zip(pullback(dy), reference_pullback(dy.astype(float)), strict=True):
            assert (actual is None) == (gradient is None)
            if gradient is not None:
                assert actual.dtype == dtype
                assert_close(actual, gradient)


@pytest.mark.parametrize("shape", [(600, 7, 5), (20, 400, 9), (300, 200, 150)])
def test_large_products(shape):
    n, k, m = shape
    x, kernel, dy = random_arrays(np.float32, (n, k), (k, m), (n, m))
    y, pullback = ops.dense_vjp(x, kernel)
    expected, reference_pullback = reference.dense_vjp(x.astype(float), kernel.astype(float))
    assert_close(y, expected)
    for actual, gradient in zip(pullback(dy)[:2], reference_pullback(dy.astype(float))[:2], strict=True):
        assert_close(actual, gradient)


@pytest.mark.parametrize("shape", [(0, 3, 2), (4, 0, 2), (4, 3, 0)])
def test_products_without_entries(shape):
    n, k, m = shape
    x, weights, b = random_arrays(np.float32, (n, k), (k, m), (m,))
    assert_same_bits(ops.matmul(x, weights), np.zeros((n, m), np.float32))
    y, pullback = ops.dense_vjp(x, weights, b)
    assert_close(y, x @ weights + b)
    dx, d_kernel, d_bias = pullback(np.ones((n, m), np.float32))
    assert (dx.shape, d_kernel.shape, d_bias.shape) == ((n, k), (k, m), (m,))
    np.testing.assert_array_equal(d_bias, np.full(m, n))


def test_products_in_any_memory_order():
    x, weights, dy = random_arrays(np.float32, (9, 7), (7, 5), (9, 5))
    y, pullback = ops.dense_vjp(x, weights)
    expected = pullback(dy)
    turned = [np.asfortranarray(a) for a in (x, weights, dy)]
    y_turned, pullback = ops.dense_vjp(*turned[:2])
    assert_same_bits(y_turned, y)
    for actual, gradient in zip(pullback(turned[2])[:2], expected[:2], strict=True):
        assert_same_bits(actual, gradient)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [None, *ops.ACTIVATIONS])
def test_dense_with_every_activation(activation, dtype):
    x, kernel, b, dy = random_arrays(dtype, (13, 6), (6, 19), (19,), (13, 19))
    y, pullback = ops.dense_vjp(x, kernel, b, activation)
    wide = [a.astype(np.float64) for a in (x, kernel, b, dy)]
    expected, reference_pullback = reference.dense_vjp(*wide[:3], activation)
    assert_close(y, expected)
    for actual, gradient in zip(pullback(dy), reference_pullback(wide[3]), strict=True):
        assert_close(actual, gradient)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((1,), -1), ((7, 17), -1), ((7, 17), 0), ((3, 5, 33), 1), ((2, 0, 3), 0), ((4, 1, 1), -1), ((4, 1, 1), 0)],
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ops.ACTIVATIONS)
def test_activation(name, dtype, shape, axis):
    x, dy = random_arrays(dtype, shape, shape)
    y, pullback = ops.activation_vjp(3 * x, name, axis)
    expected, reference_pullback = reference.activation_vjp(3.0 * x.astype(float), name, axis)
    assert y.dtype == pullback(dy).dtype == dtype
    assert_close(y, expected)
    assert_close(pullback(dy), reference_pullback(dy.astype(float)))
    assert_same_bits(ops.activation(3 * x, name, axis), y)


def test_every_activation_has_a_reference():
    assert set(ops.RECURRENT_ACTIVATIONS) < set(ops.ACTIVATIONS) <= set(reference.ACTIVATIONS)


def float32_sample():
    """A dense sample of all float32 numbers: denormal, huge, infinite and NaN among them."""
    spread = np.arange(0, 2**32, 7919, np.uint64).astype(np.uint32).view(np.float32)
    usual = np.linspace(-110, 110, 200_003).astype(np.float32)
    near_zero = np.linspace(-2, 2, 100_003).astype(np.float32)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], np.float32)
    return np.concatenate([spread, usual, near_zero, special])


@pytest.mark.parametrize(("name", "limit"), [("tanh", 4), ("sigmoid", 4), ("exponential", 2)])
def test_accuracy_in_units_of_the_last_place(name, limit):
    x = float32_sample()
    with np.errstate(all="ignore"):
        exact = reference.activation(x.astype(np.float64), name)
    error = ulp_error(ops.activation(x, name), exact)
    worst = int(np.argmax(error))
    assert error[worst] <= limit, f"{name}({x[worst]!r})"


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "exponential"])
def test_accuracy_in_float64(name):
    x = np.concatenate([np.linspace(-30, 30, 100_003), np.linspace(-1e-3, 1e-3, 1001)])
    exact = reference.activation(x, name)
    error = np.abs(ops.activation(x, name) - exact) / np.spacing(np.abs(exact))
    assert error.max() <= 4


LIMITS = {
    "tanh": (-1, 1),
    "sigmoid": (0, 1),
    "hard_sigmoid": (0, 1),
    "hard_sigmoid_keras2": (0, 1),
    "exponential": (0, np.inf),
    "relu": (0, np.inf),
    "linear": (-np.inf, np.inf),
    "elu": (-1, np.inf),
    "softplus": (0, np.inf),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LIMITS)
def test_limits(name, dtype):
    y = ops.activation(np.array([-np.inf, np.inf], dtype), name)
    np.testing.assert_array_equal(y, np.array(LIMITS[name], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ops.ACTIVATIONS)
def test_nan_in_nan_out(name, dtype):
    x = np.zeros((2, 19), dtype)
    x[0, 5] = np.nan
    y = ops.activation(x, name)
    assert np.isnan(y[0, 5])
    assert not np.isnan(y[1]).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [n for n in ops.ACTIVATIONS if n != "softmax"])
def test_bits_of_an_activation_do_not_depend_on_the_place(name, dtype):
    (x,) = random_arrays(dtype, (67,))
    y = ops.activation(x, name)
    for start in (0, 1, 5, 30):
        assert_same_bits(ops.activation(x[start:], name), y[start:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_of_large_logits(dtype):
    x = np.array([[1e4, 1e4, -1e4], [-1e4, -1e4, -1e4]], dtype)
    y = ops.activation(x, "softmax")
    np.testing.assert_allclose(y, [[0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask", MASK_KINDS)
class TestSequences:
    def test_pack(self, mask, dtype):
        grid_mask = make_mask(mask, 5, 6)
        x, dy = random_arrays(dtype, (5, 6, 7), (5, 6, 7))
        valid = full_mask(grid_mask, 5, 6)
        sequence, pullback = ops.pack_vjp(x, grid_mask)
        assert_same_bits(sequence.values, reference.pack(x, valid))
        assert_same_bits(ops.pack(x, grid_mask).values, sequence.values)
        expected = np.where(valid[:, :, None], dy, np.zeros((), dtype))
        assert_same_bits(pullback(reference.pack(dy, valid)), expected)

    @pytest.mark.parametrize("repeat", [False, True])
    def test_unpack_reads_only_cotangents_that_count(self, mask, dtype, repeat):
        """Gradients of places that show a fill are dropped, so that NaN there is not seen."""
        valid = full_mask(make_mask(mask, 5, 6), 5, 6)
        x, dy = random_arrays(dtype, (5, 6, 7), (5, 6, 7))
        sequence = PackedSequence(reference.pack(x, valid), Packing.from_mask(valid), repeat=repeat)
        padded, pullback = ops.unpack_vjp(sequence)
        assert_same_bits(padded, reference.unpack(sequence.values, valid, repeat=repeat))
        filled = ~valid & ~(repeat & np.maximum.accumulate(valid, axis=1))
        clean = pullback(dy)
        dy[filled] = np.nan
        assert np.isfinite(clean).all()
        assert_same_bits(pullback(dy), clean)

    def test_time_order(self, mask, dtype):
        valid = full_mask(make_mask(mask, 5, 6), 5, 6)
        (x,) = random_arrays(dtype, (5, 6, 7))
        packing = Packing.from_mask(valid)
        backward = PackedSequence(reference.pack(x[:, ::-1], valid[:, ::-1]), packing.reversed)
        turned = ops.time_order(backward)
        assert_same_bits(turned.values, reference.pack(x, valid))
        np.testing.assert_array_equal(turned.packing.mask, valid)

    @pytest.mark.parametrize("mode", reference.MERGE_MODES)
    def test_merge_directions(self, mask, dtype, mode):
        valid = full_mask(make_mask(mask, 5, 6), 5, 6)
        forward, backward = random_arrays(dtype, (5, 6, 7), (5, 6, 7))
        packing = Packing.from_mask(valid)
        merged, pullback = ops.merge_directions_vjp(
            PackedSequence(reference.pack(forward, valid), packing, repeat=True),
            PackedSequence(reference.pack(backward, valid[:, ::-1]), packing.reversed, repeat=True),
            mode,
        )
        zeros = np.zeros((), dtype)
        y, reference_pullback = reference.merge_directions_vjp(
            np.where(valid[:, :, None], forward, zeros),
            np.where(valid[:, ::-1, None], backward, zeros),
            mode,
        )
        assert not merged.repeat
        assert merged.fill is None
        assert_close(merged.pad(), y.astype(float))
        (dy,) = random_arrays(dtype, merged.values.shape, seed=1)
        expected = reference_pullback(reference.unpack(dy, valid))
        for actual, gradient, order in zip(pullback(dy), expected, (valid, valid[:, ::-1]), strict=True):
            assert_close(actual, reference.pack(gradient, order).astype(float))


def call(function, *arguments, **changes):
    return lambda: function(*arguments, **changes)


X, KERNEL, BIAS = np.ones((4, 3), np.float32), np.ones((3, 2), np.float32), np.ones(2, np.float32)


@pytest.mark.parametrize(
    ("run", "error", "name"),
    [
        (call(ops.matmul, X, KERNEL.T), ValueError, "kernel"),
        (call(ops.matmul, X[0], KERNEL), ValueError, "x"),
        (call(ops.matmul, X.astype(int), KERNEL), TypeError, "x"),
        (call(ops.dense, X, KERNEL.T), ValueError, "kernel"),
        (call(ops.dense, X, KERNEL.astype(float)), TypeError, "kernel"),
        (call(ops.dense, X, KERNEL, BIAS[:1]), ValueError, "bias"),
        (call(ops.dense, X, KERNEL, BIAS, "sine"), ValueError, "activation"),
        (call(ops.activation, X, "sine"), ValueError, "name"),
        (call(ops.activation, X.astype(int), "tanh"), TypeError, "x"),
        (call(ops.activation, X, "softmax", 2), ValueError, "axis"),
    ],
)
def test_bad_input_is_named(run, error, name):
    with pytest.raises(error, match=rf"\b{name}\b"):
        run()
