"""Run by the Python that has Keras: open the files that fastmask saved in a folder, predict and train on.

Each ``<name>.keras`` comes with ``<name>.npz``: inputs x0, x1, ..., targets y0, y1, ... The answers are in
``<name>.out.npz``.
"""

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np


def answer(path: Path) -> None:
    """Open one file and write what Keras makes of it."""
    data = np.load(path.with_suffix(".npz"))
    x = [data[key] for key in sorted(data.files) if key[0] == "x"]
    y = [data[key] for key in sorted(data.files) if key[0] == "y"]
    model = keras.models.load_model(path)
    found = flat(model.predict(x if len(x) > 1 else x[0], verbose=0))
    results = {f"output{i}": value for i, value in enumerate(found)}
    weights = path.with_suffix(".weights.h5")
    if weights.exists():
        model.set_weights([np.zeros_like(w) for w in model.get_weights()])
        model.load_weights(weights)
    results |= {f"weight{i}": value for i, value in enumerate(model.get_weights())}
    if y:
        for _ in range(2):
            model.train_on_batch(x if len(x) > 1 else x[0], y if len(y) > 1 else y[0])
        results |= {f"later{i}": value for i, value in enumerate(model.get_weights())}
    np.savez(path.with_suffix(".out.npz"), **results)


def flat(value: object) -> list[np.ndarray]:
    """Put one or several outputs into a list."""
    return keras.tree.flatten(value)


if __name__ == "__main__":
    for name in sorted(Path(sys.argv[1]).glob("*.keras")):
        answer(name)
