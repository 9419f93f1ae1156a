"""Models carried from Keras to fastmask and back, and files of layers of fastmask.keras."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("keras", exc_type=ImportError)

import keras
from helpers.keras_layers import BACKEND, TRAINS

import fastmask as fm
import fastmask.keras as fk
from fastmask.saving import FileFormatError

pytestmark = pytest.mark.filterwarnings("default")

RNG = np.random.default_rng(5)
IDS = RNG.integers(1, 12, (6, 5)) * (np.arange(5) < RNG.integers(1, 6, (6, 1)))
SOUNDS = RNG.standard_normal((6, 5, 2)).astype("float32")
LABELS = RNG.integers(0, 2, (6, 1)).astype("float32")


def tagger(layers, models, make_input):
    return models.Sequential(
        [
            make_input((None,), dtype="int32"),
            layers.Embedding(12, 3, mask_zero=True),
            layers.Bidirectional(layers.GRU(2, return_sequences=True, reset_after=False)),
            layers.TimeDistributed(layers.Dense(3, activation="relu")),
            layers.SimpleRNN(3, return_sequences=True),
            layers.LSTM(3),
            layers.BatchNormalization(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )


def graph(layers, models, make_input):
    words, sounds = make_input((None,), dtype="int32"), make_input((None, 2))
    a = layers.Embedding(12, 3, mask_zero=True)(words)
    b = layers.LSTM(3, return_sequences=True)(layers.Masking()(sounds))
    shared = layers.GRU(3, return_sequences=True)
    both = layers.Add()([shared(a), shared(b)])
    inside = make_input((None, 3))
    inner = models.Model(inside, layers.Dense(2)(layers.LSTM(3)(inside)), name="inner")
    return models.Model([words, sounds], layers.Dense(1, activation="sigmoid")(inner(both)))


def normalized_along_steps(layers, models, make_input):
    x = sounds = make_input((5, 2))
    for layer in (
        layers.LayerNormalization(axis=[1, 2]),
        layers.BatchNormalization(axis=1),
        layers.LayerNormalization(axis=-2, rms_scaling=True),
        layers.GRU(1),
    ):
        x = layer(x)
    return models.Model(sounds, x)


MAKERS = {
    "tagger": (tagger, IDS),
    "graph": (graph, [IDS, SOUNDS]),
    "normalized_along_steps": (normalized_along_steps, SOUNDS),
}


def of_keras(name):
    keras.utils.set_random_seed(2)
    model = MAKERS[name][0](keras.layers, keras, keras.Input)
    return randomized(model)


def of_fastmask(name):
    fm.utils.set_random_seed(2)
    return randomized(MAKERS[name][0](fm.layers, fm, fm.Input))


def randomized(model):
    rng = np.random.default_rng(7)
    model.set_weights([rng.uniform(0.1, 0.9, w.shape) - 0.5 * (w.ndim > 1) for w in model.get_weights()])
    return model


def assert_close(mine, theirs, tolerance=1e-6):
    np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", MAKERS)
def test_a_model_of_keras_becomes_one_of_fastmask(name):
    x = MAKERS[name][1]
    model = of_keras(name)
    found = fm.Model.from_keras(model)
    assert_close(found.predict(x, verbose=0), model.predict(x, verbose=0))
    assert [layer.name for layer in found.layers if layer.weights] == [
        layer.name for layer in model.layers if layer.weights
    ]
    assert found.optimizer is None


@pytest.mark.parametrize("name", MAKERS)
def test_a_model_of_fastmask_becomes_one_of_keras(name):
    x = MAKERS[name][1]
    model = of_fastmask(name)
    found = model.to_keras()
    assert isinstance(found, keras.Model)
    assert not found.compiled
    assert_close(found.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.skipif(not TRAINS, reason="NumPy does not train")
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
@pytest.mark.parametrize("name", MAKERS)
def test_training_goes_on_where_it_was(name, optimizer):
    x = MAKERS[name][1]
    model = of_keras(name)
    model.compile(keras.optimizers.get({"class_name": optimizer, "config": {"learning_rate": 0.01}}), "mse")
    for _ in range(3):
        model.train_on_batch(x, LABELS)
    there = fm.Model.from_keras(model)
    assert there.optimizer.iterations == 3
    back = there.to_keras()
    for other in (model, there, back):
        for _ in range(2):
            other.train_on_batch(x, LABELS)
    # Under TensorFlow Keras's Adam and RMSprop do not sum the gradients of an id that occurs twice; fastmask's do.
    compared = (back,) if BACKEND == "tensorflow" and optimizer != "sgd" else (there, back)
    for other in compared:
        for mine, theirs in zip(other.get_weights(), model.get_weights(), strict=True):
            assert_close(mine, theirs, 1e-4)


def test_sequential_asks_for_a_sequential():
    assert type(fm.Sequential.from_keras(of_keras("tagger"))) is fm.Sequential
    with pytest.raises(TypeError, match="becomes a Sequential"):
        fm.Sequential.from_keras(of_keras("graph"))
    with pytest.raises(TypeError, match="model: expected a Keras model, got Dense"):
        fm.Model.from_keras(keras.layers.Dense(2))
    with pytest.raises(ValueError, match="expected a built one"):
        fm.Model.from_keras(keras.Sequential([keras.layers.Dense(2)]))


def test_what_fastmask_has_not_is_named():
    model = keras.Sequential([keras.Input((5, 2)), keras.layers.Conv1D(2, 3), keras.layers.LSTM(2)])
    with pytest.raises(FileFormatError, match=r"no layer class 'Conv1D'.*fastmask\.keras\.accelerate"):
        fm.Sequential.from_keras(model)
    old = fm.Sequential([fm.Input((5, 2)), fm.layers.LSTM(2, recurrent_activation="hard_sigmoid_keras2")])
    with pytest.raises(ValueError, match="hard_sigmoid_keras2"):
        old.to_keras()


def test_masks_by_the_rules_of_old_keras_are_refused(tmp_path):
    """By `to_keras`, and by Keras in files; where a rule changes nothing, both take the model."""

    def model(first, second, **options):
        sources = {"ids": fm.layers.Embedding(9, 2, mask_zero=True)(ids), "sounds": sounds}
        merged = fm.layers.Add(mask_mode="and")([sources[first], sources[second]])
        inner = fm.layers.LSTM(2, return_sequences=True)
        return fm.Model([ids, sounds], fm.layers.Bidirectional(inner, **options)(merged))

    ids, sounds = fm.Input((5,), dtype="int32"), fm.Input((5, 2))
    for old in (model("ids", "sounds"), model("ids", "ids", zero_output_for_mask=False)):
        with pytest.raises(ValueError, match="expected one that does to masks what Keras 3 does"):
            old.to_keras()
        old.save(tmp_path / "old.keras")
        with pytest.raises(Exception, match=r"mask_mode|zero_output_for_mask"):
            keras.models.load_model(tmp_path / "old.keras")
    kind = type("Own", (fm.Model,), {})
    steps = fm.Input((3, 5), dtype="int32")
    part = fm.layers.Embedding(9, 2, mask_zero=True)(ids)
    inner = fm.Model(ids, fm.layers.LSTM(2)(fm.layers.Multiply(mask_mode="and", name="product")([part, part])))
    for within in (inner, kind(inner.input, inner.output)):
        with pytest.raises(ValueError, match="layer 'product', which joins or shows them"):
            fm.Model(steps, fm.layers.TimeDistributed(within)(steps)).to_keras()
    with pytest.raises(ValueError, match="layer 'product', which joins or shows them"):
        kind(inner.input, inner.output).to_keras()
    x = [np.array([[1, 2, 0, 3, 0], [0, 0, 1, 2, 3]]), np.zeros((2, 5, 2), np.float32)]
    for same in (model("ids", "ids"), model("sounds", "sounds", zero_output_for_mask=False)):
        assert_close(same.predict(x, verbose=0), same.to_keras().predict(x, verbose=0))


def test_accelerated_models_are_carried_over_as_well():
    model = of_keras("tagger")
    fk.accelerate(model)
    assert_close(fm.Sequential.from_keras(model).predict(IDS, verbose=0), model.predict(IDS, verbose=0))
    own = keras.Sequential([keras.Input((5, 2)), fk.LSTM(3)])
    assert_close(fm.Sequential.from_keras(own).predict(SOUNDS, verbose=0), own.predict(SOUNDS, verbose=0))


OPEN = """
import sys, keras, numpy as np
model = keras.models.load_model(sys.argv[1])
assert not any(name.startswith("fastmask") for name in sys.modules)
assert type(model.layers[0].forward_layer) is keras.layers.LSTM, type(model.layers[0].forward_layer)
np.save(sys.argv[2], model.predict(np.load(sys.argv[3]), verbose=0))
"""


def scored(base, layers, make_input):
    """A class of models with an argument of its own, and one without."""

    class Scored(base):
        def __init__(self, units, **kwargs):
            ids = make_input((None,), dtype="int32", name="ids")
            inner = layers.LSTM(units)(layers.Embedding(12, 3, mask_zero=True)(ids))
            super().__init__(ids, layers.Dense(1)(inner), **kwargs)
            self.units = units

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    class Named(base):
        pass

    return {"Scored": Scored, "Named": Named}


def test_subclasses_of_models(tmp_path):
    """Their files are the same on both sides; `to_keras` gives the graph under them."""
    ours = scored(fm.Model, fm.layers, fm.Input)
    theirs = scored(keras.Model, keras.layers, keras.Input)
    alone = ours["Scored"](4)
    stack = fm.Sequential([ours["Scored"](4), fm.layers.Dense(2)])
    for mine in (alone, ours["Named"](alone.input, alone.output), stack):
        expected = mine.predict(IDS)
        mine.save(tmp_path / "a.keras")
        model = keras.saving.load_model(tmp_path / "a.keras", custom_objects=theirs)
        assert_close(np.asarray(keras.ops.convert_to_numpy(model(IDS))), expected)
        model.save(tmp_path / "b.keras")
        again = fm.models.load_model(tmp_path / "b.keras", ours)
        assert_close(again.predict(IDS), expected)
        assert [type(layer).__name__ for layer in again.layers] == [type(layer).__name__ for layer in mine.layers]
        assert_close(np.asarray(keras.ops.convert_to_numpy(mine.to_keras()(IDS))), expected)


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_files_open_without_fastmask_and_with_it(name, tmp_path):
    model = keras.Sequential(
        [keras.Input((5, 2)), keras.layers.Bidirectional(fk.LSTM(3, return_sequences=True)), fk.GRU(2)]
    )
    model.save(tmp_path / name)
    np.save(tmp_path / "x.npy", SOUNDS)
    environment = {**os.environ, "KERAS_BACKEND": BACKEND, "PYTHONPATH": ""}
    files = [str(tmp_path / file) for file in (name, "y.npy", "x.npy")]
    done = subprocess.run(
        [sys.executable, "-c", OPEN, *files], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert_close(np.load(tmp_path / "y.npy"), model.predict(SOUNDS, verbose=0))
    again = keras.models.load_model(tmp_path / name)
    assert type(again.layers[0].backward_layer) is fk.LSTM
    assert_close(again.predict(SOUNDS, verbose=0), model.predict(SOUNDS, verbose=0))


def test_a_class_of_the_same_name_is_not_taken_for_ours(tmp_path):
    class LSTM(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    model = keras.Sequential([keras.Input((5, 2)), LSTM(), keras.layers.LSTM(2)])
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras", custom_objects={"LSTM": LSTM})
    assert [type(layer) for layer in again.layers] == [LSTM, keras.layers.LSTM]


@pytest.mark.parametrize("cls", [fk.LSTM, fk.GRU, fk.SimpleRNN])
def test_json_brings_back_the_same_classes(cls):
    both = keras.layers.Bidirectional(cls(2, return_sequences=True))
    model = keras.Sequential([keras.Input((5, 2)), both, cls(3, name="reader")])
    again = keras.models.model_from_json(model.to_json())
    assert [type(layer) for layer in (again.layers[0].backward_layer, again.layers[1])] == [cls, cls]
    assert again.to_json() == model.to_json()
    config, usual = (keras.saving.serialize_keras_object(kind(3, name="reader")) for kind in (cls, cls.__mro__[2]))
    assert config["registered_name"] is None
    assert {**config, "module": usual["module"]} == usual


def test_layers_are_pickled():
    assert type(pickle.loads(pickle.dumps(fk.GRU(2)))) is fk.GRU


def test_clones_are_of_the_same_class():
    model = keras.Sequential([keras.Input((5, 2)), keras.layers.Bidirectional(fk.LSTM(2))])
    assert type(keras.models.clone_model(model).layers[0].forward_layer) is fk.LSTM


def test_files_of_keras_stay_what_they_are(tmp_path):
    model = of_keras("tagger")
    config = model.get_config()
    fk.accelerate(model)
    assert model.get_config() == config
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert type(again.layers[-3]) is keras.layers.LSTM
    assert "inner_loop" not in vars(again.layers[-3])
    assert_close(again.predict(IDS, verbose=0), model.predict(IDS, verbose=0))


@pytest.mark.parametrize("cls", [fk.LSTM, fk.GRU, fk.SimpleRNN])
def test_configs_names_and_weights_are_those_of_keras(cls):
    usual, fast = cls.__mro__[2](3, name="reader"), cls(3, name="reader")
    for layer in (usual, fast):
        layer.build((None, 5, 2))
    assert fast.get_config() == usual.get_config()
    assert [w.path for w in fast.weights] == [w.path for w in usual.weights]
    assert isinstance(fast, type(usual))
    fast.set_weights(usual.get_weights())
