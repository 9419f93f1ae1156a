"""Keras's own tests of layers end as they do without fastmask, whichever way their layers come to the kernels.

Each way is a process of its own. NumPy, on which much of them cannot run, has no part in it.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("keras", exc_type=ImportError)

import helpers
from helpers.keras_layers import BACKEND
from helpers.keras_suite import WAYS

import fastmask

pytestmark = pytest.mark.skipif(BACKEND == "numpy", reason="Keras's tests train")

RECURRENT = ("rnn/lstm", "rnn/gru", "rnn/simple_rnn", "rnn/bidirectional")
OTHERS = ("rnn/rnn", "rnn/stacked_rnn_cells", "rnn/time_distributed", "core/embedding", "core/masking")
FILES = dict.fromkeys(WAYS, RECURRENT + OTHERS) | {"classes": RECURRENT}
ROOTS = [str(Path(module.__file__).parents[1]) for module in (fastmask, helpers)]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the tests came to, by way, file and test: an outcome, and the number of runs on the kernels."""
    folder = tmp_path_factory.mktemp("suite")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(ROOTS),
        # Most of the time goes into compiling, of which the ways have much in common.
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

    def run(way):
        path = folder / f"{way}.json"
        command = [sys.executable, "-m", "helpers.keras_suite", way, str(path), *FILES[way]]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        found = {name: {} for name in FILES[way]}
        for test, result in json.loads(path.read_text("utf-8")).items():
            found[test.partition("_test.py")[0]][test] = result
        return found, done.stdout[-20000:]

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(WAYS, pool.map(run, WAYS), strict=True))


@pytest.mark.parametrize(("way", "name"), [(way, name) for way in WAYS if way != "keras" for name in FILES[way]])
def test_each_test_of_keras_ends_as_without_fastmask(results, way, name):
    expected, (found, log) = results["keras"][0][name], results[way]
    assert "passed" in {outcome for outcome, _ in expected.values()}
    assert {test: outcome for test, (outcome, _) in found[name].items()} == {
        test: outcome for test, (outcome, _) in expected.items()
    }, log


@pytest.mark.parametrize("way", WAYS)
def test_the_kernels_run_in_tests_of_keras(results, way):
    runs = {name: sum(count for _, count in results[way][0][name].values()) for name in RECURRENT}
    assert all(runs.values()) if way != "keras" else not any(runs.values()), runs
