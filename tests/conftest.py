"""Fixtures for all tests."""

import pytest
from helpers.compiled import on_packed_weights

from fastmask import kernels, threads
from fastmask.ops import tuning


@pytest.fixture(params=kernels.available())
def instruction_set(request):
    """Run the test once with each instruction set that this machine has."""
    with kernels.use(request.param):
        yield request.param


@pytest.fixture
def set_threads():
    """``threads.set_num_threads``, undone after the test; small problems are shared out, too."""
    before = threads.get_num_threads()
    with tuning.override(OPERATIONS_PER_THREAD=100):
        yield threads.set_num_threads
    threads.set_num_threads(before)


@pytest.fixture
def packed_weights():
    """Run short sequences on packed weights, too."""
    with on_packed_weights():
        yield
