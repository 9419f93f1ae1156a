"""A file that is refused changes nothing: weights, the optimizer's state and generators stay as they were."""

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers
from fastmask.saving import FileFormatError

h5py = pytest.importorskip("h5py")

DAMAGES = {
    "shape": lambda group, name, value: group.create_dataset(name, data=np.zeros((*value.shape, 2))),
    "text": lambda group, name, value: group.create_dataset(name, data=np.full(value.shape, b"a")),
    "complex": lambda group, name, value: group.create_dataset(name, data=value.astype(np.complex64)),
    "too large": lambda group, name, value: group.create_dataset(name, data=np.full(value.shape, 1e300)),
    "missing": lambda group, name, value: None,
    "checksum": lambda group, name, value: group.create_dataset(
        name, data=value, chunks=value.shape, fletcher32=True
    ),
}  # fmt: skip


def model():
    """A trained one; each call makes another."""
    found = fm.Sequential([
        layers.Embedding(9, 4, mask_zero=True),
        layers.Bidirectional(layers.GRU(3, return_sequences=True)),
        layers.BatchNormalization(),
        fm.Sequential([fm.Input((None, 6)), layers.LSTM(3), layers.Dense(2)]),
        layers.Dense(1),
    ])  # fmt: skip
    found.compile("adam", "mse")
    found.train_on_batch([[1, 2, 3]], np.ones((1, 1)))
    return found


def state(found):
    """Copies of all numbers of a model that a file may change."""
    return [variable.numpy() for variable in (*found.weights, *found.optimizer.variables)]


def same(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def datasets(root):
    """All arrays of weights in a file, in its order."""
    found = []
    root.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return [name for name in found if not name.startswith("optimizer")]


def damage(path, name, kind):
    with h5py.File(path, "a") as root:
        value = root[name][()]
        group, _, last = name.rpartition("/")
        del root[name]
        DAMAGES[kind](root[group] if group else root, last, value)
        place = root[name].id.get_chunk_info(0).byte_offset if kind == "checksum" else None
    if place is not None:
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(b"\xff\xfe\xfd")


def legacy(path, found):
    """Write weights as Keras 2 does."""
    with h5py.File(path, "w") as root:
        root.attrs["layer_names"] = [layer.name.encode() for layer in found.layers]
        for layer in found.layers:
            group = root.create_group(layer.name)
            trained = [*layer.trainable_weights, *layer.non_trainable_weights]
            group.attrs["weight_names"] = [f"{i}:0".encode() for i in range(len(trained))]
            for i, variable in enumerate(trained):
                group.create_dataset(f"{i}:0", data=variable.value)


WRITERS = {"tree": lambda path, found: found.save_weights(path), "legacy": legacy}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("form", WRITERS)
def test_weights(form, kind, tmp_path):
    """Weights are refused as a whole, whether the first array is damaged or the last."""
    path, source, target = tmp_path / "a.weights.h5", model(), model()
    WRITERS[form](path, source)
    content = path.read_bytes()
    with h5py.File(path) as root:
        names = datasets(root)
    assert len(names) == len(source.weights)
    for name in names:
        path.write_bytes(content)
        damage(path, name, kind)
        before = state(target)
        with pytest.raises(FileFormatError):
            target.load_weights(path)
        same(before, state(target))
    path.write_bytes(content)
    target.load_weights(path)
    same(source.get_weights(), target.get_weights())


@pytest.mark.parametrize("kind", ["shape", "too large", "text"])
@pytest.mark.parametrize("form", WRITERS)
def test_layers_that_are_passed_over(form, kind, tmp_path):
    """With `skip_mismatch` a layer is taken whole or left whole, with a warning, and all others are taken."""
    path, source, target = tmp_path / "a.weights.h5", model(), model()
    WRITERS[form](path, source)
    with h5py.File(path) as root:
        last = [name for name in datasets(root) if "batch_normalization" in name][-1]
    damage(path, last, kind)
    kept = target.layers[2].get_weights()
    with pytest.warns(UserWarning, match="are left as they are"):
        target.load_weights(path, skip_mismatch=True)
    for number, (mine, theirs) in enumerate(zip(target.layers, source.layers, strict=True)):
        same(kept if number == 2 else theirs.get_weights(), mine.get_weights())


def test_skip_mismatch_does_not_pass_over_damage(tmp_path):
    path, target = tmp_path / "a.weights.h5", model()
    model().save_weights(path)
    with h5py.File(path) as root:
        last = datasets(root)[-1]
    damage(path, last, "checksum")
    before = state(target)
    with pytest.raises(FileFormatError):
        target.load_weights(path, skip_mismatch=True)
    same(before, state(target))


class Refused:
    """An array of a file, in a dtype that no state has, or a number that is none."""

    def __init__(self, value):
        self.value = np.asarray(value)
        self.shape, self.dtype, self.attrs = self.value.shape, self.value.dtype, {}

    def __getitem__(self, index):
        return self.value[index]


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, -1.0), (0, np.nan), (0, 1e30), (1, -0.5), (1, np.nan), (-1, 1e300), (-1, "text"), (2, 1e300)],
)
def test_state_of_an_optimizer(place, value):
    """The first numbers are those of steps and the learning rate, the others fill the slots."""
    from fastmask.saving import compiled

    source, target = model(), model()
    stored = [Refused(variable.numpy()) for variable in source.optimizer.variables]
    stored[place] = Refused(np.full(stored[place].shape, value))
    before = state(target)
    with pytest.raises(FileFormatError):
        compiled.restore(target, stored, {})
    same(before, state(target))
    stored = [Refused(variable.numpy()) for variable in source.optimizer.variables]
    compiled.restore(target, stored, {})
    same(state(source)[len(source.weights) :], state(target)[len(target.weights) :])
