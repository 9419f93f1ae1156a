"""Record the losses of Keras in the short trainings of ``cases.py``, for ``tests/test_examples.py``.

Run by a Python with Keras and PyTorch, made as ``tests/keras_parity/record.py`` says::

    /tmp/keras-env/bin/python tests/examples/record.py [file.json]

PyTorch is the backend, since on TensorFlow an optimizer squares the embedding gradient of a repeated id before summing
it. Without FASTMASK_SENTENCES (see ``cases.py``) the losses on the user's own files stay as they were.
"""

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
from cases import CASES, digest, possible

FILE = Path(__file__).with_name("losses.json")


def main(path: Path) -> None:
    """Write the losses, epoch by epoch, of every case whose data are there."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"losses": {}, "sentences": ""}
    losses = {name: before["losses"][name] for name in CASES if name in before["losses"]}
    losses |= {name: [float(value) for value in CASES[name](keras)] for name in possible()}
    record = {
        "versions": {package: version(package) for package in ("keras", "torch", "numpy")},
        "sentences": digest() or before["sentences"],
        "losses": losses,
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else FILE)
