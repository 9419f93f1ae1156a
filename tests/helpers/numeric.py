"""Central differences and comparisons."""

import numpy as np


def numeric_gradient(function, array, step=1e-5):
    """Gradient of the scalar ``function()`` in every entry of ``array``, which it reads."""
    gradient = np.zeros_like(array)
    entries, result = array.reshape(-1), gradient.reshape(-1)
    assert np.shares_memory(entries, array), "array must be contiguous"
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


def assert_same_bits(actual, expected, name="array"):
    """Equal in every bit, NaN and signed zeros included."""
    actual, expected = np.ascontiguousarray(actual), np.ascontiguousarray(expected)
    assert actual.dtype == expected.dtype, name
    assert actual.shape == expected.shape, name
    if actual.tobytes() != expected.tobytes():
        np.testing.assert_array_equal(actual, expected, err_msg=name)
        raise AssertionError(f"{name}: equal numbers with different bits")


def ulp_error(actual, exact):
    """Distance of float32 ``actual`` from float64 ``exact``, in units of the last place."""
    rounded = np.abs(exact).astype(np.float32)
    spacing = np.spacing(np.maximum(rounded, np.finfo(np.float32).tiny)).astype(np.float64)
    return np.abs(actual.astype(np.float64) - exact) / spacing
