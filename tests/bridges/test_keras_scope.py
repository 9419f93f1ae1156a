"""fastmask.keras.accelerated: what falls back within it, and what is as before after it."""

import logging

import numpy as np
import pytest

pytest.importorskip("keras", exc_type=ImportError)

import keras
from helpers.keras_layers import BACKEND, TRAINS, counted

import fastmask.keras as fk

pytestmark = pytest.mark.filterwarnings("default")

LAYERS = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "simple_rnn": keras.layers.SimpleRNN}
X = np.random.default_rng(0).standard_normal((2, 4, 3)).astype("float32")


class Loop(keras.layers.LSTM):
    """A layer whose loop calls Keras's past that of its parent."""

    def inner_loop(self, *args, **kwargs):
        return keras.layers.RNN.inner_loop(self, *args, **kwargs)


LEFT = {
    "activation": ({"activation": "gelu"}, False, "activation=gelu"),
    "recurrent dropout": ({"recurrent_dropout": 0.5, "seed": 1}, True, "recurrent_dropout=0.5 in training"),
    "float16": ({"dtype": "float16"}, False, "'float16'"),
    "mixed_bfloat16": ({"dtype": "mixed_bfloat16"}, False, "'mixed_bfloat16'"),
}


def result(layer, **call):
    return keras.ops.convert_to_numpy(layer(X, **call))


@pytest.mark.parametrize("case", LEFT)
@pytest.mark.parametrize("cls", [*LAYERS.values(), Loop])
@pytest.mark.parametrize("accelerated", [False, True])
def test_a_call_that_is_left_to_keras_takes_its_path_with_one_line(accelerated, cls, case, caplog):
    options, training, reason = LEFT[case]
    # No backend has the default, an orthogonal matrix, in float16.
    layers = [cls(3, name="reader", recurrent_initializer="glorot_uniform", **options) for _ in range(2)]
    for layer in layers:
        layer.build(X.shape)
    layers[1].set_weights(layers[0].get_weights())
    if accelerated:
        fk.accelerate(layers[1])
    expected = result(layers[0], training=training)
    with counted() as calls, fk.accelerated(), caplog.at_level(logging.WARNING, "fastmask"):
        found = [result(layers[1], training=training) for _ in range(2)]
    np.testing.assert_array_equal(found[0], expected)
    assert not calls
    lines = [record.getMessage() for record in caplog.records if record.name == "fastmask"]
    assert len(lines) == 1
    assert lines[0].startswith(f"layer 'reader' ({cls.__name__}) runs on Keras's own path: ")
    assert reason in lines[0]


@pytest.mark.parametrize("kind", LAYERS)
def test_an_initial_state_of_one_row_is_left_to_keras(kind):
    layer = LAYERS[kind](3)
    states = [np.full((1, 3), 0.5, "float32") for _ in range(2 if kind == "lstm" else 1)]
    repeated = [np.repeat(state, 2, axis=0) for state in states]
    expected = result(layer, initial_state=repeated)
    if BACKEND == "jax":  # where Keras's loop cannot repeat it
        with pytest.raises(TypeError), fk.accelerated():
            result(layer, initial_state=states)
        return
    with counted() as calls, fk.accelerated():
        found = result(layer, initial_state=states)
        assert not calls
        one = keras.ops.convert_to_numpy(layer(X[:1], initial_state=states))
        assert calls
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(one, expected[:1], atol=1e-6)


def reader(**options):
    model = keras.Sequential([keras.Input((4, 3)), keras.layers.SimpleRNN(3, **options), keras.layers.Dense(1)])
    if TRAINS:
        model.compile("sgd", "mse")
    return model


def runs(model):
    """How often the kernels run while a model predicts."""
    with counted() as calls:
        model.predict(X, verbose=0)
    return len(calls)


def test_a_model_accelerated_before_the_scope_stays_so_after_it():
    model = reader()
    fk.accelerate(model)
    with fk.accelerated():
        assert runs(model)
    assert fk.accelerate(model).accelerated
    assert runs(model)
    fk.restore(model)
    assert not runs(model)


def test_an_inner_scope_leaves_models_to_the_outer_one():
    model = reader()
    with fk.accelerated():
        assert runs(model)
        with fk.accelerated():
            assert runs(model)
        assert runs(model)
        assert not any("inner_loop" in vars(layer) for layer in model.layers)
    assert not runs(model)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only there XLA is in the way")
def test_xla_is_off_for_what_is_made_within_the_scope_only():
    model = reader()
    model.compile("sgd", "mse", jit_compile=True)
    model.predict(X, verbose=0)
    with fk.accelerated():
        assert runs(model)
        model.compile("sgd", "mse", jit_compile=True)
        assert runs(model)
        assert model.jit_compile
    assert model.jit_compile
    assert not runs(model)


@pytest.mark.skipif(not TRAINS, reason="NumPy keeps no functions")
@pytest.mark.parametrize("options", [None, {"activation": "gelu"}], ids=["no recurrent layer", "left to Keras"])
def test_accelerate_leaves_a_model_alone_that_has_nothing_for_the_kernels(options):
    model = reader(**options) if options else keras.Sequential([keras.Input((4, 3)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.predict(X, verbose=0)
    before = model.predict_function, model.jit_compile
    fk.accelerate(model)
    assert (model.predict_function, model.jit_compile) == before
    if options is None:
        with fk.accelerated():
            model.predict(X, verbose=0)
        assert (model.predict_function, model.jit_compile) == before
