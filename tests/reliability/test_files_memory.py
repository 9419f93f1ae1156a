"""Memory that files ask for: short, it is told apart from damage; asked for in a small file, it is refused."""

import subprocess
import sys

import pytest
from helpers.runs import environment

h5py = pytest.importorskip("h5py")

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs limits of memory and /proc")

SHORT = """
import resource, sys
from collections import Counter
from pathlib import Path
import h5py, numpy as np
import fastmask as fm
from fastmask import layers
from fastmask.saving import npz

folder = Path(sys.argv[1])
model = fm.Sequential([layers.Embedding(2**15, 16), layers.LSTM(8), layers.Dense(1)])
model.compile("adam", "mse")
model.train_on_batch([[1, 2]], np.ones((1, 1)))
model.save(folder / "a.keras")
model.save_weights(folder / "a.weights.h5")
with h5py.File(folder / "packed.weights.h5", "w") as new, h5py.File(folder / "a.weights.h5") as old:
    def copy(name, item):
        if isinstance(item, h5py.Dataset) and item.ndim == 2:
            new.create_dataset(name, data=item[()], chunks=item.shape, compression="gzip", shuffle=True)
        elif isinstance(item, h5py.Dataset):
            new[name] = item[()]
    old.visititems(copy)
npz.write(folder / "a.npz", {"a": [np.zeros(2**18) for _ in range(2)]})
reads = {"a.keras": fm.models.load_model, "a.npz": npz.read}
reads |= dict.fromkeys(("a.weights.h5", "packed.weights.h5"), model.load_weights)
for name, read in reads.items():
    read(folder / name)
    found = Counter()
    for extra in range(1, 24):
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * resource.getpagesize() + extra * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        try:
            read(folder / name)
            found["read"] += 1
        except Exception as error:
            found[type(error).__mro__[-4].__name__] += 1  # of NumPy's own MemoryError, too
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    print(name, *sorted(found))
"""


@LINUX
def test_memory_that_is_short_is_no_damage(tmp_path):
    """Files that are whole are read or raise MemoryError, whatever there is of memory."""
    # Memory that was freed is given back at once, so that none is at hand beyond the limit.
    given = environment() | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run([sys.executable, "-c", SHORT, str(tmp_path)], capture_output=True, text=True, env=given)
    assert done.returncode == 0, done.stderr
    names = ["a.keras", "a.npz", "a.weights.h5", "packed.weights.h5"]
    assert done.stdout.splitlines() == [f"{name} MemoryError read" for name in names]
