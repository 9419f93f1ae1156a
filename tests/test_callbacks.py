"""Callbacks: hooks, guards, modes, the bar, errors; tests/keras_parity holds the rest against Keras."""

import csv

import numpy as np
import pytest

import fastmask as fm
from fastmask import callbacks, layers
from fastmask.callbacks.progress import count_per_second

X, Y = np.ones((4, 2), "float32"), np.zeros((4, 1), "float32")


def make(**options):
    model = fm.Sequential([layers.Dense(1, input_shape=(2,))])
    model.compile(**{"optimizer": "sgd", "loss": "mse"} | options)
    return model


def fit(*given, epochs=3, **options):
    model = make(**options)
    model.fit(X, Y, batch_size=2, epochs=epochs, callbacks=given, verbose=0)
    return model


class Put(callbacks.Callback):
    """Replaces the logs of an epoch."""

    def __init__(self, **logs):
        self.logs = logs

    def on_epoch_end(self, epoch, logs=None):
        logs.update({key: values[epoch] for key, values in self.logs.items()})


def test_lambda_callback():
    seen = []
    hooks = ("on_epoch_begin", "on_train_batch_end", "on_train_end")
    functions = {name: lambda *args, name=name: seen.append((name, args[0])) for name in hooks}
    fit(callbacks.LambdaCallback(**functions), epochs=1)
    assert [name for name, _ in seen] == [hooks[0], *[hooks[1]] * 2, hooks[2]]
    tested = []
    callback = callbacks.LambdaCallback(on_test_begin=lambda logs: tested.append(logs))
    make().evaluate(X, Y, callbacks=[callback], verbose=0)
    assert tested == [{}]
    with pytest.raises(TypeError, match="kwargs: expected functions for hooks of Callback, got one for 'on_fire'"):
        callbacks.LambdaCallback(on_fire=print)


def test_batches_under_their_other_names():
    class Old(callbacks.Callback):
        seen = 0

        def on_batch_begin(self, batch, logs=None):
            self.seen += 1

        def on_batch_end(self, batch, logs=None):
            self.seen += 10

    old = Old()
    fit(old, epochs=1)
    assert old.seen == 22


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_terminate_on_nan(bad, capsys):
    def poison(batch, logs):
        if batch == 1:
            logs["loss"] = bad

    lamb = callbacks.LambdaCallback(on_train_batch_end=poison)
    model = fit(lamb, callbacks.TerminateOnNaN())
    assert model.history.epoch == [0]
    assert capsys.readouterr().out == "Batch 1: Invalid loss, terminating training\n"
    with pytest.raises(RuntimeError, match=f"the loss is {bad} at batch 1"):
        fit(lamb, callbacks.TerminateOnNaN(raise_error=True))


def test_auto_mode_asks_the_metric():
    values = [0.5, 0.75, 0.25]
    stop = callbacks.EarlyStopping("own", patience=5)
    metric = fm.metrics.MeanSquaredError(name="own")
    fit(Put(own=values), stop, metrics=[metric])
    assert stop.best == 0.25
    for name, best in (("auc", 0.75), ("out_auc", 0.75), ("out_loss", 0.25), ("my_acc", 0.75)):
        stop = callbacks.EarlyStopping(name, patience=5)
        fit(Put(**{name: values}), stop, metrics=[fm.metrics.AUC(name="auc")])
        assert stop.best == best, name
    with pytest.raises(ValueError, match="mode: expected 'min' or 'max' for monitor='speed'"):
        fit(Put(speed=values), callbacks.EarlyStopping("speed"))


def test_early_stopping_waits_for_validation():
    stop = callbacks.EarlyStopping(patience=1)
    model = make()
    options = {"validation_data": (X, Y), "validation_freq": 2, "epochs": 4, "verbose": 0}
    with pytest.warns(UserWarning, match=r"EarlyStopping passes over epoch [13], which has no 'val_loss'"):
        model.fit(X, Y, callbacks=[stop], **options)
    assert model.history.epoch == [0, 1, 2, 3]
    assert stop.best == model.history.history["val_loss"][-1]


def test_schedule_of_the_epoch_alone_and_wrong_results():
    model = fit(callbacks.LearningRateScheduler(lambda epoch: 0.5**epoch))
    assert model.history.history["learning_rate"] == [1.0, 0.5, 0.25]
    with pytest.raises(TypeError, match="schedule: expected a function that returns a float, got one that returned 1"):
        fit(callbacks.LearningRateScheduler(lambda epoch, rate: 1))


def test_csv_logger_closes_and_starts_again(tmp_path):
    logger = callbacks.CSVLogger(tmp_path / "log.csv")
    model = fit(logger, epochs=2)
    model.fit(X, Y, epochs=1, callbacks=[logger], verbose=0)
    assert logger.file is None
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["epoch", "loss", "val_loss"]
    assert rows[1:] == [["0", str(model.history.history["loss"][0]), "NA"]]


def test_several_numbers_in_the_logs(tmp_path, capsys):
    model = make(metrics=[fm.metrics.Precision(thresholds=[0.25, 0.5], name="p")])
    logger = callbacks.CSVLogger(tmp_path / "log.csv")
    model.fit(X, Y, callbacks=[logger], verbose=2)
    assert "p: 0.0000e+00, 0.0000e+00" in capsys.readouterr().out
    assert '"[0.0, 0.0]"' in (tmp_path / "log.csv").read_text().replace('""', '"')


def test_tokens_per_second(capsys):
    texts = [count_per_second(n, 1.0) for n in (5, 950, 1234, 45678, 456789, 7890000)]
    assert texts == ["5", "950", "1.23k", "45.7k", "457k", "7.89M"]
    model = fm.Sequential([layers.Embedding(5, 2, mask_zero=True), layers.LSTM(2), layers.Dense(1)])
    model.compile("sgd", "mse")
    ids = np.array([[1, 2, 0], [3, 0, 0]])
    model.fit(ids, Y[:2], verbose=1)
    model.fit(ids, Y[:2], verbose=2)
    streams = capsys.readouterr()
    assert "tokens/s" in streams.err
    assert "tokens/s" in streams.out
    assert model.tokens_seen == 3


def test_without_a_terminal_all_is_quiet(capsys):
    model = make()
    model.fit(X, Y, validation_split=0.5)
    model.evaluate(X, Y)
    model.predict(X)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: callbacks.EarlyStopping(mode="best"), "mode: expected 'auto', 'min' or 'max'"),
        (lambda: callbacks.ReduceLROnPlateau(factor=1.0), "factor: expected a number below 1, got 1.0"),
        (lambda: callbacks.ModelCheckpoint("x.h5"), r"filepath: expected one that ends in \.keras with"),
        (lambda: callbacks.ModelCheckpoint("x.h5", save_weights_only=True), r"expected one that ends in \.weights\.h5"),
        (lambda: callbacks.ModelCheckpoint("x.keras", save_freq=0), "save_freq: expected 'epoch' or"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_checkpoint_of_an_unknown_number(tmp_path):
    checkpoint = callbacks.ModelCheckpoint(tmp_path / "{speed}.keras")
    with pytest.raises(KeyError, match="names 'speed'; the logs have epoch, loss"):
        fit(checkpoint)


def test_checkpoints_are_files_that_load(tmp_path):
    pytest.importorskip("h5py")
    checkpoint = callbacks.ModelCheckpoint(tmp_path / "{epoch}" / "x.weights.h5", save_weights_only=True)
    model = fit(checkpoint, epochs=2)
    other = make()
    other.load_weights(tmp_path / "2" / "x.weights.h5")
    np.testing.assert_array_equal(other.predict(X), model.predict(X))


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: fm.optimizers.AdamW(fm.optimizers.schedules.CosineDecay(0.1, 50), clipnorm=1.0),
        lambda: fm.optimizers.RMSprop(0.1, momentum=0.5, centered=True),
        lambda: fm.optimizers.Nadam(fm.optimizers.schedules.PiecewiseConstantDecay([3], [0.1, 0.2])),
        lambda: fm.optimizers.Adadelta(0.5),
        lambda: fm.optimizers.Adagrad(0.1),
    ],
)
def test_training_goes_on_from_a_checkpoint(tmp_path, optimizer):
    pytest.importorskip("h5py")
    checkpoint = callbacks.ModelCheckpoint(tmp_path / "x.keras", "loss", save_best_only=True)
    model = fit(checkpoint, epochs=2, optimizer=optimizer(), loss=fm.losses.Huber(0.5), metrics=["mae"])
    again = fm.models.load_model(tmp_path / "x.keras")
    assert again.optimizer.learning_rate == model.optimizer.learning_rate
    for _ in range(2):
        assert again.train_on_batch(X, Y) == model.train_on_batch(X, Y)
    np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])
