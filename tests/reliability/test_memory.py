"""Memory stays flat over many training steps."""

import gc
import os
import subprocess
import sys

import pytest

STEPS = int(os.environ.get("FASTMASK_STEPS", "600"))
SCRIPT = """
import os, sys
import numpy as np
import fastmask as fm

steps, kind = int(sys.argv[1]), sys.argv[2]

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

fm.set_num_threads(2)
fm.utils.set_random_seed(0)
layer = fm.layers.Bidirectional(fm.layers.LSTM(24)) if kind == "Bidirectional" else getattr(fm.layers, kind)(24)
model = fm.Sequential([fm.layers.Embedding(500, 16, mask_zero=True), layer, fm.layers.Dense(3, activation="softmax")])
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
rng = np.random.default_rng(0)

def step():
    length = int(rng.integers(1, 60))
    x = rng.integers(0, 500, (int(rng.integers(1, 40)), length))
    model.train_on_batch(x, rng.integers(0, 3, len(x)))

for _ in range(steps // 4):
    step()
before = resident()
for _ in range(steps):
    step()
print(resident() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc")
@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer keeps what was freed")
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN", "Bidirectional"])
def test_training_needs_no_more_memory_with_time(kind):
    """Batches of all sizes; the pool of blocks is full after the first quarter."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(STEPS), kind], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 3 * 2**20, f"{kind}: {int(done.stdout) / 2**20:.1f} MiB more after {STEPS} steps"


def test_refused_calls_keep_nothing():
    """An exception frees what was allocated before it."""
    import numpy as np

    from fastmask import PackedSequence, ops

    x = PackedSequence.from_padded(np.zeros((8, 50, 32), np.float32))
    kernel, recurrent = np.zeros((32, 256), np.float32), np.zeros((64, 256), np.float32)

    def refused():
        with pytest.raises(ValueError, match="bias"):
            ops.lstm_vjp(x, kernel, recurrent, np.zeros(3, np.float32))
        _, pullback = ops.lstm_vjp(x, kernel, recurrent)
        with pytest.raises(ValueError, match="d_sequence"):
            pullback(np.zeros((1, 1), np.float32))

    for _ in range(20):
        refused()
    gc.collect()
    before = sum(1 for _ in gc.get_objects())
    for _ in range(20):
        refused()
    gc.collect()
    assert sum(1 for _ in gc.get_objects()) <= before + 20
