"""Inputs and outputs in lists, tuples and dicts: data, losses and metrics by key and by name, shapes that fit."""

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers
from fastmask.core.structure import flatten

from .test_functional import WORDS, two_outputs


def test_data_by_name_and_lists_of_sequences():
    model, (words, vector), (step, row) = two_outputs()
    model.compile("sgd", {"step": "mse", "row": "mae"}, loss_weights={"row": 0.5}, metrics={"row": ["mse"]})
    named = {"words": words, "vector": vector}
    targets = {"row": row, "step": step}
    weights = {"row": np.arange(4.0)}
    by_name = model.evaluate(named, targets, sample_weight=weights, verbose=0, return_dict=True)
    listed = model.evaluate([words, vector], [step, row], sample_weight=[None, weights["row"]], verbose=0)
    assert list(by_name) == ["loss", "row_loss", "row_mse", "step_loss"]
    assert model.metrics_names == ["loss", "step_loss", "row_loss", "row_mse"]
    assert [by_name[name] for name in model.metrics_names] == pytest.approx(listed)
    assert by_name["loss"] == pytest.approx(by_name["step_loss"] + 0.5 * by_name["row_loss"])
    rows = [[1, 2], [3, 4, 5], [6]]
    padded = np.array([[1, 2, 0], [3, 4, 5], [6, 0, 0]])
    ragged, grid = model.predict([rows, vector[:3]]), model.predict([padded, vector[:3]])
    np.testing.assert_array_equal(ragged[1], grid[1])
    for row_of_list, row_of_grid in zip(ragged[0], grid[0], strict=True):
        np.testing.assert_array_equal(row_of_list, row_of_grid[: len(row_of_list)])
    logs = model.fit([rows, vector[:3]], [[s[: len(r)] for s, r in zip(step, rows, strict=False)], row[:3]], verbose=0)
    assert list(logs.history) == ["loss", "row_loss", "row_mse", "step_loss"]
    batches = [(named, targets), (named, targets, weights)]
    assert model.fit(iter(batches), steps_per_epoch=2, verbose=0).history["loss"]


def test_dicts_of_inputs_and_outputs():
    one, two = fm.Input((2,), name="one"), fm.Input((2,), name="two")
    total = layers.Add()([one, two])
    both, single = layers.Dense(1, name="of_both"), layers.Dense(2, name="of_one")
    model = fm.Model({"two": two, "one": one}, {"b": both(total), "a": single(one)})
    x = {"one": np.ones((3, 2)), "two": np.zeros((3, 2)), "unused": np.zeros(3)}
    y = model.predict(x)
    assert {key: value.shape for key, value in y.items()} == {"b": (3, 1), "a": (3, 2)}
    assert model.output_names == ["of_one", "of_both"]
    model.compile("sgd", {"a": "mse"})
    before = model.get_weights()
    history = model.fit(x, {"a": np.ones((3, 2))}, verbose=0).history
    assert list(history) == ["loss"]  # an output without a loss trains nothing
    after = dict(zip((w.path for w in model.weights), model.get_weights(), strict=True))
    for weight, old in zip(model.weights, before, strict=True):
        changed = not np.array_equal(after[weight.path], old)
        assert changed == (weight.shape[-1] == 2)


def nested():
    """Outputs that are inputs times one, two and three, so that it shows which is which."""
    a, b, c = (fm.Input((1,), name=name) for name in "abc")
    outputs = [layers.Dense(1, use_bias=False, name=f"d{i}", dtype="float64")(x) for i, x in enumerate((a, b, c))]
    model = fm.Model({"z": a, "rest": [b, c]}, {"y": (outputs[1], outputs[2]), "x": outputs[0]})
    for i in range(3):
        model.get_layer(f"d{i}").set_weights([np.array([[i + 1.0]])])
    return model


COLUMN = np.ones((4, 1))
DATA = {"z": COLUMN, "rest": [10 * COLUMN, 100 * COLUMN]}
FORMS = {
    "keys": DATA,
    "tuples": {"z": COLUMN, "rest": tuple(DATA["rest"]), "unused": COLUMN},
    "names": {"a": COLUMN, "b": 10 * COLUMN, "c": 100 * COLUMN},
    "list": [*DATA["rest"], COLUMN],
}
TARGETS = {"x": COLUMN, "y": (COLUMN, COLUMN)}


@pytest.mark.parametrize("form", FORMS)
def test_every_method_takes_data_by_key_by_name_and_in_a_list(form):
    model, x = nested(), FORMS[form]
    batches = [(x, TARGETS), (x, TARGETS)]
    for found in (model(x), model.predict(x), model.predict_on_batch(x), model.predict(iter([x]))):
        assert list(found) == ["y", "x"]
        assert isinstance(found["y"], tuple)
        for value, expected in zip(flatten(found), (1, 20, 300), strict=True):
            np.testing.assert_array_equal(value, np.full((4, 1), expected))
    model.compile(fm.optimizers.SGD(0.0), "mae")
    expected = [0 + 19 + 299, 0, 19, 299]
    assert model.evaluate(x, TARGETS, verbose=0) == expected
    assert model.evaluate(iter(batches), verbose=0) == expected
    assert model.train_on_batch(x, TARGETS) == model.test_on_batch(x, TARGETS) == expected
    assert model.fit(x, TARGETS, verbose=0).history["loss"] == expected[:1]
    history = model.fit(iter(batches), validation_data=(x, TARGETS), verbose=0).history
    assert (history["loss"], history["val_y/d2_loss"]) == ([318], [299])


@pytest.mark.parametrize(
    ("options", "logs"),
    [
        ({"loss": "mae"}, {"loss": 318, "x_loss": 0, "y/d1_loss": 19, "y/d2_loss": 299}),
        ({"loss": {"y": ("mae", "mse"), "x": "mae"}}, {"y/d1_loss": 19, "y/d2_loss": 299**2, "x_loss": 0}),
        ({"loss": {"y": (None, "mae")}}, {"loss": 299}),
        ({"loss": {"d1": "mae", "d2": "mae"}, "loss_weights": {"d2": 2}}, {"loss": 19 + 2 * 299}),
        ({"loss": ["mae", None, None], "metrics": {"y": (["mae"], None)}}, {"loss": 0, "d1_mae": 19}),
        ({"loss": "mae", "loss_weights": {"x": 1, "y": [0.5, 0]}}, {"loss": 9.5, "y/d2_loss": 299}),
    ],
)
def test_losses_and_metrics_by_output(options, logs):
    model = nested()
    model.compile("sgd", **options)
    found = model.evaluate(DATA, TARGETS, verbose=0, return_dict=True)
    assert {name: found[name] for name in logs} == logs
    weights = {"y": (np.zeros(4), None)}
    assert model.evaluate(DATA, TARGETS, sample_weight=weights, verbose=0, return_dict=True).get("y/d1_loss", 0) == 0


def test_targets_of_outputs_without_a_loss_may_be_left_out():
    model = nested()
    model.compile("sgd", {"y": (None, "mae")})
    assert model.evaluate(DATA, {"y": (None, COLUMN)}, verbose=0) == 299
    assert model.evaluate(DATA, {"d2": COLUMN}, verbose=0) == 299


@pytest.mark.parametrize("first", [[fm.Input((1,), name="in")], []])
def test_a_single_output_may_be_named(first):
    model = fm.Sequential([*first, layers.Dense(1, name="out")])
    model.compile("sgd", {"out": "mae"}, metrics={"out": ["mse"]})
    history = model.fit(COLUMN, {"out": COLUMN}, sample_weight=np.zeros(4), verbose=0).history
    assert list(history) == ["loss", "mse"]
    assert history["loss"] == [0]
    for call in (lambda: model.compile("sgd", {"in": "mae"}), lambda: model.train_on_batch(COLUMN, {"in": COLUMN})):
        with pytest.raises(ValueError, match="expected an entry for out, got the keys in"):
            call()


def test_a_model_of_dicts_within_a_model_and_in_files(tmp_path):
    model, (one, two) = nested(), (fm.Input((1,)), fm.Input((1,)))
    found = model({"rest": (two, two), "z": one})
    outer = fm.Model([one, two], [found["x"], found["y"][1]])
    np.testing.assert_array_equal(outer.predict([COLUMN, COLUMN])[1], 3 * COLUMN)
    again = fm.Model.from_config(outer.get_config())
    again.set_weights(outer.get_weights())
    np.testing.assert_array_equal(again.predict([COLUMN, COLUMN])[1], 3 * COLUMN)
    pytest.importorskip("h5py")
    for made, x in ((model, DATA), (outer, [COLUMN, COLUMN])):
        made.save(tmp_path / "model.keras")
        loaded = fm.models.load_model(tmp_path / "model.keras").predict(x)
        for value, expected in zip(flatten(loaded), flatten(made.predict(x)), strict=True):
            np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({"z": COLUMN}, "x: expected an entry for each of b, c, a, in the form .* got the keys z"),
        ({"z": COLUMN, "rest": [COLUMN]}, "got the keys z, rest"),
        ([COLUMN, COLUMN], "got 2 entries"),
        (COLUMN, "got ndarray"),
    ],
)
def test_inputs_that_are_missing_are_named(x, message):
    for call in (nested(), nested().predict):
        with pytest.raises(ValueError, match=message):
            call(x)


def test_one_input_may_stand_in_a_list():
    dense = fm.Sequential([fm.Input((2,), name="row"), layers.Dense(1)])
    words = fm.Sequential([layers.Embedding(7, 3), layers.LSTM(2)])
    waiting = fm.Sequential([layers.LSTM(2)])
    packed = fm.PackedSequence.from_list([np.ones((2, 3)), np.ones((1, 3))])
    for model, x in ((dense, np.ones((3, 2))), (words, WORDS), (words, WORDS[:1]), (waiting, np.ones((1, 4, 3)))):
        for form in ([x], (x,), [x.tolist()]):
            np.testing.assert_array_equal(model(form), model(x))
            np.testing.assert_array_equal(model.predict(form), model.predict(x))
    np.testing.assert_array_equal(dense({"row": np.ones((3, 2))}), dense(np.ones((3, 2))))
    np.testing.assert_array_equal(waiting([packed]), waiting(packed))
    assert dense([fm.Input((2,))]).shape == (None, 1)
    # A list of rows is still a batch of these.
    assert words([[1, 2, 3]]).shape == words([np.array([1, 2, 3])]).shape == (1, 2)
    assert waiting([np.ones((4, 3))]).shape == (1, 2)


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_batch_size_of_a_stateful_layer_holds(wrapped):
    layer = layers.LSTM(2, stateful=True)
    inputs = fm.Input(batch_shape=(2, None, 3))
    model = fm.Model(inputs, layers.Bidirectional(layer)(inputs) if wrapped else layer(inputs))
    assert model.predict(np.ones((4, 5, 3)), batch_size=2).shape == (4, 4 if wrapped else 2)
    model.reset_states()
    for call in (model, model.predict):
        with pytest.raises(ValueError, match=r"x: expected the batch size 2 of the states that layer .* got 3"):
            call(np.ones((3, 5, 3)))
    free = fm.Sequential([fm.Input(batch_shape=(2, 3)), layers.Dense(1)])
    assert free(np.ones((5, 3))).shape == (5, 1)


def test_data_have_the_shape_of_the_input():
    """As in Keras: lengths hold but in a Sequential, and a last axis of size 1 may be missing or too many."""
    inputs = fm.Input((7, 4), name="in")
    model = fm.Model(inputs, layers.LSTM(2)(inputs))
    for shape in ((3, 5, 4), (3, 7, 3), (3, 7)):
        with pytest.raises(ValueError, match=r"x: expected shape \(B, 7, 4\) for input 'in', got \(3, "):
            model.predict(np.zeros(shape))
    with pytest.raises(ValueError, match=r"x\[1\]: expected at most 7 steps for input 'in', got 8"):
        model.predict([np.zeros((2, 4)), np.zeros((8, 4))])
    with pytest.raises(ValueError, match=r"x: expected shape \(None, 7, 4\) for input 'in', got \(None, 5, 4\)"):
        model(fm.Input((5, 4)))
    assert model(fm.Input((None, 4))).shape == (None, 2)
    stack = fm.Sequential([fm.Input((7, 4), name="in"), layers.LSTM(2)])
    assert stack.predict(np.zeros((3, 5, 4))).shape == (3, 2)
    with pytest.raises(ValueError, match=r"x: expected shape \(B, T, 4\) for input 'in', got \(3, 5, 2\)"):
        stack.predict(np.zeros((3, 5, 2)))
    series = fm.Sequential([fm.Input((None, 1)), layers.LSTM(2)])
    x = np.linspace(0, 1, 12).reshape(3, 4)
    np.testing.assert_array_equal(series.predict(x), series.predict(x[..., None]))
    words = fm.Sequential([layers.Embedding(7, 3, mask_zero=True), layers.LSTM(2)])
    np.testing.assert_array_equal(words.predict(WORDS[..., None]), words.predict(WORDS))


@pytest.mark.parametrize("make", [lambda: layers.Embedding(5, 2, mask_zero=True), lambda: layers.Masking()])
def test_a_mask_of_another_shape_is_refused_where_it_is_ignored_too(make):
    x = np.ones((2, 3), int) if make().takes_ids else np.ones((2, 3, 4))
    model = fm.Sequential([make(), layers.LSTM(2)])
    assert model(x, mask=np.ones((2, 3), bool)).shape == (2, 2)
    with pytest.raises(ValueError, match=r"mask: expected shape \(B, T\) = \(2, 3\), got \(2, 4\)"):
        model(x, mask=np.ones((2, 4), bool))


def test_ids_that_are_words():
    model = fm.Sequential([layers.Embedding(5, 2, mask_zero=True), layers.LSTM(2)])
    with pytest.raises(TypeError, match="x: expected numbers, got text such as 'a'; words and classes must"):
        model.predict(np.array([["a", "b"]]))
