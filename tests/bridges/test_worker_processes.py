"""Models in worker processes: pickled, with threads of their own number, with weights that nobody may change."""

import copy
import importlib.util
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import children

import fastmask as fm

EXAMPLE = Path(__file__).parents[2] / "examples" / "predict_ray.py"
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 30, (24, 40)).astype("int32")
_model = None


def sequential():
    fm.utils.set_random_seed(0)
    return fm.Sequential(
        [
            fm.Input((None,), dtype="int32"),
            fm.layers.Embedding(30, 16, mask_zero=True),
            fm.layers.Bidirectional(fm.layers.LSTM(32, return_sequences=True)),
            fm.layers.GRU(32),
            fm.layers.Dense(3),
        ]
    )


def functional():
    fm.utils.set_random_seed(0)
    ids = fm.Input((None,), dtype="int32")
    shared = fm.layers.LSTM(8, return_sequences=True)
    x = fm.layers.Embedding(30, 8, mask_zero=True)(ids)
    x = fm.layers.Add()([shared(x), shared(shared(x))])
    return fm.Model(ids, [fm.layers.SimpleRNN(4)(x), fm.layers.GlobalAveragePooling1D()(x)])


def start(pickled, threads):
    global _model
    fm.set_num_threads(threads)
    _model = pickle.loads(pickled)


def work(ids):
    """Predictions, the number of threads that is set, and how many ran besides those of the pool of processes."""
    before = threading.active_count()
    made = _model.predict(ids, verbose=0)
    return made, fm.get_num_threads(), threading.active_count() - before


def arrays(made):
    return made if isinstance(made, list) else [made]


def read_only_copy(model):
    """The model as a store shares it between processes: its arrays lie in memory that cannot be written."""
    buffers = []
    pickled = pickle.dumps(model, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(pickled, buffers=[bytes(buffer) for buffer in buffers])


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_workers_predict_the_same_bits(method, set_threads):
    set_threads(2)
    model = sequential()
    expected = model.predict(IDS, verbose=0)
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, context, start, (pickle.dumps(model), 1)) as pool:
        found = list(pool.map(work, np.array_split(IDS, 5)))
    np.testing.assert_array_equal(np.concatenate([made for made, _, _ in found]), expected)
    assert {(threads, started) for _, threads, started in found} == {(1, 0)}


@pytest.mark.parametrize("make", [sequential, functional])
def test_pickled_and_read_only_models(make):
    model = make()
    expected = arrays(model.predict(IDS, verbose=0))
    for other in (pickle.loads(pickle.dumps(model)), read_only_copy(model), copy.deepcopy(read_only_copy(model))):
        for made, wanted in zip(arrays(other.predict(IDS, verbose=0)), expected, strict=True):
            np.testing.assert_array_equal(made, wanted)


def test_read_only_weights_train_after_a_copy():
    labels = np.full((len(IDS), 3), 2.0, "float32")
    shared = read_only_copy(sequential())
    shared.compile("adam", "mse")
    with pytest.raises(TypeError, match="expected a writable contiguous"):
        shared.train_on_batch(IDS, labels)
    losses = []
    for model in (copy.deepcopy(shared), sequential()):
        model.compile("adam", "mse")
        losses.append([model.train_on_batch(IDS, labels) for _ in range(2)])
    assert losses[0] == losses[1]
    assert losses[0][1] < losses[0][0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks of POSIX")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_workers_of_a_data_loader(set_threads):
    data_module = pytest.importorskip("torch.utils.data")
    set_threads(4)
    model = children.compiled()
    expected = children.known((model,))
    loader = data_module.DataLoader(children.Predictions(model), batch_size=8, num_workers=2)
    found = np.concatenate([np.asarray(batch) for batch in loader])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray_example():
    result = subprocess.run(
        [sys.executable, EXAMPLE, "--files", "2", "--rows", "16", "--check"], capture_output=True, text=True,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert result.returncode == 0, result.stderr
    assert "the same bits as in one process: True" in result.stdout
    assert result.stdout.count(": 1 threads") == 2


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_example_without_ray():
    result = subprocess.run([sys.executable, EXAMPLE, "--files", "1"], capture_output=True, text=True)
    assert result.returncode != 0
    assert "pip install ray" in result.stderr
