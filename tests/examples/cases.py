"""Short trainings of the examples from given weights; fastmask's tests and record.py run the same ones."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

FOLDER = Path(__file__).parents[2] / "examples"
EPOCHS = 8
LEARNING_RATE = 0.02  # fast enough for a few steps to show in the loss
SOURCE = """
import os
from pathlib import Path

class Folder(Base):
    limit = 40

    def names(self, pattern, *, hidden=False):
        found = [path.name for path in self.path.glob(pattern)]
        if not hidden:
            found = list(filter(lambda name: name[0] != ".", found))
        return sorted(found, key=str.lower)[:self.limit]

    def size(self):
        return sum(os.stat(path).st_size for path in Path(self.path).iterdir())

print(Folder("/tmp").names("*.txt"), 3.5, None)
pass
"""


def load(name: str) -> ModuleType:
    """Import one of the scripts."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sentence_files() -> list[Path]:
    """Return the user's files of praise and blame, if FASTMASK_SENTENCES names two (``praise:blame``)."""
    return [Path(path) for path in os.environ.get("FASTMASK_SENTENCES", "").split(os.pathsep) if path]


def digest() -> str:
    """Return a digest of the user's files, empty without any: recorded losses hold for the same files only."""
    text = b"".join(path.read_bytes() for path in sentence_files())
    return sha256(text).hexdigest() if text else ""


def start(model: Any, seed: int = 0) -> None:
    """Draw all weights, in the order of the model, and set the learning rate."""
    rng = np.random.default_rng(seed)
    model.optimizer.learning_rate = LEARNING_RATE
    model.set_weights([rng.uniform(-0.3, 0.3, w.shape).astype("float32") for w in model.get_weights()])


def fit(model: Any, *data: Any, batch_size: int, epochs: int = EPOCHS, **options: Any) -> list[float]:
    """Return the loss of every epoch."""
    start(model)
    history = model.fit(*data, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0, **options)
    return history.history["loss"]


def sentiment(lib: Any) -> list[float]:
    example = load("sentiment")
    x, y = example.data(lib, *example.make_up(48), vocabulary=200)
    return fit(example.build(lib, 200, width=8, units=6), x, y, batch_size=16)


def sentiment_files(lib: Any) -> list[float]:
    example = load("sentiment")
    praise, blame = (example.read(path, 32) for path in sentence_files())
    x, y = example.data(lib, praise, blame, vocabulary=500)
    return fit(example.build(lib, 500, width=8, units=6), x, y, batch_size=16)


def addition(lib: Any) -> list[float]:
    example = load("addition")
    return fit(example.build(lib, digits=2, units=12), *example.data(48, digits=2), batch_size=16)


def translation(lib: Any) -> list[float]:
    example = load("translation")
    x, y, weights = example.data(lib, example.pairs(32))
    return fit(example.build(lib, width=8, units=12), x, y, sample_weight=weights, batch_size=16)


def stateful(lib: Any) -> list[float]:
    example = load("stateful")
    count, steps = 4, 6
    x, y = (example.in_pieces(values, steps) for values in example.series(count, 10 * steps))
    model = example.build(lib, count, steps, units=6)
    start(model)
    return example.train(model, x, y, count, EPOCHS, verbose=0)


def tagging(lib: Any) -> list[float]:
    example = load("tagging")
    x, y = example.data(lib, [SOURCE], vocabulary=60)
    return fit(example.build(lib, 60, width=8, units=6), x, y, batch_size=4)


def multi_input(lib: Any) -> list[float]:
    example = load("multi_input")
    return fit(example.build(lib, width=8, units=6), *example.data(lib, 48), batch_size=16)


CASES: dict[str, Callable[[Any], list[float]]] = {
    "sentiment": sentiment,
    "sentiment_files": sentiment_files,
    "addition": addition,
    "translation": translation,
    "stateful": stateful,
    "tagging": tagging,
    "multi_input": multi_input,
}


def possible() -> Iterator[str]:
    """Yield the names of the cases whose data are there."""
    for name in CASES:
        if name != "sentiment_files" or len(sentence_files()) == 2:
            yield name
