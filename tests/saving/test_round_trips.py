"""Keras files without Keras: round trips, old files made by hand, refusals, and files that appear whole."""

import builtins
import io
import sys
import zipfile

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers, saving
from fastmask.saving import FileFormatError, configs

h5py = pytest.importorskip("h5py")

from helpers.files import save_small, stack, weights_file  # noqa: E402

IDS = np.array([[1, 2, 3, 0, 0], [4, 5, 1, 2, 3], [2, 0, 0, 0, 0]])
X = np.random.default_rng(1).standard_normal((3, 5, 4)).astype(np.float32)
X[0, 3:] = X[1, :2] = 0


def merging(cls):
    """A model that merges two masked branches."""
    inputs = fm.Input((None, 4))
    masked = layers.Masking()(inputs)
    return fm.Model(inputs, cls()([layers.GRU(3, return_sequences=True)(masked), layers.Dense(3)(masked)]))


def pair(make):
    """A model of two inputs."""
    one, two = fm.Input((5, 4)), fm.Input((5, 4))
    return fm.Model([one, two], make(one, two))


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
    "LayerNormalization": lambda: stack(layers.LayerNormalization(rms_scaling=True)),
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


def data_for(model):
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
    lambda: fm.optimizers.LazyAdam(0.01, amsgrad=True, clipvalue=0.5),
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
    remedy = r"no layer class 'Doubled'.*custom_objects.*stay in Keras.*fastmask\.keras\.accelerate"
    with pytest.raises(FileFormatError, match=remedy):
        fm.models.load_model(tmp_path / "model.keras")
    loaded = fm.models.load_model(tmp_path / "model.keras", custom_objects={"Doubled": Doubled})
    same(model, loaded, X)


def test_names_and_overwriting(tmp_path):
    model = save_small(tmp_path / "a.keras")
    with pytest.raises(ValueError, match=r"expected one that ends in '\.keras'"):
        model.save(tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"expected one that ends in '\.weights\.h5'"):
        model.save_weights(tmp_path / "a.h5")
    with pytest.raises(FileExistsError, match="overwrite"):
        model.save(tmp_path / "a.keras", overwrite=False)
    with pytest.raises(ValueError, match="expected a built one"):
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


def test_open_files_in_memory_stay_out_of_the_way(tmp_path):
    model = save_small(tmp_path / "a.keras")
    content = saving.archive.weights_content(model, {})
    with h5py.File(io.BytesIO(content)) as root:
        assert sorted(root["layers"]) == ["dense", "gru", "masking"]
        assert root["layers/gru/cell/vars"].attrs["name"] == "gru_cell"
