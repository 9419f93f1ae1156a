"""Fixtures for all tests."""

import pytest

from fastmask import kernels, threads
from fastmask.ops import _arrays, _cells


@pytest.fixture(params=kernels.available())
def instruction_set(request):
    """Run the test once with each instruction set that this machine has."""
    with kernels.use(request.param):
        yield request.param


@pytest.fixture
def set_threads(monkeypatch):
    """``threads.set_num_threads``, undone after the test; small problems are shared out, too."""
    monkeypatch.setattr(_arrays, "_OPERATIONS_PER_THREAD", 100)
    before = threads.get_num_threads()
    yield threads.set_num_threads
    threads.set_num_threads(before)


@pytest.fixture
def packed_weights(monkeypatch):
    """Run short sequences on packed weights, too."""
    for limit in ("_MOST_OPERATIONS", "_MOST_OPERATIONS_IF_REPEATED", "_MOST_TOKENS", "_MOST_TOKENS_IF_PACKED"):
        monkeypatch.setattr(_cells, limit, -1)
