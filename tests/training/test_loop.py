"""fit, evaluate and predict: batches, validation, History, callbacks, bars, interruption, errors."""

import pickle
import signal
import time

import numpy as np
import pytest

import fastmask as fm
from fastmask import callbacks, layers


def make(**options):
    fm.utils.set_random_seed(5)
    model = fm.Sequential([layers.Dense(1, input_shape=(2,))])
    options = {"optimizer": "sgd", "loss": "mse"} | options
    model.compile(**options)
    return model


def make_data(count=10):
    x = np.random.default_rng(0).normal(size=(count, 2)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


def test_history():
    model = make(metrics=["mse", "mae"])
    x, y = make_data()
    history = model.fit(x, y, batch_size=4, epochs=3, initial_epoch=1, validation_split=0.25)
    assert history is model.history
    assert history.epoch == [1, 2]
    keys = ["loss", "mae", "mse"]
    assert list(history.history) == keys + [f"val_{key}" for key in keys]
    assert all(len(values) == 2 for values in history.history.values())
    assert history.params == {"verbose": "auto", "epochs": 3, "steps": 2}
    assert history.history["loss"] == pytest.approx(history.history["mse"])


def test_validation_split_takes_the_last_rows():
    x, y = make_data()
    split, given = make(), make()
    first = split.fit(x, y, epochs=2, validation_split=0.35, verbose=0).history
    second = given.fit(x[:6], y[:6], epochs=2, validation_data=(x[6:], y[6:]), verbose=0).history
    assert first == second
    weights = np.arange(4.0)
    model = make()
    logs = model.fit(x[:6], y[:6], validation_data=(x[6:], y[6:], weights), verbose=0).history
    assert logs["val_loss"] == [model.evaluate(x[6:], y[6:], sample_weight=weights, verbose=0)]


def test_validation_freq():
    x, y = make_data()
    data = {"validation_data": (x, y), "epochs": 5, "verbose": 0}
    assert len(make().fit(x, y, validation_freq=2, **data).history["val_loss"]) == 2
    assert len(make().fit(x, y, validation_freq=[1, 4, 5], **data).history["val_loss"]) == 3


def test_shuffling_is_seeded_and_can_be_turned_off():
    x, y = make_data()

    def weights(**options):
        model = make()
        fm.utils.set_random_seed(9)
        model.fit(x, y, batch_size=1, epochs=2, verbose=0, **options)
        return model.get_weights()[0].tolist()

    assert weights() == weights()
    assert weights() != weights(shuffle=False)
    model = make()
    for _ in range(2):
        for i in range(10):
            model.train_on_batch(x[i : i + 1], y[i : i + 1])
    assert weights(shuffle=False) == model.get_weights()[0].tolist()


def test_steps_per_epoch_goes_on_through_the_rows():
    x, y = make_data()
    by_steps, by_epochs = make(), make()
    with pytest.warns(UserWarning, match="x has run out of batches after 1 of 2 steps"):
        by_steps.fit(x, y, batch_size=2, epochs=6, steps_per_epoch=2, shuffle=False, verbose=0)
    by_epochs.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_array_equal(by_steps.get_weights()[0], by_epochs.get_weights()[0])
    assert by_steps.history.params["steps"] == 2
    found = by_steps.evaluate(x, y, batch_size=2, steps=3, verbose=0)
    assert found == pytest.approx(by_steps.evaluate(x[:6], y[:6], verbose=0))
    assert by_steps.predict(x, batch_size=2, steps=3).shape == (6, 1)
    assert by_steps.predict(x, batch_size=2, steps=9).shape == (10, 1)
    logs = by_steps.fit(
        x, y, epochs=2, validation_split=0.4, validation_batch_size=1, validation_steps=2, verbose=0
    ).history
    found = by_steps.evaluate(x[6:8], y[6:8], verbose=0)
    assert logs["val_loss"][-1] == pytest.approx(found)


def test_streams_of_batches():
    x, y = make_data()
    arrays, stream, generator = make(), make(), make()
    batches = [(x[i : i + 4], y[i : i + 4]) for i in range(0, 10, 4)]

    class Loader:
        def __iter__(self):
            return iter(batches)

        def __len__(self):
            return len(batches)

    def forever():
        while True:
            yield from batches

    arrays.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    stream.fit(Loader(), epochs=2, verbose=0, validation_data=Loader())
    generator.fit(forever(), epochs=2, steps_per_epoch=3, verbose=0)
    for model in (stream, generator):
        np.testing.assert_array_equal(model.get_weights()[0], arrays.get_weights()[0])
    assert stream.history.params["steps"] == 3
    assert stream.evaluate(Loader(), verbose=0) == pytest.approx(
        stream.history.history["val_loss"][-1]
    )
    np.testing.assert_array_equal(stream.predict(Loader()), stream.predict(x))
    np.testing.assert_array_equal(stream.predict(b for b, _ in batches), stream.predict(x))
    with pytest.raises(ValueError, match="x: expected batches in every epoch"):
        make().fit(iter(batches), epochs=2, verbose=0)
    with pytest.warns(UserWarning, match="x has run out of batches after 3 of 4 steps"):
        make().fit(iter(batches), steps_per_epoch=4, verbose=0)


def test_lines_and_bars(capsys):
    x, y = make_data()
    model = make(metrics=["mae"])
    model.fit(x, y, batch_size=4, epochs=2, verbose=2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Epoch 1/2"
    assert lines[1].startswith("3/3 - 0s - ")
    assert "ms/step - loss: " in lines[1]
    assert " - mae: " in lines[1]
    model.fit(x, y, batch_size=4, verbose=1)
    model.evaluate(x, y, verbose=1)
    model.predict(x, verbose=1)
    streams = capsys.readouterr()
    assert streams.out == ""
    for part in ("Epoch 1/1", "3/3", "loss: ", "mae: ", "Evaluate", "Predict"):
        assert part in streams.err
    model.fit(x, y, verbose=0)
    model.predict(x)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("verbose", [0, 1])
def test_an_interrupted_model_can_be_used(verbose):
    class Interrupt(callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                raise KeyboardInterrupt

    x, y = make_data()
    model = make(optimizer="adam")
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, batch_size=2, epochs=3, callbacks=[Interrupt()], verbose=verbose)
    assert model.history.epoch == []
    assert model.optimizer.iterations == 3
    before = model.evaluate(x, y, verbose=0)
    model.fit(x, y, batch_size=2, epochs=3, verbose=verbose)
    assert model.evaluate(x, y, verbose=0) < before
    assert np.isfinite(model.predict(x)).all()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs an interval timer")
def test_an_interrupt_may_come_at_any_time():
    def interrupt(number, frame):
        raise KeyboardInterrupt

    class Late(callbacks.Callback):
        """Ends what an interrupt has not ended."""

        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = time.monotonic() > begin + 20

    begin = time.monotonic()
    rng = np.random.default_rng(1)
    x = [rng.normal(size=(n, 8)) for n in rng.integers(1, 40, size=64)]
    y = rng.normal(size=(64, 1))
    model = fm.Sequential([layers.LSTM(64, input_shape=(None, 8)), layers.Dense(1)])
    model.compile("adam", "mse")
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for delay in (0.02, 0.031, 0.043):
            signal.setitimer(signal.ITIMER_REAL, delay)
            with pytest.raises(KeyboardInterrupt):
                model.fit(x, y, epochs=10**6, verbose=0, callbacks=[Late()])
    finally:
        signal.signal(signal.SIGALRM, before)
    losses = model.fit(x, y, epochs=30, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_compiling_again_keeps_the_weights():
    x, y = make_data()
    model = make()
    model.fit(x, y, verbose=0)
    before = model.get_weights()[0]
    model.compile("adam", "mae", metrics=["mse"], run_eagerly=True, jit_compile=False)
    np.testing.assert_array_equal(model.get_weights()[0], before)
    assert model.optimizer.iterations == 0
    assert list(model.fit(x, y, verbose=0).history) == ["loss", "mse"]


def test_nested_lists_are_arrays():
    x, y = make_data(3)
    expected = make().train_on_batch(x, y)
    assert make().train_on_batch(x.tolist(), y.tolist()) == expected
    assert make().train_on_batch(x, y[:, 0].tolist()) == expected
    labels = [[0, 1], [1, 0]]
    fm.utils.set_random_seed(1)
    first = tagger()
    second = tagger()
    second.set_weights(first.get_weights())
    ids = np.array([[1, 2], [3, 1]])
    assert first.train_on_batch(ids, labels) == second.train_on_batch(ids, np.array(labels))


def test_a_pickled_model_trains_on():
    x, y = make_data()
    model = make(optimizer="adam", metrics=["mae"])
    model.fit(x, y, shuffle=False, verbose=0)
    again = pickle.loads(pickle.dumps(model))
    for one in (model, again):
        one.fit(x, y, shuffle=False, verbose=0)
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    assert again.history.history == model.history.history


def test_weighted_metrics_of_the_same_name():
    x, y = make_data(2)
    model = make(metrics=["mae"], weighted_metrics=["mae"])
    logs = model.evaluate(x, y, sample_weight=[1.0, 0.0], verbose=0, return_dict=True)
    error = np.abs(model.predict(x) - y)[:, 0]
    assert logs["mae"] == pytest.approx(error.mean(), rel=1e-5)
    assert logs["weighted_mae"] == pytest.approx(error[0], rel=1e-5)


X, Y = make_data(4)
IDS = [[1, 2], [3]]


def tagger():
    model = fm.Sequential([layers.Embedding(5, 2, mask_zero=True), layers.Dense(2, "softmax")])
    model.compile(loss="sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fm.Sequential([layers.Dense(1)]).fit(X, Y), "compiled: call compile.. before fit"),
        (lambda: make(loss=None).fit(X, Y), "loss: expected one in compile"),
        (lambda: make(loss="mes"), "loss: expected one of .*mse.*got 'mes'"),
        (lambda: make(optimizer="adm"), "optimizer: expected one of .*adam.*got 'adm'"),
        (lambda: make(metrics=["acuracy"]), "metric: expected one of .*accuracy"),
        (lambda: make(loss=fm.losses.MeanSquaredError(reduction="none")), "loss: expected one number to train with"),
        (lambda: make().fit(X, Y[:3]), "x, y: expected the same number of rows, got 4 and 3"),
        (lambda: make().fit(X, Y, sample_weight=[1.0]), "x, sample_weight: expected"),
        (lambda: make().fit(X, np.ones((4, 3))), r"y: expected one value per output.* \(..., 1\)"),
        (lambda: make().fit(X), "y: expected targets"),
        (lambda: make().fit(X, Y, batch_size=0), "batch_size: expected a positive integer, got 0"),
        (lambda: make().fit(X, Y, epochs=1.5), "epochs: expected an integer of at least 0, got 1.5"),
        (lambda: make().fit(X, Y, validation_freq=0), "validation_freq: expected a positive integer or several, got 0"),
        (lambda: make().fit(X, Y, verbose=3), "verbose: expected 'auto', 0, 1 or 2, got 3"),
        (lambda: make().fit(X, Y, validation_split=1.0), "validation_split: expected a number of at least 0"),
        (lambda: make().fit(X, Y, validation_split=0.9), "validation_split: expected a fraction that leaves rows"),
        (lambda: make().fit(X, Y, validation_data=X), "validation_data: expected a tuple"),
        (lambda: make().fit(X, Y, class_weight={}, sample_weight=Y), "class_weight, sample_weight: expected at most"),
        (lambda: make().fit(iter([(X, Y)]), Y), "y: expected None when x is an iterable"),
        (lambda: make().fit(iter([(X, Y)]), validation_split=0.5), "validation_split: expected 0"),
        (lambda: tagger().fit(IDS, [[0, 1], [0, 1]]), "y: expected one entry for each step"),
        (lambda: tagger().fit(IDS, np.zeros((2, 3))), "y: expected one entry per step"),
        (lambda: tagger().fit(np.ones((2, 3), int), [0, 1]), "y: expected one entry per step"),
        (lambda: tagger().fit(np.ones((2, 3), int), IDS), "y: expected entries of one shape, unless"),
        (lambda: tagger().fit(IDS, [[0, 7], [1]]), "y: expected classes from 0 to 1, got class 7"),
        (lambda: tagger().fit(IDS, [[0, 0.5], [1]]), "y: expected class numbers, got 0.5"),
        (lambda: tagger().fit(IDS, [[0, np.nan], [1]]), "y: expected class numbers, got nan"),
        (lambda: tagger().fit(IDS, IDS, sample_weight=[[1.0], [1.0]]), "sample_weight: expected one"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_wrong_types():
    for given in ([1.0, 2.0], {"0": 1.0}, {0: "1"}):
        with pytest.raises(TypeError, match="class_weight: expected a map from class numbers to weights"):
            make().fit(X, Y, class_weight=given)
    with pytest.raises(TypeError, match=r"y\[0\]: expected numbers, got text such as '0'; words and classes must be"):
        make().fit(X, list("0123"))
    with pytest.raises(TypeError, match=r"callbacks: expected objects of classes in fastmask.callbacks, or others"):
        make().fit(X, Y, callbacks=[print])


def test_metrics_of_one_name_are_numbered():
    x, y = make_data()
    logs = make(metrics=["mae", "mae"]).evaluate(x, y, verbose=0, return_dict=True)
    assert list(logs) == ["loss", "mae", "mae_1"]
