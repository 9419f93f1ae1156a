"""fastmask.keras.accelerate, restore and accelerated on whole models."""

import logging

import numpy as np
import pytest

pytest.importorskip("keras", exc_type=ImportError)

import keras
from helpers.keras_layers import BACKEND, TRAINS, counted

import fastmask.keras as fk

pytestmark = pytest.mark.filterwarnings("default")
trained = pytest.mark.skipif(not TRAINS, reason="NumPy does not train")

RNG = np.random.default_rng(1)
IDS = RNG.integers(1, 20, (16, 7)) * (np.arange(7) < RNG.integers(0, 8, (16, 1)))
LABELS = RNG.integers(0, 2, (16, 1)).astype("float32")


def stacked(**options):
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(20, 4, mask_zero=True),
            keras.layers.Bidirectional(keras.layers.LSTM(4, return_sequences=True, **options), name="both"),
            keras.layers.GRU(4, return_sequences=True, **options),
            keras.layers.SimpleRNN(4, **options),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )


def functional():
    """A shared layer, states passed on, a model within the model, and a TimeDistributed one."""
    keras.utils.set_random_seed(3)
    words = keras.Input((7,), dtype="int32")
    embedded = keras.layers.Embedding(20, 4, mask_zero=True)(words)
    _, h, c = keras.layers.LSTM(4, return_state=True, name="encoder")(embedded)
    decoded = keras.layers.LSTM(4, return_sequences=True, name="decoder")(embedded, initial_state=[h, c])
    inside = keras.Input((None, 4))
    inner = keras.Model(inside, keras.layers.GRU(3, return_sequences=True, name="reader")(inside), name="inner")
    windows = keras.layers.Reshape((7, 3, 1))(inner(decoded))
    read = keras.layers.TimeDistributed(keras.layers.SimpleRNN(2, name="window"))(windows)
    shared = keras.layers.GRU(3, name="shared")
    ends = keras.layers.Concatenate()([shared(read), shared(keras.ops.flip(read, axis=1))])
    return keras.Model(words, keras.layers.Dense(1, activation="sigmoid")(ends))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.embedding = keras.layers.Embedding(20, 4, mask_zero=True)
        self.readers = [keras.layers.LSTM(4, return_sequences=True), keras.layers.RNN(keras.layers.GRUCell(3))]
        self.out = keras.layers.Dense(1, activation="sigmoid")

    def call(self, ids, training=False):
        x = self.embedding(ids)
        for reader in self.readers:
            x = reader(x, training=training)
        return self.out(x)


def subclassed():
    keras.utils.set_random_seed(3)
    model = Subclassed()
    model(IDS)
    return model


MODELS = {"stacked": stacked, "functional": functional, "subclassed": subclassed}
LAYERS_IN = {"stacked": 4, "functional": 5, "subclassed": 2}


def trial(model, weights, compile=True):
    """Predictions, and the weights after three steps of training."""
    model.set_weights(weights)
    if compile:
        model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    found = [model.predict(IDS, verbose=0)]
    if TRAINS:
        model.fit(IDS, LABELS, batch_size=8, epochs=2, shuffle=False, verbose=0)
        found += [np.float32(model.evaluate(IDS, LABELS, verbose=0)[0]), *model.get_weights()]
    return found


def assert_same(found, expected):
    for mine, theirs in zip(found, expected, strict=True):
        # Adam turns rounding of gradients near zero into steps.
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", MODELS)
def test_models_compute_and_learn_the_same(name):
    model = MODELS[name]()
    weights = model.get_weights()
    expected = trial(model, weights)
    report = fk.accelerate(model)
    assert len(report.accelerated) == LAYERS_IN[name], str(report)
    assert report.left == ()
    with counted() as calls:
        found = trial(model, weights)
    assert calls
    assert_same(found, expected)
    fk.restore(model)
    with counted() as calls:
        assert_same(trial(model, weights), expected)
    assert not calls


def test_it_works_on_a_compiled_and_used_model_and_can_be_undone():
    model = stacked()
    weights = model.get_weights()
    expected = trial(model, weights)
    model.set_weights(weights)
    jit = model.jit_compile
    with counted() as calls:
        fk.accelerate(model)
        fk.accelerate(model)
        np.testing.assert_allclose(model.predict(IDS, verbose=0), expected[0], atol=1e-6)
    assert calls
    fk.restore(model)
    with counted() as calls:
        np.testing.assert_allclose(model.predict(IDS, verbose=0), expected[0], atol=1e-6)
    assert not calls
    assert model.jit_compile == jit
    assert all("inner_loop" not in vars(layer) for layer in model._flatten_layers())


def test_direct_calls_and_a_single_layer():
    layer = keras.layers.LSTM(4)
    x = RNG.standard_normal((3, 5, 2)).astype("float32")
    expected = keras.ops.convert_to_numpy(layer(x))
    report = fk.accelerate(layer)
    assert [entry.kind for entry in report.entries] == ["LSTM"]
    with counted() as calls:
        np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(x)), expected, atol=1e-6)
    assert len(calls) == 1


def test_a_model_that_is_not_built_yet():
    model = Subclassed()
    assert len(fk.accelerate(model).accelerated) == 2
    with counted() as calls:
        assert model.predict(IDS, verbose=0).shape == (16, 1)
    assert calls


def test_the_report_names_every_layer_and_says_why():
    class Loop(keras.layers.LSTM):
        def inner_loop(self, *args, **kwargs):
            return super().inner_loop(*args, **kwargs)

    model = keras.Sequential(
        [
            keras.Input((5, 2)),
            keras.layers.LSTM(2, return_sequences=True, recurrent_dropout=0.5, name="dropped"),
            keras.layers.LSTM(2, return_sequences=True, activation="gelu", name="odd"),
            Loop(2, return_sequences=True, name="own"),
            keras.layers.Bidirectional(keras.layers.GRU(2, return_sequences=True, name="deep"), name="both"),
            keras.layers.RNN([keras.layers.LSTMCell(2), keras.layers.LSTMCell(2)], name="cells"),
        ]
    )
    report = fk.accelerate(model)
    assert report.accelerated == ("dropped", "both/forward_deep", "both/backward_deep")
    assert report.left == ("odd", "own", "cells")
    lines = str(report).splitlines()
    assert lines[0] == "fastmask: 3 of 6 recurrent layers run on its kernels"
    assert lines[1] == "  dropped (LSTM): accelerated, but not with recurrent_dropout=0.5 in training"
    assert "activation=gelu is none of linear, tanh" in lines[2]
    assert "Loop has a loop of its own" in lines[3]
    assert "its cell is a StackedRNNCells" in lines[6]
    assert str(fk.accelerate(keras.layers.Dense(2))) == "fastmask: the model has no recurrent layers"


@pytest.mark.parametrize("thing", ["lstm", None, keras.layers.LSTM])
def test_what_is_no_layer_is_refused(thing):
    for function in (fk.accelerate, fk.restore):
        with pytest.raises(TypeError, match="model: expected a Keras model or layer"):
            function(thing)


CASES = {
    "activation": ({"activation": "gelu"}, {}, "activation=gelu"),
    "recurrent dropout": ({"recurrent_dropout": 0.5}, {"training": True}, "recurrent_dropout=0.5 in training"),
    "half precision": ({"dtype": "mixed_bfloat16"}, {}, "'mixed_bfloat16'"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_the_kernels_cannot_do_is_keras_s_with_one_line(case, caplog):
    options, call, reason = CASES[case]
    layer = fk.LSTM(3, name="reader", **options)
    x = RNG.standard_normal((2, 4, 3)).astype("float32")
    with counted() as calls, caplog.at_level(logging.WARNING, "fastmask"):
        for _ in range(3):
            keras.utils.set_random_seed(1)
            mine = layer(x, **call)
    assert not calls
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("layer 'reader' (LSTM) runs on Keras's own path: ")
    assert reason in caplog.messages[0]
    usual = keras.layers.LSTM(3, **options)
    usual.build((None, 4, 3))
    usual.set_weights(layer.get_weights())
    if not call:
        np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(v) for v in (mine, usual(x))))


def test_inference_with_recurrent_dropout_runs_on_the_kernels():
    with counted() as calls:
        fk.GRU(3, recurrent_dropout=0.5)(np.zeros((2, 4, 3), "float32"))
    assert calls


@trained
@pytest.mark.parametrize("cls", [keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN])
def test_dropout_of_inputs_draws_what_keras_draws(cls):
    x = RNG.standard_normal((4, 5, 3)).astype("float32")
    layer = cls(3, dropout=0.5, seed=4, return_sequences=True)
    layer.build(x.shape)
    state = [v.numpy() if hasattr(v, "numpy") else np.asarray(v) for v in layer.non_trainable_variables]
    expected = keras.ops.convert_to_numpy(layer(x, training=True))
    for variable, value in zip(layer.non_trainable_variables, state, strict=True):
        variable.assign(value)
    fk.accelerate(layer)
    with counted() as calls:
        found = keras.ops.convert_to_numpy(layer(x, training=True))
    assert calls
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_stateful_layers_go_on_where_they_were():
    x = RNG.standard_normal((2, 3, 4, 2)).astype("float32")
    found = []
    for fast in (False, True):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input(batch_shape=(3, 4, 2)), keras.layers.GRU(3, stateful=True)])
        model.compile(jit_compile=False)
        if fast:
            fk.accelerate(model)
        found.append([model.predict(part, batch_size=3, verbose=0) for part in (*x, x[0])])
        model.layers[0].reset_state()
        found[-1].append(model.predict(x[0], batch_size=3, verbose=0))
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
    if BACKEND != "jax":  # where Keras's predict begins anew each time
        assert not np.allclose(found[1][0], found[1][2])
    np.testing.assert_array_equal(found[1][0], found[1][3])


def test_the_scope_accelerates_all_that_runs_inside_and_nothing_else():
    model = stacked()
    weights = model.get_weights()
    expected = trial(model, weights)
    originals = [keras.layers.RNN.inner_loop, keras.layers.LSTM.inner_loop, keras.Model.make_predict_function]
    with counted() as calls, fk.accelerated():
        found = trial(model, weights)
        inside = len(calls)
        again = trial(model, weights, compile=False)[0]
        with fk.accelerated():
            other = stacked()
            keras.layers.SimpleRNN(3)(np.zeros((2, 3, 4), "float32"))
            other.predict(IDS, verbose=0)
    assert 0 < inside < len(calls)
    assert {recurrence.spec.cell for recurrence in calls} == {"lstm", "gru", "simple_rnn"}
    assert_same(found, expected)
    assert_same([again], expected[:1])
    assert originals == [keras.layers.RNN.inner_loop, keras.layers.LSTM.inner_loop, keras.Model.make_predict_function]
    with counted() as calls:
        assert_same(trial(model, weights), expected)
        other.predict(IDS, verbose=0)
    assert not calls


def test_the_scope_is_undone_by_an_exception_and_is_for_its_thread():
    from threading import Thread

    own = keras.layers.LSTM.inner_loop
    layer, x = keras.layers.LSTM(2), np.zeros((2, 3, 4), "float32")
    with counted() as calls, fk.accelerated():
        elsewhere = Thread(target=layer, args=(x,))
        elsewhere.start()
        elsewhere.join()
        assert not calls
        layer(x)
        assert calls
        with pytest.raises(ValueError, match="ndim"), fk.accelerated():
            layer(x[0])
        assert keras.layers.LSTM.inner_loop is not own
    assert keras.layers.LSTM.inner_loop is own


@trained
@pytest.mark.skipif(BACKEND not in ("tensorflow", "jax"), reason="no XLA")
def test_jit_compile_auto_finds_a_way():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5, 2)), keras.layers.SimpleRNN(3), keras.layers.Dense(1)])
    x, y = RNG.standard_normal((8, 5, 2)).astype("float32"), np.zeros((8, 1), "float32")
    model.compile("sgd", "mse", jit_compile=True)
    model.fit(x, y, verbose=0)
    fk.accelerate(model)
    assert model.jit_compile == (BACKEND == "jax")
    with counted() as calls:
        model.fit(x, y, verbose=0)
        model.predict(x, verbose=0)
    assert calls
    fk.restore(model)
    assert model.jit_compile
    model.fit(x, y, verbose=0)


def test_masks_of_all_results():
    mask = np.arange(5) < np.array([[3], [5]])
    layer = fk.LSTM(2, return_sequences=True, return_state=True)
    assert layer.supports_masking
    assert layer.compute_mask(None, mask)[0] is mask
    assert layer.compute_mask(None, mask)[1:] == [None, None]
    assert fk.GRU(2).compute_mask(None, [mask]) is None


@pytest.mark.parametrize("cls", [fk.LSTM, fk.GRU, fk.SimpleRNN])
def test_masks_survive_a_keras_that_drops_them(cls, monkeypatch):
    usual = cls.__mro__[2]
    monkeypatch.setattr(keras.layers.RNN, "compute_mask", lambda self, _, mask: None)
    init = keras.layers.RNN.__init__

    def dropping(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.supports_masking = False

    monkeypatch.setattr(keras.layers.RNN, "__init__", dropping)
    inputs = keras.Input((5, 3))
    masked = keras.layers.Masking()(inputs)
    with pytest.warns(UserWarning, match="destroy the mask"):
        assert keras.src.backend.get_keras_mask(usual(2, return_sequences=True)(masked)) is None
    assert keras.src.backend.get_keras_mask(cls(2, return_sequences=True)(masked)) is not None
