"""Keras files without Keras: round trips, old files made by hand, refusals, and files that appear whole."""

import builtins
import io
import json
import sys
import zipfile

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers, saving
from fastmask.saving import FileFormatError, configs

h5py = pytest.importorskip("h5py")

IDS = np.array([[1, 2, 3, 0, 0], [4, 5, 1, 2, 3], [2, 0, 0, 0, 0]])
X = np.random.default_rng(1).standard_normal((3, 5, 4)).astype(np.float32)
X[0, 3:] = X[1, :2] = 0


def stack(*made, first=None):
    """A Sequential on features (5, 4), masked, unless `first` says otherwise."""
    return fm.Sequential([*(first or [fm.Input((5, 4)), layers.Masking()]), *made])


def merging(cls):
    """A model that merges two masked branches."""
    inputs = fm.Input((None, 4))
    masked = layers.Masking()(inputs)
    return fm.Model(inputs, cls()([layers.GRU(3, return_sequences=True)(masked), layers.Dense(3)(masked)]))


def pair(make):
    """A model of two inputs."""
    one, two = fm.Input((5, 4)), fm.Input((5, 4))
    return fm.Model([one, two], make(one, two))


IDS_FIRST = [layers.Embedding(6, 4, mask_zero=True)]
MODELS = {
    "Activation": lambda: stack(layers.Activation("relu")),
    "Add": lambda: merging(layers.Add),
    "Attention": lambda: pair(lambda a, b: layers.Attention(use_scale=True)([a, b])),
    "Average": lambda: merging(layers.Average),
    "BatchNormalization": lambda: stack(layers.BatchNormalization()),
    "Bidirectional": lambda: stack(
        layers.Bidirectional(layers.LSTM(2), backward_layer=layers.GRU(2, go_backwards=True))
    ),
    "Concatenate": lambda: merging(layers.Concatenate),
    "Dense": lambda: stack(layers.Dense(3, "tanh", use_bias=False, kernel_initializer="he_normal")),
    "Dot": lambda: pair(lambda a, b: layers.Dot(axes=2)([a, b])),
    "DropMask": lambda: stack(layers.DropMask(), layers.Flatten()),
    "Dropout": lambda: stack(layers.Dropout(0.5, seed=3)),
    "Embedding": lambda: stack(layers.Dense(2), first=[layers.Embedding(6, 4, mask_zero=True)]),
    "Flatten": lambda: stack(layers.Flatten(), first=[fm.Input((5, 4))]),
    "GRU": lambda: stack(layers.GRU(3, reset_after=False, zero_output_for_mask=True)),
    "GlobalAveragePooling1D": lambda: stack(layers.GlobalAveragePooling1D()),
    "GlobalMaxPooling1D": lambda: stack(layers.GlobalMaxPooling1D()),
    "Identity": lambda: stack(layers.Identity(), layers.GRU(2)),
    "LSTM": lambda: stack(layers.LSTM(3, recurrent_activation="hard_sigmoid", return_sequences=True)),
    "LayerNormalization": lambda: stack(layers.LayerNormalization()),
    "Masking": lambda: stack(first=[fm.Input((5, 4)), layers.Masking(0.5)]),
    "Maximum": lambda: merging(layers.Maximum),
    "Minimum": lambda: merging(layers.Minimum),
    "Multiply": lambda: merging(layers.Multiply),
    "RepeatVector": lambda: stack(layers.LSTM(3), layers.RepeatVector(2)),
    "Reshape": lambda: stack(layers.LSTM(4), layers.Reshape((2, 2))),
    "SimpleRNN": lambda: stack(layers.SimpleRNN(3, go_backwards=True)),
    "SpatialDropout1D": lambda: stack(layers.SpatialDropout1D(0.5)),
    "Subtract": lambda: merging(layers.Subtract),
    "TimeDistributed": lambda: stack(layers.TimeDistributed(layers.Dense(2))),
}


def layer_names():
    """The classes of layers that files can hold."""
    return [name for name in configs.supported() if name not in ("Functional", "InputLayer", "Sequential")]


def data_for(model, width=None):
    """Inputs of the model."""
    if isinstance(model.layers[0], layers.Embedding):
        return IDS
    return [X, X[:, ::-1].copy()] if len(model.inputs) > 1 else X


def randomize(model):
    """Give all weights values that are not their first ones."""
    rng = np.random.default_rng(7)
    model.set_weights([rng.uniform(0.1, 0.9, w.shape) for w in model.get_weights()])
    return model


def same(one, two, x):
    """Assert equal outputs and weights."""
    np.testing.assert_array_equal(one.predict(x, verbose=0), two.predict(x, verbose=0))
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", layer_names())
def test_every_layer_comes_back(name, tmp_path):
    model = randomize(MODELS[name]())
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = fm.models.load_model(path)
    assert [layer.get_config() for layer in loaded.layers] == [layer.get_config() for layer in model.layers]
    same(model, loaded, data_for(model))
    model.save_weights(tmp_path / "model.weights.h5")
    other = fm.models.load_model(path)
    other.set_weights([0 * w for w in other.get_weights()])
    other.load_weights(tmp_path / "model.weights.h5")
    same(model, other, data_for(model))


OPTIMIZERS = [
    lambda: fm.optimizers.SGD(0.1),
    lambda: fm.optimizers.SGD(0.1, momentum=0.9, nesterov=True, clipnorm=0.5),
    lambda: fm.optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    lambda: fm.optimizers.Adam(0.01, amsgrad=True, global_clipnorm=1.0),
    lambda: fm.optimizers.AdamW(0.01, weight_decay=0.1),
    lambda: fm.optimizers.Adagrad(0.1),
    lambda: fm.optimizers.Adam(fm.optimizers.schedules.ExponentialDecay(0.05, 2, 0.5)),
]


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_training_goes_on(make, tmp_path):
    model = randomize(stack(layers.LSTM(3), layers.Dense(1), first=[layers.Embedding(6, 4, mask_zero=True)]))
    model.compile(make(), fm.losses.MeanSquaredError(reduction="sum"), metrics=["mae"], weighted_metrics=["mse"])
    y = np.array([[0.5], [1.0], [-1.0]])
    for _ in range(3):
        model.train_on_batch(IDS, y)
    model.save(tmp_path / "model.keras")
    loaded = fm.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.iterations == 3
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for _ in range(3):
        assert loaded.train_on_batch(IDS, y) == model.train_on_batch(IDS, y)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_stateful_and_fixed_batch_size(tmp_path):
    model = fm.Sequential([fm.Input((5, 4), batch_size=3), layers.LSTM(2, stateful=True)])
    model.save(tmp_path / "model.keras")
    loaded = fm.models.load_model(tmp_path / "model.keras")
    first = model.predict(X, verbose=0)
    np.testing.assert_array_equal(first, loaded.predict(X, verbose=0))
    assert loaded.input_shape == (3, 5, 4)


class Doubled(layers.Layer):
    """A layer of one's own."""

    supports_masking = True

    def call(self, x):
        return 2 * x

    def vjp(self, x):
        return 2 * x, lambda dy: 2 * dy


def test_layers_of_ones_own(tmp_path):
    model = stack(layers.Dense(2), Doubled(), first=[fm.Input((5, 4))])
    model.save(tmp_path / "model.keras")
    with pytest.raises(FileFormatError, match=r"no layer class 'Doubled'.*custom_objects.*fastmask\.keras"):
        fm.models.load_model(tmp_path / "model.keras")
    loaded = fm.models.load_model(tmp_path / "model.keras", custom_objects={"Doubled": Doubled})
    same(model, loaded, X)


def save_small(path, compiled=False):
    """Save a small model and return it."""
    model = stack(layers.GRU(2), layers.Dense(1))
    if compiled:
        model.compile("adam", "mse")
    model.save(path)
    return model


def test_names_and_overwriting(tmp_path):
    model = save_small(tmp_path / "a.keras")
    with pytest.raises(ValueError, match=r"end in '\.keras'"):
        model.save(tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"end in '\.weights\.h5'"):
        model.save_weights(tmp_path / "a.h5")
    with pytest.raises(FileExistsError, match="overwrite"):
        model.save(tmp_path / "a.keras", overwrite=False)
    with pytest.raises(ValueError, match="must be built"):
        fm.Sequential([layers.Dense(2)]).save(tmp_path / "b.keras")
    with pytest.raises(FileNotFoundError):
        fm.models.load_model(tmp_path / "none.keras")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.keras"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.keras"
    model = save_small(path)
    before = path.read_bytes()
    monkeypatch.setattr(zipfile.ZipFile, "writestr", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.keras"]


def test_permissions_are_those_of_other_files(tmp_path):
    (tmp_path / "plain").touch()
    save_small(tmp_path / "a.keras")
    assert (tmp_path / "a.keras").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "a.keras").chmod(0o600)
    save_small(tmp_path / "a.keras")
    assert (tmp_path / "a.keras").stat().st_mode & 0o777 == 0o600


def test_the_extra_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.keras"
    model = save_small(path)
    real = builtins.__import__
    monkeypatch.delitem(sys.modules, "h5py")
    monkeypatch.setattr(
        builtins,
        "__import__",
        lambda name, *rest: (_ for _ in ()).throw(ImportError(name)) if name == "h5py" else real(name, *rest),
    )
    for use in (lambda: fm.models.load_model(path), lambda: model.save(path), lambda: model.load_weights(path)):
        with pytest.raises(ImportError, match=r'pip install "fastmask\[keras\]"'):
            use()


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
    "units": (lambda c: inner(c, 2).update(units=3), "must have shape"),
    "more": (lambda c: inner(c, 2).update(use_bias=False), "must hold 2 arrays"),
    "argument": (lambda c: inner(c, 2).update(unknown=1), "unknown"),
    "no config": (lambda c: c["config"]["layers"][2].pop("config"), "must be a dict"),
    "empty": (lambda c: c["config"].update(layers=[]), "list of layers"),
    "no model": (lambda c: c.update(class_name="Dense", config={"units": 2}), "must hold a model"),
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


def test_a_bomb_is_not_unpacked(tmp_path):
    save_small(tmp_path / "a.keras")
    with (
        zipfile.ZipFile(tmp_path / "a.keras") as old,
        zipfile.ZipFile(tmp_path / "b.keras", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        new.writestr("config.json", old.read("config.json"))
        new.writestr("metadata.json", old.read("metadata.json"))
        new.writestr("model.weights.h5", bytes(1 << 26))
    with pytest.raises(FileFormatError, match="claims"):
        fm.models.load_model(tmp_path / "b.keras")


def weights_file(path, change):
    """Save weights and change the open file; return the model."""
    model = save_small(path.with_suffix(".keras"))
    model.save_weights(path)
    with h5py.File(path, "a") as root:
        change(root)
    return model


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


def test_bfloat16_and_doubles(tmp_path):
    def change(root):
        group = root["layers/dense/vars"]
        bits = (np.array([[0.5], [-2.0]], np.float32).view(np.uint32) >> 16).astype(np.uint16)
        del group["0"], group["1"]
        group.create_dataset("0", data=bits.view("V2")).attrs["dtype"] = "bfloat16"
        group.create_dataset("1", data=np.array([0.25]))

    model = weights_file(tmp_path / "a.weights.h5", change)
    model.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_array_equal(model.layers[-1].get_weights()[0], [[0.5], [-2.0]])
    np.testing.assert_array_equal(model.layers[-1].get_weights()[1], [0.25])


def test_mismatches_can_be_passed_over(tmp_path):
    save_small(tmp_path / "a.keras").save_weights(tmp_path / "a.weights.h5")
    other = randomize(stack(layers.GRU(2), layers.Dense(3)))
    before = other.get_weights()
    with pytest.raises(FileFormatError, match="shape"):
        other.load_weights(tmp_path / "a.weights.h5")
    with pytest.warns(UserWarning, match="left as they are"):
        other.load_weights(tmp_path / "a.weights.h5", skip_mismatch=True)
    assert not np.array_equal(other.get_weights()[0], before[0])
    np.testing.assert_array_equal(other.get_weights()[-1], before[-1])


def test_weights_are_no_model(tmp_path):
    save_small(tmp_path / "a.keras").save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(FileFormatError, match="weights alone"):
        fm.models.load_model(tmp_path / "a.weights.h5")


def test_custom_metric_functions_are_asked_for(tmp_path):
    def largest(y_true, y_pred):
        return np.abs(y_true - y_pred).max(axis=-1)

    model = stack(layers.GRU(2), layers.Dense(1))
    model.compile("sgd", "mse", metrics=[largest])
    model.save(tmp_path / "a.keras")
    with pytest.raises(FileFormatError, match="largest"):
        fm.models.load_model(tmp_path / "a.keras")
    loaded = fm.models.load_model(tmp_path / "a.keras", custom_objects={"largest": largest})
    assert loaded.metrics_names == model.metrics_names


def test_the_content_is_deterministic_but_for_the_date(tmp_path):
    model = save_small(tmp_path / "a.keras")
    model.save(tmp_path / "b.keras")
    with zipfile.ZipFile(tmp_path / "a.keras") as a, zipfile.ZipFile(tmp_path / "b.keras") as b:
        assert a.namelist() == ["metadata.json", "config.json", "model.weights.h5"]
        assert a.read("config.json") == b.read("config.json")
        assert {info.compress_type for info in a.infolist()} == {zipfile.ZIP_STORED}


def test_explicit_masks(tmp_path):
    """Masks in files are those that layers make; others are refused."""
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
    with pytest.raises(FileFormatError, match="mask of its own"):
        fm.models.load_model(tmp_path / "b.keras")


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


def test_open_files_in_memory_stay_out_of_the_way(tmp_path):
    model = save_small(tmp_path / "a.keras")
    content = saving.archive.weights_content(model, {})
    with h5py.File(io.BytesIO(content)) as root:
        assert sorted(root["layers"]) == ["dense", "gru", "masking"]
        assert root["layers/gru/cell/vars"].attrs["name"] == "gru_cell"
