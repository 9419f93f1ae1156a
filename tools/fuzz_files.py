"""Coverage-guided fuzzing of the readers of files.

    python tools/fuzz_files.py tests/reliability/corpus/files -max_total_time=3600

needs ``pip install atheris h5py`` and the package on the path; further arguments are libFuzzer's. The first byte of
an input says what the rest is: a whole file, or a part of a ``.keras`` archive whose other parts are sound, so that
checksums keep nothing out. A file is read, or it is a FileFormatError.

    python tools/fuzz_files.py --seeds FOLDER

writes the inputs to start from.
"""

import os
import pkgutil
import sys
import tempfile
import warnings
import zipfile
from importlib import import_module
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fastmask"]):
    import fastmask as fm
    from fastmask import layers, models, saving

    for package in (saving, models):
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            import_module(module.name)

sys.path[:0] = [str(Path(__file__).parent.parent / "tests")]

PARTS = ("config.json", "metadata.json", "model.weights.h5")
KINDS = ("a.keras", "a.weights.h5", "a.h5", *PARTS, "a.safetensors")


def small_model(kind=0):
    """A model with a mask, and one without that has a state of the optimizer."""
    if kind == 0:
        ids = fm.Input((None,), dtype="int32")
        embedded = layers.Embedding(4, 2, mask_zero=True)(ids)
        both = layers.Bidirectional(layers.GRU(1, return_sequences=True))(embedded)
        model = fm.Model(ids, layers.Dense(1)(layers.Concatenate()([both, embedded])))
    else:
        model = fm.Sequential([fm.Input((None, 2)), layers.LSTM(1), layers.Dense(1)])
        model.compile("adam", "mse")
    return model


def parts_of(path):
    """The files within an archive."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in PARTS}


def write_archive(path, parts):
    """An archive of these parts, not compressed."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def write_seeds(folder):
    """One input of each kind for each model."""
    from saving.test_fuzz import legacy

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        for number in range(2):
            model, path = small_model(number), Path(place) / "a.keras"
            model.save(path)
            model.save_weights(Path(place) / "a.weights.h5")
            contents = {0: path.read_bytes(), 1: (Path(place) / "a.weights.h5").read_bytes()}
            legacy(model, Path(place) / "a.h5")
            contents[2] = (Path(place) / "a.h5").read_bytes()
            contents |= {3 + i: content for i, content in enumerate(parts_of(path).values())}
            model.save_weights(Path(place) / "a.safetensors")
            contents[KINDS.index("a.safetensors")] = (Path(place) / "a.safetensors").read_bytes()
            for kind, content in contents.items():
                (folder / f"{number}-{KINDS[kind]}").write_bytes(bytes([kind]) + content)


class Reader:
    """Reads files made of fuzzed bytes in a folder of its own."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.model = small_model()
        self.model.save(self.folder / "sound.keras")
        self.sound = parts_of(self.folder / "sound.keras")

    def __call__(self, content):
        kind = KINDS[content[0] % len(KINDS)] if content else KINDS[0]
        path = self.folder / (kind if kind.startswith("a.") else "b.keras")
        if kind.startswith("a."):
            path.write_bytes(content[1:])
        else:
            write_archive(path, self.sound | {kind: content[1:]})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if kind in ("a.weights.h5", "a.safetensors"):
                    self.model.load_weights(path)
                else:
                    fm.models.load_model(path)
        except saving.FileFormatError:
            pass


if __name__ == "__main__":
    if sys.argv[1:2] == ["--seeds"]:
        write_seeds(sys.argv[2])
        sys.exit()
    # A place in memory where there is one: a file is written for every input.
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=base) as own:
        atheris.Setup(sys.argv, Reader(own))
        atheris.Fuzz()
