"""Files that Keras 3 and tf-keras saved: predictions, and training that goes on."""

import zipfile

import numpy as np
import pytest

import fastmask as fm

from .archive import DATA, load
from .compare import assert_close

pytest.importorskip("h5py")

CASES = {name: load(name)["cases"] for name in ("files", "files_keras2")}
WHOLE = [
    (archive, case, file)
    for archive, cases in CASES.items()
    for case in cases
    for file in cases[case]["files"]
    if not file.endswith(".weights.h5")
]
WEIGHTS = [
    (archive, case, file)
    for archive, cases in CASES.items()
    for case in ("reader", "graph")
    for file in cases[case]["files"]
    if file not in ("graph.keras",)
]
# Where Keras 2 masks otherwise: merged branches are valid where both are, not where one is.
OTHER_LOSS = [("files_keras2", "graph")]


@pytest.fixture
def unpacked(tmp_path):
    """Give the path of a recorded file."""

    def path_of(archive, file):
        with zipfile.ZipFile(DATA / f"{archive}.zip") as packed:
            (tmp_path / file).write_bytes(packed.read(file))
        return tmp_path / file

    return path_of


def data(case):
    """The inputs and targets as a model takes them."""
    x, y = case["inputs"], case["targets"]
    return x if len(x) > 1 else x[0], y if len(y) > 1 else y[0]


def outputs(model, x):
    """What the model predicts, in a list."""
    found = model.predict(x, verbose=0)
    return list(found) if isinstance(found, (list, tuple)) else [found]


def check_outputs(model, case):
    x, _ = data(case)
    for i, (found, expected) in enumerate(zip(outputs(model, x), case["outputs"], strict=True)):
        assert_close(found, expected, 2e-6, f"output {i}")


@pytest.mark.parametrize(("archive", "name", "file"), WHOLE)
def test_predictions(archive, name, file, unpacked):
    case = CASES[archive][name]
    model = fm.models.load_model(unpacked(archive, file))
    check_outputs(model, case)
    for found, expected in zip(model.get_weights(), case["weights"], strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("archive", "name", "file"), [c for c in WHOLE if c[:2] not in OTHER_LOSS])
def test_training_goes_on(archive, name, file, unpacked):
    case = CASES[archive][name]
    model = fm.models.load_model(unpacked(archive, file))
    x, y = data(case)
    assert model.optimizer.iterations == 2
    for _ in range(2):
        model.train_on_batch(x, y)
    for i, (found, expected) in enumerate(zip(model.get_weights(), case["later"], strict=True)):
        assert_close(found, expected, 1e-5, f"weight {i}")


@pytest.mark.parametrize(("archive", "name", "file"), WHOLE)
def test_training_goes_on_after_fastmask_saved(archive, name, file, unpacked, tmp_path):
    model = fm.models.load_model(unpacked(archive, file))
    x, y = data(CASES[archive][name])
    model.train_on_batch(x, y)
    model.save(tmp_path / "again.keras")
    again = fm.models.load_model(tmp_path / "again.keras")
    for one in (model, again):
        one.train_on_batch(x, y)
    for found, expected in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("archive", "name", "file"), WEIGHTS)
def test_weights_alone(archive, name, file, unpacked):
    case = CASES[archive][name]
    whole = next(file for file in case["files"] if not file.endswith(".weights.h5"))
    model = fm.models.load_model(unpacked(archive, whole), compile=False)
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    model.load_weights(unpacked(archive, file))
    check_outputs(model, case)


def test_uncompiled(unpacked):
    model = fm.models.load_model(unpacked("files", "reader.keras"), compile=False)
    assert model.optimizer is None
