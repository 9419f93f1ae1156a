"""Chains of any length: nothing recurses from layer to layer, and putting layers on costs the same each time.

There is less room for calls within calls here than there are layers in a chain.
"""

import copy
import pickle
import sys

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers

LENGTH, ROOM = 300, 280
IDS = np.array([[1, 2, 0], [3, 0, 0]])


@pytest.fixture(autouse=True)
def little_room():
    """Leave room for so many calls within calls."""
    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + ROOM)
    yield
    sys.setrecursionlimit(before)


def stack():
    return fm.Sequential([layers.Embedding(5, 2, mask_zero=True), *[layers.Dense(2) for _ in range(LENGTH)]])


def unbuilt():
    model = fm.Sequential([layers.Embedding(5, 2), layers.Flatten(), *[layers.Dense(2) for _ in range(LENGTH)]])
    model.build((None, 3))
    return model


def masked():
    ids = fm.Input((None,), dtype="int32")
    x = layers.Embedding(5, 2, mask_zero=True)(ids)
    for _ in range(LENGTH):
        x = layers.SimpleRNN(2, return_sequences=True)(x)
    return fm.Model(ids, layers.GlobalAveragePooling1D()(x))


def residual():
    ids = fm.Input((None,), dtype="int32")
    x = layers.Embedding(5, 2, mask_zero=True)(ids)
    for _ in range(LENGTH):
        x = layers.Add()([x, layers.Dense(2, kernel_initializer="zeros")(x)])
    return fm.Model(ids, layers.GlobalAveragePooling1D()(x))


def of_masks():
    ids = fm.Input((None,), dtype="int32")
    mask = ids != 0
    for i in range(LENGTH):
        mask = (ids != i + 1) | ~mask
    return fm.Model(ids, layers.LSTM(2)(layers.Embedding(5, 2)(ids), mask=mask))


@pytest.mark.parametrize("make", [stack, unbuilt, masked, residual, of_masks])
def test_a_long_chain_is_a_model_like_any_other(make, tmp_path):
    model = make()
    y = model(IDS)
    model.compile(fm.optimizers.SGD(0.0), "mse")
    assert np.isfinite(model.fit(IDS, y, verbose=0).history["loss"]).all()
    model.summary(lambda text: None)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    copies += [type(model).from_config(model.get_config()), fm.models.clone_model(model)]
    for made in copies[2:]:
        made.set_weights(model.get_weights())
    pytest.importorskip("h5py")
    model.save(tmp_path / "model.keras")
    copies.append(fm.models.load_model(tmp_path / "model.keras"))
    for made in copies:
        np.testing.assert_array_equal(made(IDS), y)
        assert [layer.name for layer in made.layers] == [layer.name for layer in model.layers]


def test_parts_of_a_long_chain():
    model = stack()
    part = fm.Model(model.layers[1].output, model.layers[-1].output)
    assert part.predict(np.ones((2, 3, 2))).shape == (2, 3, 2)


def entered(function):
    """Count the Python functions that a call enters."""
    count = 0

    def note(frame, event, argument):
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("first", [[fm.Input((2,))], []])
def test_putting_on_twice_as_many_layers_takes_twice_as_many_steps(first):
    def put_on(count):
        made = [layers.Dense(2) for _ in range(count)]
        model = fm.Sequential(first)
        return entered(lambda: [model.add(layer) for layer in made])

    put_on(1)
    few, many = put_on(200), put_on(400)
    assert many < 2.1 * few


def test_a_copy_of_a_called_layer_has_not_been_called():
    model = fm.Sequential([layers.Dense(2, input_shape=(3,)), layers.Dense(2)])
    made = copy.deepcopy(model.layers[1])
    assert (made.nodes, len(model.layers[1].nodes)) == ([], 1)
    np.testing.assert_array_equal(made(np.ones((1, 2))), model.layers[1](np.ones((1, 2))))


def test_copies_keep_states_masks_and_calls(tmp_path):
    source, target = fm.Input((None,), dtype="int32"), fm.Input((None, 2))
    embedding = layers.Embedding(5, 2, mask_zero=True)
    read, *states = layers.LSTM(2, return_sequences=True, return_state=True)(embedding(source))
    written = layers.LSTM(2)(target, initial_state=states, mask=source != 1)
    again = layers.GlobalAveragePooling1D()(layers.Dropout(0.5)(read, training=False))
    model = fm.Model({"source": source, "target": target}, [written, (again,)])
    x = {"source": IDS, "target": np.ones((2, 3, 2))}
    expected = model.predict(x)
    for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.deepcopy(copy.deepcopy(model))):
        found = made.predict(x)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1][0], expected[1][0])
        assert made.get_config() == model.get_config()
        made.layers[-1].name = "other"
    assert model.layers[-1].name != "other"
