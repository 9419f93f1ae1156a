"""Models of Keras and of fastmask side by side: structures of inputs and outputs, JSON, clones, callbacks of Keras."""

from collections import namedtuple

import numpy as np
import pytest

pytest.importorskip("keras", exc_type=ImportError)

import keras

import fastmask as fm
from fastmask.core.structure import flatten, paths

pytestmark = pytest.mark.filterwarnings("default")

RNG = np.random.default_rng(8)
IDS = RNG.integers(1, 9, (6, 5)) * (np.arange(5) < RNG.integers(1, 6, (6, 1)))
SOUNDS = RNG.standard_normal((6, 5, 2)).astype("float32")
ROWS = RNG.standard_normal((6, 3)).astype("float32")
Pair = namedtuple("Pair", "first second")


def nested(library):
    """Inputs and outputs in dicts of lists, and a model of the same kind within."""
    layers = library.layers
    words = library.Input((None,), dtype="int32", name="words")
    sounds, row = library.Input((None, 2), name="sounds"), library.Input((3,), name="row")
    one, two = library.Input((None, 3), name="one"), library.Input((3,), name="two")
    ends = {"b": layers.LSTM(3)(one), "a": layers.Dense(2)(two)}
    inner = library.Model({"two": two, "one": [one]}, ends, name="inner")
    read = layers.Embedding(9, 3, mask_zero=True)(words)
    found = inner({"one": [read], "two": row})
    heard = layers.GRU(2)(layers.Masking()(sounds))
    mood = layers.Dense(1, activation="sigmoid", name="mood")(layers.Concatenate()([found["b"], heard]))
    steps = layers.Dense(2, name="steps")(layers.LSTM(3, return_sequences=True)(read))
    outputs = {"y": (mood, found["a"]), "x": steps}
    return library.Model({"words": words, "rest": [sounds, row]}, outputs)


X = {"words": IDS, "rest": [SOUNDS, ROWS]}
Y = {"x": SOUNDS, "y": (RNG.integers(0, 2, (6, 1)).astype("float32"), ROWS[:, :2])}
LOSSES = {"y": ("binary_crossentropy", "mae"), "x": "mse"}


def pair_of_models(make):
    theirs = make(keras)
    theirs.set_weights([RNG.uniform(-0.6, 0.6, w.shape) for w in theirs.get_weights()])
    return theirs, fm.Model.from_keras(theirs)


def assert_alike(mine, theirs, tolerance=3e-6):
    assert paths(mine) == paths(theirs)
    for a, b in zip(flatten(mine), flatten(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("x", [X, {"words": IDS, "rest": (SOUNDS, ROWS)}, [SOUNDS, ROWS, IDS]])
def test_nested_inputs_and_outputs_are_those_of_keras(x):
    theirs, mine = pair_of_models(nested)
    expected = theirs.predict(X, verbose=0)
    assert_alike(mine.predict(x), expected)
    assert_alike(mine(x), expected)


def test_files_of_nested_models_go_both_ways(tmp_path):
    theirs, mine = pair_of_models(nested)
    theirs.save(tmp_path / "theirs.keras")
    mine.save(tmp_path / "mine.keras")
    expected = mine.predict(X)
    for model in (fm.models.load_model(tmp_path / "theirs.keras"), keras.models.load_model(tmp_path / "mine.keras")):
        # Tuples become lists in JSON.
        assert_alike(model.predict(X, verbose=0), expected)


@pytest.mark.parametrize(
    ("options", "y"),
    [
        ({"loss": "mse"}, Y),
        ({"loss": LOSSES}, Y),
        ({"loss": LOSSES, "loss_weights": {"x": 0.5, "y": (2.0, 1.0)}}, Y),
        ({"loss": ["mse", "mae", "mse"], "loss_weights": [0.5, 2.0, 1.0]}, [Y["x"], *Y["y"]]),
        ({"loss": LOSSES, "metrics": {"x": ["mae"], "y": (["accuracy", "mae"], None)}}, {"x": Y["x"], "y": [*Y["y"]]}),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_nested_losses_and_metrics_are_those_of_keras(options, y, weighted):
    theirs, mine = pair_of_models(nested)
    weights = {"x": np.arange(30.0).reshape(6, 5), "y": (np.ones(6), np.arange(6) % 2)} if weighted and y is Y else None
    theirs.compile("sgd", **options)
    mine.compile("sgd", **options)
    expected = theirs.evaluate(X, y, sample_weight=weights, verbose=0, return_dict=True)
    found = mine.evaluate(X, y, sample_weight=weights, verbose=0, return_dict=True)
    assert list(found) == list(expected)
    if "metrics" not in options:  # all metrics honour the mask, as those of Keras do not
        np.testing.assert_allclose([*found.values()], [*expected.values()], rtol=2e-5)
    if options["loss"] is LOSSES and "metrics" not in options:  # else Keras's order is that of its backend
        listed = theirs.evaluate(X, y, sample_weight=weights, verbose=0)
        np.testing.assert_allclose(mine.evaluate(X, y, sample_weight=weights, verbose=0), listed, rtol=2e-5)


FORMS = {
    "list": list,
    "tuple": tuple,
    "dict": lambda outputs: {"k": outputs[0], "j": outputs[1]},
    "named": lambda outputs: Pair(*outputs),
    "one": lambda outputs: outputs[:1],
    "one_within": lambda outputs: [outputs[:1]],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_outputs_come_in_the_form_of_the_model(form):
    def make(library):
        x = library.Input((3,), name="row")
        return library.Model([x], form([library.layers.Dense(n, name=f"d{n}")(x) for n in (1, 2)]))

    theirs, mine = make(keras), make(fm)
    mine.set_weights(theirs.get_weights())
    expected, found = theirs.predict(ROWS, verbose=0), mine.predict(ROWS)
    assert type(found) is type(expected)
    assert_alike(found, expected)
    assert mine.output_names == theirs.output_names


def stack(library):
    layers = library.layers
    first = [library.Input((None, 2)), layers.Masking(), layers.LSTM(3, return_sequences=True)]
    return library.Sequential([*first, layers.Dropout(0.5), layers.LSTM(2), layers.Dense(2, name="rows")])


def shared(library):
    one, two = library.Input((None, 2), name="one"), library.Input((None, 2), name="two")
    read, dense = library.layers.GRU(3), library.layers.Dense(2)
    return library.Model([one, two], library.layers.Add()([dense(read(one)), dense(read(two))]))


GRAPHS = {"nested": (nested, X), "stack": (stack, SOUNDS), "shared": (shared, [SOUNDS, SOUNDS[::-1]])}


@pytest.mark.parametrize("name", GRAPHS)
def test_json_goes_both_ways(name):
    make, x = GRAPHS[name]
    theirs, mine = pair_of_models(make)
    theirs.compile("adam", "mse")
    expected = theirs.predict(x, verbose=0)
    for text in (theirs.to_json(), mine.to_json(indent=1)):
        for models in (fm.models, keras.models):
            model = models.model_from_json(text)
            model.set_weights(mine.get_weights())
            assert [layer.name for layer in model.layers] == [layer.name for layer in mine.layers]
            assert_alike(model.predict(x, verbose=0), expected)
    assert fm.models.model_from_json(theirs.to_json()).optimizer.get_config()["beta_1"] == 0.9


@pytest.mark.parametrize("name", GRAPHS)
def test_clones_are_those_of_keras(name):
    make, x = GRAPHS[name]
    theirs, mine = pair_of_models(make)
    cloned = []

    def clone(layer):
        cloned.append(layer.name)
        return type(layer).from_config(layer.get_config())

    expected = keras.models.clone_model(theirs, clone_function=clone)
    in_keras, cloned[:] = list(cloned), []
    found = fm.models.clone_model(mine, clone_function=clone)
    names = {layer.name for layer in theirs.layers}
    assert sorted(cloned) == sorted(name for name in in_keras if name in names)  # Keras clones operations as well
    assert [layer.name for layer in found.layers] == [layer.name for layer in expected.layers]
    assert not np.array_equal(found.get_weights()[0], mine.get_weights()[0])
    found.set_weights(mine.get_weights())
    assert_alike(found.predict(x), theirs.predict(x, verbose=0))


class Heard(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.told = {}

    def on_epoch_end(self, epoch, logs=None):
        self.told["epoch"] = dict(logs)

    def on_train_end(self, logs=None):
        self.told["train"] = dict(logs)

    def on_predict_batch_end(self, batch, logs=None):
        self.told["outputs"] = logs["outputs"].shape


def test_callbacks_of_keras_hear_and_stop(tmp_path):
    model = fm.Sequential([fm.Input((3,)), fm.layers.Dense(1)])
    model.compile(fm.optimizers.SGD(0.1), "mse")
    y = ROWS.sum(axis=1, keepdims=True)
    heard, stop = Heard(), keras.callbacks.EarlyStopping("loss", patience=0, min_delta=100, restore_best_weights=True)
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=100)
    rates = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)
    files = [keras.callbacks.ModelCheckpoint(f"{tmp_path}/m.keras"), keras.callbacks.CSVLogger(f"{tmp_path}/log")]
    history = model.fit(ROWS, y, epochs=5, callbacks=[heard, stop, rates, plateau, *files], verbose=0)
    assert len(history.epoch) == 2
    assert heard.model is model
    assert heard.told["train"]["loss"] == heard.told["epoch"]["loss"] == history.history["loss"][-1]
    assert model.optimizer.learning_rate == pytest.approx(0.1 / 8)
    assert (tmp_path / "log").read_text().startswith("epoch,")
    np.testing.assert_array_equal(fm.models.load_model(tmp_path / "m.keras").predict(ROWS).shape, (6, 1))
    model.predict(ROWS, callbacks=heard)
    assert heard.told["outputs"] == (6, 1)
