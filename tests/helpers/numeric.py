"""Central differences and comparisons."""

import numpy as np

TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}


def numeric_gradient(function, array, step=1e-5):
    """Gradient of the scalar ``function()`` in every entry of ``array``, which it reads."""
    gradient = np.zeros_like(array)
    entries, result = array.reshape(-1), gradient.reshape(-1)
    assert array.size == 0 or np.shares_memory(entries, array), "array: expected contiguous"
    for i in range(entries.size):
        kept = entries[i]
        entries[i] = kept + step
        above = function()
        entries[i] = kept - step
        below = function()
        entries[i] = kept
        result[i] = (above - below) / (2 * step)
    return gradient


def assert_gradient(actual, function, array, name="gradient"):
    """Compare ``actual`` with central differences of ``function`` in float64."""
    assert array.dtype == np.float64
    expected = numeric_gradient(function, array)
    assert actual.shape == expected.shape, name
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=2e-8, err_msg=name)


def assert_weight_gradient(actual, function, variable):
    """The same for a weight, which is assigned each time."""
    array = variable.numpy()

    def assigned():
        variable.assign(array)
        return function()

    assert_gradient(actual, assigned, array, variable.path)
    variable.assign(array)


def assert_close(actual, expected, name="array"):
    """Compare with float64 ``expected`` to the accuracy of the dtype of ``actual``."""
    assert actual.shape == expected.shape, name
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    atol = TOLERANCE[actual.dtype] * scale
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol, err_msg=name)


def assert_same_bits(actual, expected, name="array"):
    """Equal in every bit, NaN and signed zeros included."""
    actual, expected = np.ascontiguousarray(actual), np.ascontiguousarray(expected)
    assert actual.dtype == expected.dtype, name
    assert actual.shape == expected.shape, name
    if actual.tobytes() != expected.tobytes():
        np.testing.assert_array_equal(actual, expected, err_msg=name)
        raise AssertionError(f"{name}: equal numbers with different bits")


def ulp_error(actual, exact):
    """Distance of float32 ``actual`` from float64 ``exact``, in units of the last place.

    Infinite where one is infinite or NaN and the other is not.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        nearest = exact.astype(np.float32)
        error = np.abs(actual - exact) / np.spacing(np.abs(nearest)).astype(np.float64)
    special = ~(np.isfinite(actual) & np.isfinite(nearest))
    same = (actual == nearest) | (np.isnan(actual) & np.isnan(nearest))
    return np.where(special, np.where(same, 0.0, np.inf), error)
