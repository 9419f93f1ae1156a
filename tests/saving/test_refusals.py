"""Files that are refused, by name of what is wrong, before they can do harm."""

import io
import json
import zipfile

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers
from fastmask.saving import FileFormatError

h5py = pytest.importorskip("h5py")

from helpers.files import save_small, weights_file  # noqa: E402


def rewrite(source, target, change):
    """Copy a .keras file with another config."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                config = json.loads(content)
                change(config)
                content = json.dumps(config).encode()
            new.writestr(name, content)


def inner(config, index):
    """The config of a layer of a Sequential."""
    return config["config"]["layers"][index]["config"]


CHANGES = {
    "unknown": (
        lambda c: c["config"]["layers"][1].update(class_name="Conv1D"),
        r"no layer class 'Conv1D'; supported are .*GRU",
    ),
    "lambda": (lambda c: c["config"]["layers"][1].update(class_name="Lambda"), "no layer class 'Lambda'"),
    "base": (lambda c: c["config"]["layers"][1].update(class_name="Layer"), "no layer class 'Layer'"),
    "private": (lambda c: c["config"]["layers"][1].update(class_name="__builtins__"), "no layer class"),
    "module": (lambda c: c["config"]["layers"][1].update(module="os"), None),
    "activation": (lambda c: inner(c, 2).update(activation="mish"), "activation 'mish'"),
    "huge": (lambda c: inner(c, 2).update(units=2**40), "larger than"),
    "wide": (lambda c: c["config"]["layers"][0]["config"].update(batch_shape=[None, 5, 2**50]), "larger than"),
    "units": (lambda c: inner(c, 2).update(units=3), "expected shape"),
    "more": (lambda c: inner(c, 2).update(use_bias=False), "expected 2 arrays"),
    "argument": (lambda c: inner(c, 2).update(unknown=1), "unknown"),
    "no config": (lambda c: c["config"]["layers"][2].pop("config"), "expected a dict"),
    "empty": (lambda c: c["config"].update(layers=[]), "list of layers"),
    "no model": (lambda c: c.update(class_name="Dense", config={"units": 2}), "expected a model, got a Dense"),
    "optimizer": (
        lambda c: c["compile_config"]["optimizer"].update(class_name="Ftrl"),
        "no optimizer 'Ftrl'.*compile=False",
    ),
    "loss": (lambda c: c["compile_config"].update(loss="ctc"), "ctc"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_refusals(name, tmp_path):
    save_small(tmp_path / "a.keras", compiled=True)
    change, message = CHANGES[name]
    rewrite(tmp_path / "a.keras", tmp_path / "b.keras", change)
    if message is None:
        fm.models.load_model(tmp_path / "b.keras")
        return
    with pytest.raises(FileFormatError, match=message) as caught:
        fm.models.load_model(tmp_path / "b.keras")
    assert "b.keras" in str(caught.value)


def test_names_in_the_archive_are_not_followed(tmp_path):
    save_small(tmp_path / "a.keras")
    with zipfile.ZipFile(tmp_path / "a.keras", "a") as archive:
        archive.writestr("../../evil", "x")
        archive.writestr("/tmp/evil", "x")
    before = set(tmp_path.parent.iterdir())
    fm.models.load_model(tmp_path / "a.keras")
    assert set(tmp_path.parent.iterdir()) == before


def replace(root, make, place="layers/dense/vars"):
    del root[place]["0"]
    make(root[place])


LINKS = {
    "external": lambda g: g.__setitem__("0", h5py.ExternalLink("/etc/hostname", "/x")),
    "soft": lambda g: g.__setitem__("0", h5py.SoftLink("/layers/dense/vars/1")),
    "huge": lambda g: g.create_dataset("0", shape=(2**40, 2**20), dtype="f4", chunks=(1024, 1024)),
    "text": lambda g: g.create_dataset("0", data=np.array([[b"a"], [b"b"]])),
    "objects": lambda g: g.create_dataset("0", shape=(2, 1), dtype=h5py.string_dtype()),
    "group": lambda g: g.create_group("0"),
    "raw": lambda g: g.create_dataset("0", shape=(2, 1), dtype="f4", external=[("/etc/hostname", 0, 8)]),
}


@pytest.mark.parametrize("name", LINKS)
def test_arrays_that_are_no_arrays(name, tmp_path):
    model = weights_file(tmp_path / "a.weights.h5", lambda root: replace(root, LINKS[name]))
    before = model.get_weights()
    model.set_weights(before)
    with pytest.raises(FileFormatError):
        model.load_weights(tmp_path / "a.weights.h5")
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def virtual(group, name, source):
    """An array of zeros whose content is that of the array "x" of a file."""
    shape, dtype = group[name].shape, group[name].dtype
    layout = h5py.VirtualLayout(shape, dtype)
    layout[...] = h5py.VirtualSource(source, "x", shape, dtype)
    del group[name]
    group.create_virtual_dataset(name, layout)


def raw(group, name, source):
    shape, dtype = group[name].shape, group[name].dtype
    del group[name]
    group.create_dataset(name, shape, dtype, external=[(source, 0, h5py.h5f.UNLIMITED)])


def linked(group, name, source):
    del group[name]
    group[name] = h5py.ExternalLink(source, "x")


def from_within(group, name, source):
    group.file["x"] = group[name][()]
    virtual(group, name, ".")


ELSEWHERE = {"virtual": virtual, "virtual, in the file itself": from_within, "raw": raw, "linked": linked}


def weights_elsewhere(path, change):
    model = weights_file(path, lambda root: change(root["layers/dense/vars"], "0"))
    return lambda: model.load_weights(path)


def optimizer_elsewhere(path, change):
    save_small(path.with_suffix(".keras"), compiled=True)
    with zipfile.ZipFile(path.with_suffix(".keras")) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    content = io.BytesIO(members["model.weights.h5"])
    with h5py.File(content, "a") as root:
        change(root["optimizer/vars"], "2")
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in (members | {"model.weights.h5": content.getvalue()}).items():
            archive.writestr(name, member)
    return lambda: fm.models.load_model(path)


def legacy_elsewhere(path, change):
    model = fm.Sequential([fm.Input((2,)), layers.Dense(3, use_bias=False, name="dense")])
    with h5py.File(path, "w") as root:
        root.attrs["layer_names"] = [b"dense"]
        root.create_group("dense").attrs["weight_names"] = [b"kernel"]
        root["dense/kernel"] = np.ones((2, 3), np.float32)
        change(root["dense"], "kernel")
    return lambda: model.load_weights(path)


@pytest.mark.parametrize("place", [weights_elsewhere, optimizer_elsewhere, legacy_elsewhere])
@pytest.mark.parametrize("name", ELSEWHERE)
def test_numbers_that_stand_elsewhere(name, place, tmp_path):
    """They are there, of the right shape and type, but not in the array that names them."""
    other = tmp_path / "other"

    def change(group, array):
        values = group[array][()]
        if name == "raw":
            other.write_bytes(values.tobytes())
        else:
            with h5py.File(other, "w") as root:
                root["x"] = values
        ELSEWHERE[name](group, array, str(other))

    load = place(tmp_path / ("a.weights.h5" if place is not legacy_elsewhere else "a.h5"), change)
    with pytest.raises(FileFormatError, match="stored in the file itself"):
        load()


def test_explicit_masks(tmp_path):
    """A mask in a file that its layers would not make is kept; of what fastmask has not, it is refused."""
    ids = fm.Input((None,), dtype="int32", name="ids")
    embedded = layers.Embedding(6, 3, mask_zero=True, name="embedded")(ids)
    model = fm.Model(ids, layers.LSTM(2, name="last")(embedded))
    model.save(tmp_path / "a.keras")
    with zipfile.ZipFile(tmp_path / "a.keras") as archive:
        named = {entry["name"]: entry for entry in json.loads(archive.read("config.json"))["config"]["layers"]}
    assert named["mask_0"]["class_name"] == "NotEqual"
    assert named["last"]["inbound_nodes"][0]["kwargs"]["mask"]["config"]["keras_history"] == ["mask_0", 0, 0]

    def other_value(config):
        for entry in config["config"]["layers"]:
            if entry["class_name"] == "NotEqual":
                entry["inbound_nodes"][0]["args"][1] = 3

    rewrite(tmp_path / "a.keras", tmp_path / "b.keras", other_value)
    found = fm.models.load_model(tmp_path / "b.keras")
    words = np.array([[3, 0, 1, 2], [1, 3, 3, 3]], np.int32)
    table, *weights = model.get_weights()
    last = layers.LSTM(2)
    last.build((None, None, 3))
    last.set_weights(weights)
    np.testing.assert_array_equal(found.predict(words), last(table[words], mask=words != 3))

    def other_operation(config):
        for entry in config["config"]["layers"]:
            if entry["class_name"] == "NotEqual":
                entry["class_name"] = "OnesLike"

    rewrite(tmp_path / "a.keras", tmp_path / "c.keras", other_operation)
    with pytest.raises(FileFormatError, match=r"'last' has a mask of its own, .* operation 'OnesLike'"):
        fm.models.load_model(tmp_path / "c.keras")


def test_operations_on_values_are_refused(tmp_path):
    inputs = fm.Input((5, 4), name="in")
    model = fm.Model(inputs, layers.Dense(2, name="out")(layers.Dense(3, name="mid")(inputs)))
    model.save(tmp_path / "a.keras")

    def operation(config):
        entry = next(e for e in config["config"]["layers"] if e["name"] == "mid")
        entry.update(module="keras.src.ops.numpy", class_name="Any", config={"name": "mid"})

    rewrite(tmp_path / "a.keras", tmp_path / "b.keras", operation)
    with pytest.raises(FileFormatError, match=r"no operation 'Any'"):
        fm.models.load_model(tmp_path / "b.keras")
