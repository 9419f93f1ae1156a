"""clone_model, to_json and model_from_json."""

import json

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers
from fastmask.models import clone_model, model_from_json
from fastmask.saving import FileFormatError

from .test_functional import CASES

X = np.linspace(-1, 1, 24, dtype="float32").reshape(2, 4, 3)


def stack():
    return fm.Sequential([layers.Masking(input_shape=(None, 3)), layers.LSTM(2, name="read"), layers.Dense(1)], "stack")


def wrapped():
    inputs = fm.Input((None, 3), name="in")
    inner = stack()
    return fm.Model(inputs, layers.Dense(2, name="top")(inner(layers.GRU(3, return_sequences=True)(inputs))))


def assert_same_but_for_weights(made, model, x):
    assert type(made) is type(model)
    assert made.get_config() == model.get_config()
    assert not {*map(id, made.layers)} & {*map(id, model.layers)}
    made.set_weights(model.get_weights())
    for a, b in zip(np.atleast_1d(made.predict(x)), np.atleast_1d(model.predict(x)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", [case for case in CASES if case.__name__ != "two_outputs"])
def test_a_clone_and_json_have_the_layers_and_calls_of_a_graph(case):
    model, x, _ = case()
    for made in (clone_model(model), clone_model(model, recursive=True), model_from_json(model.to_json())):
        assert_same_but_for_weights(made, model, x)


@pytest.mark.parametrize("make", [stack, wrapped])
def test_clones_are_compiled_as_the_model_was(make):
    model = make()
    assert clone_model(model).optimizer is None
    model.compile(fm.optimizers.Adam(0.25), "mse", metrics=["mae", fm.metrics.MeanSquaredError(name="own")])
    y = model.predict(X)
    model.fit(X, y + 1, verbose=0)
    for made in (clone_model(model), model_from_json(model.to_json())):
        assert_same_but_for_weights(made, model, X)
        assert (made.optimizer.learning_rate, made.optimizer.iterations) == (0.25, 0)
        before = model.optimizer.iterations
        assert made.evaluate(X, y, verbose=0) == model.evaluate(X, y, verbose=0)
        made.fit(X, y, verbose=0)
        assert model.optimizer.iterations == before


def test_layers_may_be_replaced_or_kept():
    model = wrapped()

    def bigger(layer):
        config = layer.get_config()
        return type(layer).from_config(config | ({"units": 4} if layer.name == "top" else {}))

    assert clone_model(model, clone_function=bigger).output_shape == (None, 4)
    same = clone_model(model, clone_function=lambda layer: layer)
    np.testing.assert_array_equal(same.predict(X), model.predict(X))
    assert same.layers[1:] == model.layers[1:]
    seen = []
    clone_model(model, clone_function=lambda layer: seen.append(layer.name) or bigger(layer), recursive=True)
    assert {"read", "top"} <= {*seen}
    with pytest.raises(TypeError, match="clone_function: expected one that returns layers, got one that returned None"):
        clone_model(model, clone_function=lambda layer: None)


def test_calls_may_be_added():
    def doubled(layer, *args, **options):
        y = layer(*args, **options)
        return layers.Add()([y, y]) if isinstance(layer, layers.Dense) else y

    model = wrapped()
    made = clone_model(model, clone_function=lambda layer: layer, call_function=doubled)
    np.testing.assert_allclose(made.predict(X), 2 * model.predict(X), rtol=1e-6)
    with pytest.raises(ValueError, match="call_function: expected None for a Sequential"):
        clone_model(stack(), call_function=doubled)


@pytest.mark.parametrize("make", [stack, wrapped])
def test_a_clone_may_stand_on_given_tensors(make):
    inputs = fm.Input((4, 3), name="given")
    made = clone_model(make(), inputs)
    assert made.inputs == [inputs]
    assert made.predict(X).shape == make().predict(X).shape
    for wrong in (np.ones(3), [inputs, inputs], {"x": inputs}):
        with pytest.raises(ValueError, match="input_tensors: expected"):
            clone_model(wrapped(), wrong)
    below = layers.Dense(3)(fm.Input((4, 5)))
    assert clone_model(wrapped(), below).predict(X).shape == (2, 2)


def test_layers_and_masks_that_are_shared_stay_so():
    one, two = fm.Input((None,), dtype="int32"), fm.Input((None,), dtype="int32")
    embedding, read = layers.Embedding(5, 2), layers.GRU(2)
    mask = (one != 0) & (two != 0)
    model = fm.Model([one, two], layers.Add()([read(embedding(one), mask=mask), read(embedding(two), mask=~mask)]))
    made = clone_model(model)
    assert len(made.layers) == len(model.layers)
    assert_same_but_for_weights(made, model, [np.array([[1, 0, 2]]), np.array([[3, 3, 0]])])


def test_what_is_no_model_is_refused():
    for other in (layers.Dense(1), None):
        with pytest.raises(TypeError, match="model: expected a Sequential or Model"):
            clone_model(other)


def test_json_of_a_model_that_is_not_built():
    model = model_from_json(fm.Sequential([layers.LSTM(2), layers.Dense(1)], "waiting").to_json(indent=1))
    assert (model.name, model.built, len(model.layers)) == ("waiting", False, 2)
    assert model.predict(X).shape == (2, 1)
    clone = clone_model(fm.Sequential([layers.LSTM(2)]))
    assert (clone.built, len(clone.layers)) == (False, 1)


def test_json_of_keras_2():
    dense = {"class_name": "Dense", "config": {"name": "d", "units": 2, "batch_input_shape": [None, 3], "bias": True}}
    dense["config"].pop("bias")
    text = {"class_name": "Sequential", "keras_version": "2.15.0", "config": {"name": "old", "layers": [dense]}}
    assert model_from_json(json.dumps(text)).output_shape == (None, 2)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"class_name": "Dense", "config": {"units": 2}}', None])
def test_json_that_is_no_model(text):
    with pytest.raises(FileFormatError, match=r"^json_string: "):
        model_from_json(text)


class Half(layers.Layer):
    def call(self, x):
        return x / 2


def test_json_with_layers_of_ones_own():
    model = fm.Sequential([fm.Input((3,)), Half()])
    assert_same_but_for_weights(model_from_json(model.to_json(), {"Half": Half}), model, np.ones((2, 3)))
    with pytest.raises(FileFormatError, match="json_string: fastmask has no layer class 'Half'"):
        model_from_json(model.to_json())
