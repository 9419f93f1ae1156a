"""Fixtures for all tests, the processes that run them, and what is printed at their end."""

import gc

import pytest
from helpers.compiled import on_packed_weights
from helpers.examples import PASSED, print_passed

from fastmask import config, kernels, threads
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


@pytest.fixture
def in_float64():
    """Make layers in float64."""
    config.set_floatx("float64")
    yield
    config.set_floatx("float32")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """One process for each CPU that this one may use; a container may have fewer than it sees."""
    return threads.get_num_threads()


def pytest_collection_finish():
    """What collecting has made stays to the end: no search for garbage has to go through it."""
    gc.freeze()


def pytest_sessionfinish(session):
    """A process that pytest-xdist runs tests in tells how many examples have passed in it."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["passed"] = dict(PASSED)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Add what such a process has told; one that crashed has told nothing."""
    PASSED.update(getattr(node, "workeroutput", {}).get("passed", {}))


def pytest_terminal_summary(terminalreporter):
    """Print how many examples of bad input have passed."""
    print_passed(terminalreporter)
