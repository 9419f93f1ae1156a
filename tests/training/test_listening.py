"""What callbacks hear during fit, evaluate and predict, and how they end it."""

import numpy as np
import pytest

from fastmask import callbacks

from .test_loop import make, make_data


class Recorder(callbacks.Callback):
    """Notes the hooks that are called."""

    def __init__(self):
        self.calls = []

    def __getattribute__(self, name):
        if name.startswith("on_"):
            self.calls.append(name)
        return super().__getattribute__(name)


def test_order_of_callbacks():
    recorder, (x, y) = Recorder(), make_data(3)
    model = make()
    model.fit(x, y, batch_size=2, validation_data=(x, y), callbacks=[recorder], verbose=0)
    train = ["on_train_batch_begin", "on_train_batch_end"]
    test = ["on_test_batch_begin", "on_test_batch_end"]
    assert recorder.calls == [
        "on_train_begin",
        "on_epoch_begin",
        *train * 2,
        "on_test_begin",
        *test * 2,
        "on_test_end",
        "on_epoch_end",
        "on_train_end",
    ]
    assert recorder.model is model
    recorder.calls.clear()
    model.predict(x, callbacks=[recorder])
    assert recorder.calls == [
        "on_predict_begin",
        "on_predict_batch_begin",
        "on_predict_batch_end",
        "on_predict_end",
    ]


class Losses(callbacks.Callback):
    """Puts numbers of its own into the logs."""

    def __init__(self, values):
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.values[epoch]


@pytest.mark.parametrize(
    ("values", "options", "epochs", "best"),
    [
        ([3, 2, 2, 1], {}, 3, 1),
        ([3, 2, 4, 1, 5, 5], {"patience": 2}, 6, 3),
        ([3, 2.9, 2.8], {"min_delta": 0.5}, 2, 0),
        ([1, 2, 3, 0], {"mode": "max"}, 4, 2),
        ([5, 4, 4.5], {"baseline": 3.0, "patience": 1}, 3, 1),
        ([1, 2, 0, 1], {"start_from_epoch": 2}, 4, 2),
    ],
)
def test_early_stopping(values, options, epochs, best):
    stop = callbacks.EarlyStopping(**options)
    x, y = make_data()
    history = make().fit(x, y, epochs=len(values), callbacks=[Losses(values), stop], verbose=0)
    assert len(history.epoch) == epochs
    assert stop.best_epoch == best


def test_early_stopping_restores_the_best_weights():
    x, y = make_data()
    model = make()
    kept = []

    class Keep(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kept.append(self.model.get_weights()[0])

    stop = callbacks.EarlyStopping(patience=1, restore_best_weights=True)
    model.fit(x, y, epochs=4, callbacks=[Keep(), Losses([3, 1, 2, 2]), stop], verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], kept[1])


def test_early_stopping_passes_over_epochs_without_validation():
    x, y = make_data()
    stop = callbacks.EarlyStopping(min_delta=10)  # so that only the first look is an improvement
    model = make()
    with pytest.warns(UserWarning, match="passes over epoch [13], which has no 'val_loss', only loss"):
        model.fit(x, y, epochs=6, validation_split=0.2, validation_freq=2, callbacks=stop, verbose=0)
    assert (model.history.epoch, stop.best_epoch) == ([0, 1, 2, 3], 1)
    with pytest.raises(ValueError, match="monitor: expected one of loss, got 'val_mae'"):
        model.fit(x, y, callbacks=[callbacks.EarlyStopping("val_mae")], verbose=0)


def test_stop_training_ends_the_epoch():
    class Stop(callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    x, y = make_data()
    model = make()
    assert model.fit(x, y, batch_size=1, epochs=3, callbacks=[Stop()], verbose=0).epoch == [0]
    assert model.optimizer.iterations == 2


class Heard(callbacks.Callback):
    """Keeps the logs of every hook; stops what it is told to after the first batch."""

    def __init__(self, stop=None):
        self.logs, self.stop = [], stop

    def hear(self, name, *args):
        self.logs.append((name, dict(args[-1])))
        if name.endswith("batch_end") and self.stop:
            setattr(self.model, self.stop, True)

    def __getattribute__(self, name):
        if name.startswith("on_"):
            return lambda *args: self.hear(name, *args)
        return super().__getattribute__(name)


def test_on_train_end_gets_the_logs_of_the_last_epoch():
    x, y = make_data()
    heard = Heard()
    history = make().fit(x, y, epochs=2, validation_data=(x, y), callbacks=[heard], verbose=0).history
    assert heard.logs[-1] == ("on_train_end", {name: values[-1] for name, values in history.items()})
    assert list(heard.logs[-1][1]) == ["loss", "val_loss"]
    heard = Heard()
    make().fit(x, y, epochs=0, callbacks=[heard], verbose=0)
    assert heard.logs == [("on_train_begin", {}), ("on_train_end", {})]


def test_on_predict_batch_end_gets_the_outputs():
    x, _ = make_data(5)
    heard, model = Heard(), make()
    y = model.predict(x, batch_size=3, callbacks=[heard])
    shown = [logs["outputs"] for name, logs in heard.logs if name == "on_predict_batch_end"]
    np.testing.assert_array_equal(np.concatenate(shown), y)


def test_evaluation_and_prediction_stop_after_a_batch_when_told_to():
    x, y = make_data(6)
    model = make()
    stopped = model.evaluate(x, y, batch_size=2, callbacks=[Heard("stop_evaluating")], verbose=0)
    assert stopped == pytest.approx(model.evaluate(x[:2], y[:2], verbose=0))
    assert model.predict(x, batch_size=2, callbacks=[Heard("stop_predicting")]).shape == (2, 1)
    assert model.stop_predicting
    # The next call begins anew.
    assert model.predict(x, batch_size=2).shape == (6, 1)
    assert model.evaluate(x, y, batch_size=2, verbose=0) != stopped
    assert not model.stop_evaluating
    assert not model.stop_predicting


class Foreign:
    """Of no class of fastmask."""

    def __init__(self):
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append((epoch, logs["loss"], self.params["epochs"]))
        self.model.stop_training = epoch == 1


def test_any_object_with_the_methods_of_a_callback_is_one():
    x, y = make_data()
    foreign = Foreign()
    history = make().fit(x, y, epochs=5, callbacks=foreign, verbose=0)
    assert foreign.epochs == [(i, loss, 5) for i, loss in enumerate(history.history["loss"])]
    assert len(foreign.epochs) == 2
    for other in (print, "early", Foreign, object()):
        with pytest.raises(TypeError, match=r"callbacks: expected objects of classes in fastmask.callbacks, or others"):
            make().fit(x, y, callbacks=[other])


def test_the_state_of_other_objects_is_no_part_of_a_backup(tmp_path):
    x, y = make_data()
    backup = callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
    assert len(make().fit(x, y, epochs=5, callbacks=[backup, Foreign()], verbose=0).epoch) == 2
    assert len(make().fit(x, y, epochs=5, callbacks=[backup, Foreign()], verbose=0).epoch) == 2
