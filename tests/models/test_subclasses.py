"""Subclasses of models: their own constructor's arguments in configs, files and copies."""

import copy
import json
import pickle

import numpy as np
import pytest
from helpers.legacy import random, write

import fastmask as fm
from fastmask import layers


def chain(units):
    ids = fm.Input((None,), dtype="int32")
    embedded = layers.Embedding(9, 3, mask_zero=True)(ids)
    return ids, layers.Dense(1)(layers.LSTM(units)(embedded))


class ByAttributes(fm.Model):
    """Its config is made from the attributes that have the names of the arguments."""

    def __init__(self, units, scale=2.0, **kwargs):
        super().__init__(*chain(units), **kwargs)
        self.units, self.scale = units, scale


class ByConfig(fm.Model):
    """The attributes have other names."""

    def __init__(self, units, *, scale=2.0, name=None):
        self._given = {"units": units, "scale": scale}
        super().__init__(*chain(units), name=name)

    units = property(lambda self: self._given["units"])

    def get_config(self):
        return {**super().get_config(), **self._given}


class Bare(ByConfig):
    """Its config holds nothing else."""

    def get_config(self):
        return dict(self._given)


class ByMethod(ByConfig):
    """It has a way of its own back."""

    @classmethod
    def from_config(cls, config):
        return cls(config["units"], scale=config["scale"], name=config["name"])


class Stack(fm.Sequential):
    """A stack that makes its layers; `layers` is a number."""

    def __init__(self, units, layers=2, **kwargs):
        made = [fm.layers.GRU(units, return_sequences=n < layers - 1) for n in range(layers)]
        super().__init__([fm.layers.Embedding(9, 3, mask_zero=True), *made, fm.layers.Dense(1)], **kwargs)
        self.units = units

    def get_config(self):
        return {"units": self.units, "layers": len(self.layers) - 2, "name": self.name}


class Plain(fm.Model):
    """Nothing but other methods."""

    units = 4


class PlainStack(fm.Sequential):
    """Nothing but other methods."""

    units = 4


class HandsOn(fm.Model):
    """A model whose constructor takes one argument itself and hands all others on."""

    def __init__(self, *args, units=2, **kwargs):
        super().__init__(*args, **kwargs)
        self.units = units


def hand_on(cls=HandsOn):
    return cls(*chain(4), **({"units": 4} if cls is HandsOn else {}))


MAKERS = {
    ByAttributes: lambda: ByAttributes(4, scale=3.0, name="mine"),
    ByConfig: lambda: ByConfig(4, scale=3.0, name="mine"),
    Bare: lambda: Bare(4, scale=3.0),
    ByMethod: lambda: ByMethod(4, scale=3.0),
    Stack: lambda: Stack(4, layers=3),
    Plain: lambda: hand_on(Plain),
    PlainStack: lambda: PlainStack([layers.Embedding(9, 3, mask_zero=True), layers.LSTM(4), layers.Dense(1)]),
    HandsOn: hand_on,
}
KNOWN = {cls.__name__: cls for cls in MAKERS}
IDS = np.array([[1, 2, 3, 0], [4, 0, 0, 0]])


def same(model, again):
    """Fail unless a model is of the same class, with the same arguments, as another that can have its weights."""
    assert type(again) is type(model)
    assert again.units == 4
    assert [type(layer) for layer in again.layers] == [type(layer) for layer in model.layers]
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again.predict(IDS), model.predict(IDS))


@pytest.mark.parametrize("cls", MAKERS)
def test_from_config(cls):
    model = MAKERS[cls]()
    config = json.loads(json.dumps(model.get_config()))
    again = cls.from_config(config)
    same(model, again)
    assert again.name == config.get("name", again.name)
    assert again.get_config() == model.get_config() or cls is Bare


@pytest.mark.parametrize("cls", MAKERS)
def test_files(cls, tmp_path):
    """A file has the class by name, and loads with it in `custom_objects`, compiled as it was."""
    pytest.importorskip("h5py")
    model = MAKERS[cls]()
    model.compile("adam", "mse")
    model.train_on_batch(IDS, np.ones((2, 1), np.float32))
    model.save(tmp_path / "a.keras")
    again = fm.models.load_model(tmp_path / "a.keras", KNOWN)
    same(model, again)
    for got, right in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(got.value, right.value)
    with pytest.raises(fm.saving.FileFormatError, match=f"no layer class '{cls.__name__}'.*custom_objects"):
        fm.models.load_model(tmp_path / "a.keras")
    fresh = MAKERS[cls]()
    fresh.load_weights(tmp_path / "a.keras")
    same(model, fresh)


@pytest.mark.parametrize("cls", MAKERS)
def test_models_inside_models(cls, tmp_path):
    """Called in a graph, in a stack, and under a wrapper."""
    pytest.importorskip("h5py")
    ids = fm.Input((None,), dtype="int32")
    graph = fm.Model(ids, layers.Dense(2, name="end")(MAKERS[cls]()(ids)))
    stack = fm.Sequential([MAKERS[cls](), layers.Dense(2, name="end")])
    for model in (graph, stack):
        config = json.loads(json.dumps(model.get_config()))
        again = type(model).from_config(config, KNOWN)
        model.save(tmp_path / "a.keras")
        for found in (again, fm.models.load_model(tmp_path / "a.keras", KNOWN)):
            inner = next(layer for layer in found.layers if layer.is_graph)
            assert type(inner) is cls
            assert inner.units == 4
        np.testing.assert_array_equal(found.predict(IDS), model.predict(IDS))


@pytest.mark.parametrize("cls", MAKERS)
def test_copies(cls):
    model = MAKERS[cls]()
    same(model, copy.deepcopy(model))
    same(model, pickle.loads(pickle.dumps(model)))


def test_a_layer_that_holds_a_model(tmp_path):
    pytest.importorskip("h5py")
    frames = fm.Input((3, 5), dtype="int32")
    model = fm.Model(frames, layers.TimeDistributed(Stack(4, layers=1))(frames))
    model.save(tmp_path / "a.keras")
    x = np.arange(30).reshape(2, 3, 5) % 9
    for again in (
        fm.models.load_model(tmp_path / "a.keras", KNOWN),
        fm.Model.from_config(model.get_config(), KNOWN),
    ):
        inner = again.layers[-1].layer
        assert type(inner) is Stack
        assert inner.units == 4
        again.set_weights(model.get_weights())
        np.testing.assert_array_equal(again.predict(x), model.predict(x))


class Silent(fm.Model):
    """A model with neither a config of its own nor attributes that one could be made from."""

    def __init__(self, size):
        super().__init__(*chain(size))


class SilentLayer(layers.Layer):
    """The attribute has another name, the config has it."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self._size = size

    def get_config(self):
        return {**super().get_config(), "size": self._size}


class Further(SilentLayer):
    """An argument that the config of its base cannot know."""

    def __init__(self, size, other, **kwargs):
        super().__init__(size, **kwargs)


def test_arguments_that_are_nowhere():
    """A config that would lose an argument is refused, unless the class has a config of its own."""
    with pytest.raises(NotImplementedError, match=r"\(Silent\) must override get_config: it has no attribute 'size'"):
        Silent(3).get_config()
    again = SilentLayer.from_config(SilentLayer(3, name="a").get_config())
    assert (again._size, again.name) == (3, "a")
    with pytest.raises(NotImplementedError, match="no attribute"):
        Further(3, 4).get_config()
    with pytest.raises(TypeError, match=r"config: expected the arguments of Silent.*got \['units'\].*'size'"):
        Silent.from_config({"units": 3})


def test_a_model_that_is_not_trainable():
    again = ByAttributes.from_config(ByAttributes(4, trainable=False).get_config())
    assert not again.trainable
    assert ByConfig.from_config({"units": 4, "trainable": False, "dtype": "float32"}).trainable is False


def old_config(class_name):
    """The config that Keras 2 wrote of a model with two masks that meet and go, or of a stack with one that goes."""
    table = {"name": "table", "input_dim": 9, "output_dim": 3, "mask_zero": True}
    if class_name in ("Sequential", "PlainStack"):
        first = {"class_name": "Embedding", "config": table | {"batch_input_shape": [None, 4]}}
        last = {"class_name": "GlobalMaxPooling1D", "config": {"name": "pooled"}}
        return {"class_name": class_name, "config": {"name": "stack", "layers": [first, last]}}
    calls = [
        ("InputLayer", {"name": "ids", "batch_input_shape": [None, 4], "dtype": "int32"}, []),
        ("Embedding", table, ["ids"]),
        ("Masking", {"name": "masking", "mask_value": 0.0}, ["table"]),
        ("Add", {"name": "merged"}, ["table", "masking"]),
        ("GlobalMaxPooling1D", {"name": "pooled"}, ["merged"]),
    ]
    entries = [
        {"class_name": kind, "name": config["name"], "config": config}
        | {"inbound_nodes": [[[source, 0, 0, {}] for source in sources]] if sources else []}
        for kind, config, sources in calls
    ]
    ends = {"input_layers": [["ids", 0, 0]], "output_layers": [["pooled", 0, 0]]}
    return {"class_name": class_name, "config": {"name": "graph", "layers": entries, **ends}}


@pytest.mark.parametrize(("cls", "usual"), [(Plain, "Functional"), (PlainStack, "Sequential")])
def test_files_of_keras_2(cls, usual, tmp_path):
    """A subclass gets from such a file the layers and rules for masks that a plain model gets."""
    pytest.importorskip("h5py")
    table = random(9, 3)
    table[2] = 0  # which Masking hides as well
    for name in (cls.__name__, usual):
        write(tmp_path / f"{name}.h5", old_config(name), {"table": [table]}, "2.11.0")
    expected, found = (fm.models.load_model(tmp_path / f"{name}.h5", KNOWN) for name in (usual, cls.__name__))
    found.save(tmp_path / "again.keras")
    for model in (found, fm.models.load_model(tmp_path / "again.keras", KNOWN)):
        assert type(model) is cls
        assert [layer.get_config() for layer in model.layers] == [layer.get_config() for layer in expected.layers]
        assert any(isinstance(layer, layers.DropMask) for layer in model.layers)
        assert usual == "Sequential" or model.get_layer("merged").mask_mode == "and"
        np.testing.assert_array_equal(model.predict(IDS, verbose=0), expected.predict(IDS, verbose=0))


STEPS = ["train_step", "test_step", "predict_step", "make_train_function", "compute_loss"]


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("base", [fm.Model, fm.Sequential])
def test_steps_of_ones_own_are_refused(base, name):
    own = type("Own", (base,), {name: lambda self, data: data})
    with pytest.raises(NotImplementedError, match=f"Own must not define {name}: .*loss_and_gradients"):
        own(*(chain(2) if base is fm.Model else []))
    model = fm.Model(*chain(2))
    setattr(model, name, lambda data: data)
    with pytest.raises(NotImplementedError, match=f"Model must not define {name}"):
        model.compile("sgd", "mse")
