"""Fixtures for all tests."""

import pytest

from fastmask import kernels, threads


@pytest.fixture(params=kernels.available())
def instruction_set(request):
    """Run the test once with each instruction set that this machine has."""
    with kernels.use(request.param):
        yield request.param


@pytest.fixture
def set_threads():
    """``threads.set_num_threads``, undone after the test."""
    before = threads.get_num_threads()
    yield threads.set_num_threads
    threads.set_num_threads(before)
