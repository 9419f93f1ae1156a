"""Record what Keras and PyTorch compute, for the tests in this directory.

The tests read only the recorded ``data/*.npz``; this script makes those files. It wants an environment of its own,
apart from fastmask's::

    python3.11 -m venv /tmp/keras-env
    /tmp/keras-env/bin/pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
    /tmp/keras-env/bin/pip install keras==3.15.1 tensorflow-cpu==2.21.0 numpy
    /tmp/keras-env/bin/pip install --no-deps tf_keras==2.21.0
    /tmp/keras-env/bin/python tests/keras_parity/record.py [name ...]

Names are those of RECORDINGS; without one, all are made. Each runs in a process of its own, because Keras chooses its
backend at import. Keras is pinned to 3.15.1: from 3.16 recurrent layers pass no mask on. TensorFlow is the backend of
everything in float64, since the others compute Keras's float64 in float32. On TensorFlow, however, an optimizer
squares the embedding gradient of a repeated id before summing it; so steps of models with an Embedding are
recorded twice: by PyTorch in float32 as it is, and by TensorFlow in float64 with the gradient summed first.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from importlib.metadata import version

RECORDINGS = {  # file name: (module in recording/, function, Keras backend)
    "recurrent": ("recurrent", "record_recurrent", "tensorflow"),
    "stateful": ("recurrent", "record_stateful", "tensorflow"),
    "wrappers": ("wrappers", "record_wrappers", "tensorflow"),
    "layers": ("layers", "record_layers", "tensorflow"),
    "combining": ("combining", "record_combining", "tensorflow"),
    "constrained": ("constrained", "record_constrained", "tensorflow"),
    "stacks": ("stacks", "record_stacks", "tensorflow"),
    "losses": ("losses", "record_losses", "tensorflow"),
    "optimizers": ("optimizers", "record_optimizers", "tensorflow"),
    "metrics": ("metrics", "record_metrics", "tensorflow"),
    "shapes": ("shapes", "record_shapes", "tensorflow"),
    "objectives": ("objectives", "record_objectives", "tensorflow"),
    "training": ("training", "record_training", "tensorflow"),
    "training_float32": ("training", "record_training_float32", "torch"),
    "callbacks": ("callbacks", "record_callbacks", "tensorflow"),
    "names": ("names", "record_names", "tensorflow"),
    "pytorch": ("pytorch", "record_pytorch", "torch"),
    "graphs": ("graphs", "record_graphs", "tensorflow"),
    "interfaces": ("interfaces", "record_interfaces", "tensorflow"),
    "quantized": ("quantized", "record_quantized", "torch"),
    "utilities": ("utilities", "record_utilities", "tensorflow"),
    "files": ("files", "record_files", "torch"),
    "files_keras2": ("files", "record_files_keras2", "tensorflow"),
}
PACKAGES = ("keras", "tensorflow-cpu", "torch", "numpy")


def record(name: str) -> None:
    """Make one file; the backend has been chosen by the environment."""
    from archive import save

    module, function, _ = RECORDINGS[name]
    cases = getattr(importlib.import_module(f"recording.{module}"), function)()
    versions = {package: version(package) for package in PACKAGES}
    path = save(name, {"versions": versions, "cases": cases})
    print(f"{path.name:24} {len(cases):4} cases {path.stat().st_size / 1024:7.1f} KiB", flush=True)


def main(names: list[str]) -> None:
    """Make the named files, each in a fresh process."""
    for package in PACKAGES:
        print(package, version(package), flush=True)
    for name in names or RECORDINGS:
        environment = {
            **os.environ,
            "KERAS_BACKEND": RECORDINGS[name][2],
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TF_ENABLE_ONEDNN_OPTS": "0",
            "CUDA_VISIBLE_DEVICES": "",
        }
        subprocess.run([sys.executable, __file__, "--here", name], env=environment, check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        record(sys.argv[2])
    else:
        main(sys.argv[1:])
