"""Bad input and calls in any order for models, losses, metrics and utilities: an exception, and nothing is lost."""

import numpy as np
import pytest
from helpers.numeric import assert_same_bits
from hypothesis import given, note
from hypothesis import strategies as st

import fastmask as fm
from fastmask import layers

from .arrays import DAMAGES, OBJECTS, damaged
from .calls import DOCUMENTED, examples

ORDERS = (*DOCUMENTED, RuntimeError, NotImplementedError)  # RuntimeError: not compiled, or used up


def small_model(compiled=True):
    """A tagger of three classes."""
    fm.utils.set_random_seed(1)
    model = fm.Sequential([layers.Embedding(6, 3, mask_zero=True), layers.GRU(4, return_sequences=True),
                           layers.Dense(3, activation="softmax")])
    model.build((None, None))
    if compiled:
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def good_data():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 6, (5, 4))
    return {"x": x, "y": rng.integers(0, 3, (5, 4)), "sample_weight": rng.random(5)}


@pytest.mark.parametrize("method", ["fit", "train_on_batch", "test_on_batch", "evaluate", "predict"])
@examples(60)
@given(st.data())
def test_data(method, data):
    """A refused batch has trained nothing, and the model works on."""
    model = small_model()
    arguments = good_data()
    if method == "predict":
        arguments = {"x": arguments["x"]}
    for name in data.draw(st.lists(st.sampled_from(sorted(arguments)), min_size=1, max_size=2, unique=True)):
        arguments[name] = damaged(data, arguments[name], data.draw(st.sampled_from(DAMAGES)))
    extra = {"epochs": 1, "batch_size": 5} if method == "fit" else {}
    note(f"{method}: {arguments}")
    before = model.get_weights()
    with np.errstate(all="ignore"):
        try:
            getattr(model, method)(**arguments, **({"verbose": 0} if "on_batch" not in method else {}), **extra)
        except DOCUMENTED:
            for actual, expected in zip(model.get_weights(), before, strict=True):
                assert_same_bits(actual, expected)
    assert model.predict(good_data()["x"], verbose=0).shape == (5, 4, 3)


@pytest.mark.parametrize("name", ["batch_size", "epochs", "validation_split", "class_weight", "initial_epoch",
                                  "steps_per_epoch", "validation_data", "callbacks", "shuffle"])
@pytest.mark.parametrize("value", OBJECTS)
@pytest.mark.filterwarnings("ignore:x has run out of batches")
def test_options_of_fit(name, value):
    if name == "epochs" and isinstance(value, int) and value > 100:
        pytest.skip("would train for ever, as asked for")
    model = small_model()
    data = good_data()
    try:
        model.fit(data["x"], data["y"], verbose=0, **{name: value})
    except DOCUMENTED as error:
        check_message(error)


METHODS = ("compile", "fit", "evaluate", "predict", "train_on_batch", "get_weights", "summary", "count_params",
           "reset_states", "get_config", "build")  # fmt: skip


@examples(60)
@given(st.lists(st.sampled_from(METHODS), max_size=6), st.booleans())
def test_any_order_of_calls(names, built):
    model = small_model(compiled=False) if built else fm.Sequential([layers.Embedding(6, 3), layers.LSTM(2)])
    data = good_data()
    y = data["y"] if built else np.zeros((5, 2))
    arguments = {
        "compile": ("sgd", "sparse_categorical_crossentropy" if built else "mse"), "fit": (data["x"], y),
        "evaluate": (data["x"], y), "predict": (data["x"],), "train_on_batch": (data["x"], y), "build": ((None, 4),),
    }  # fmt: skip
    for name in names:
        try:
            keywords = {"verbose": 0} if name in ("fit", "evaluate", "predict") else {}
            if name == "summary":
                keywords = {"print_fn": str}
            getattr(model, name, lambda: None)(*arguments.get(name, ()), **keywords)
        except ORDERS as error:
            check_message(error)
    assert model.predict(data["x"], verbose=0).shape[0] == 5


LOSSES = ("mse", "mae", "huber", "log_cosh", "binary_crossentropy", "categorical_crossentropy",
          "sparse_categorical_crossentropy", "kl_divergence", "poisson", "hinge", "cosine_similarity")
METRICS = ("accuracy", "binary_accuracy", "sparse_categorical_accuracy", "top_k_categorical_accuracy", "AUC",
           "Precision", "mse", "Perplexity")  # fmt: skip


@pytest.mark.parametrize("name", [*(f"losses.{n}" for n in LOSSES), *(f"metrics.{n}" for n in METRICS)])
@examples(25)
@given(st.data())
def test_losses_and_metrics(name, data):
    """A refused call changes no state of a metric."""
    module, _, short = name.partition(".")
    made = getattr(fm, module).get(short)
    rng = np.random.default_rng(data.draw(st.integers(0, 100)))
    prediction = rng.random((4, 3)).astype(np.float32)
    arguments = [rng.integers(0, 3, 4) if "sparse" in name or name.endswith("ity") else rng.random((4, 3)), prediction]
    arguments.append(rng.random(4) if data.draw(st.booleans()) else None)
    for i in data.draw(st.lists(st.integers(0, 2), max_size=2, unique=True)):
        arguments[i] = damaged(data, arguments[i], data.draw(st.sampled_from(DAMAGES)))
    note(f"{name}{arguments}")
    with np.errstate(all="ignore"):
        if module == "losses":
            call(made, *arguments)
            return
        before = made.result()
        if not call(made.update_state, *arguments):
            np.testing.assert_array_equal(made.result(), before)


def check_message(error):
    """An exception says something."""
    assert str(error)


def call(function, *arguments):
    """Whether the call went through; a documented exception if not."""
    try:
        function(*arguments)
    except DOCUMENTED as error:
        check_message(error)
        return False
    return True


@examples(60)
@given(st.data())
def test_pad_sequences(data):
    rows = [data.draw(st.sampled_from([[1, 2], [3], [], np.ones((2, 2)), *OBJECTS])) for _ in range(3)]
    options = {name: data.draw(st.sampled_from(values)) for name, values in (
        ("maxlen", [None, 0, 2, -1, 2.5, "2"]), ("dtype", ["int32", "float32", "nonsense", object]),
        ("padding", ["pre", "post", "left", None]), ("value", [0, -1.5, None, "a", float("nan")]))}
    note(f"{rows} {options}")
    call(lambda: fm.utils.pad_sequences(rows, **options))


@examples(60)
@given(st.data())
def test_to_categorical(data):
    labels = damaged(data, np.array([[0, 2], [1, 1]]), data.draw(st.sampled_from(DAMAGES)))
    count = data.draw(st.sampled_from([None, 3, 0, -1, 2.5, "3", 10**30]))
    note(f"{labels} {count}")
    call(fm.utils.to_categorical, labels, count)
