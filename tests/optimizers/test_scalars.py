"""Weights that are single numbers, and learning rates that are set while a model trains."""

import copy
import json
import pickle

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers, optimizers
from fastmask.optimizers import schedules

NAMES = ("SGD", "RMSprop", "Adam", "AdamW", "LazyAdam", "Adagrad", "Adadelta", "Adamax", "Nadam", "Lion")
X, Y = np.arange(12.0).reshape(6, 2) / 10, np.ones((6, 2))


class Gain(layers.Layer):
    """Multiplies with one number, whose gradient it gives as one."""

    def build(self, input_shape):
        self.gain = self.add_weight((), "ones", "gain")

    def call(self, x):
        return x * self.gain.value

    def vjp(self, x):
        return x * self.gain.value, lambda dy: (dy * self.gain.value, [(dy * x).sum()])


def compiled(optimizer):
    model = fm.Sequential([fm.Input((2,)), Gain(name="gain")])
    model.compile(optimizer, "mse")
    return model


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"clipnorm": 0.1}, {"clipvalue": 0.1}, {"global_clipnorm": 0.1}])
@pytest.mark.parametrize("name", NAMES)
def test_a_scalar_takes_the_steps_of_an_array_of_one(name, options, dtype):
    make = getattr(optimizers, name)
    scalar, array = (layers.Variable(np.full(shape, 0.5, dtype), "w") for shape in ((), (1,)))
    for_scalar, for_array = make(0.1, **options), make(0.1, **options)
    for number in range(4):
        gradient = np.array([0.3 * number - 0.2], dtype)
        for_scalar.apply([gradient[0]], [scalar])
        for_array.apply([gradient], [array])
    assert scalar.shape == ()
    assert scalar.value == array.value[0] != 0.5


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_with_a_scalar_trains_and_goes_on_from_a_file(name, tmp_path):
    pytest.importorskip("h5py")
    model = compiled(getattr(optimizers, name)(0.01))
    model.fit(X, Y, epochs=2, shuffle=False, verbose=0)
    model.save(tmp_path / "m.keras")
    again = fm.models.load_model(tmp_path / "m.keras", {"Gain": Gain})
    for one in (model, again):
        one.fit(X, Y, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], again.get_weights()[0])
    assert model.get_weights()[0] != 1


@pytest.mark.parametrize("rate", [0.25, np.float32(0.25), np.float64(0.25), np.array(0.25), layers.Variable(0.25, "r")])
def test_numbers_that_a_learning_rate_can_be(rate):
    for optimizer in (optimizers.Adam(rate), optimizers.Adam(), optimizers.Adam()):
        optimizer.learning_rate = rate
        assert optimizer.learning_rate == 0.25
    optimizer = optimizers.Adam()
    optimizer.learning_rate.assign(rate)
    assert float(optimizer.learning_rate) == optimizer.learning_rate.numpy() == 0.25


@pytest.mark.parametrize("rate", ["0.1", None, True, np.array(True), np.array([0.1]), [0.1], -1, float("nan")])
def test_what_a_learning_rate_cannot_be(rate):
    optimizer = optimizers.Adam(0.5)
    for assign in (optimizer.learning_rate.assign, lambda value: setattr(optimizer, "learning_rate", value)):
        with pytest.raises(ValueError, match="learning_rate: expected a number of at least 0"):
            assign(rate)
    assert optimizer.learning_rate == 0.5


def test_a_learning_rate_is_a_number_for_all_else():
    rate = optimizers.Adam(0.25).learning_rate
    assert f"{rate:.3f} {rate}" == "0.250 0.25"
    for other in (copy.deepcopy(rate), pickle.loads(pickle.dumps(rate)), json.loads(json.dumps(rate))):
        assert type(other) is float
        assert other == 0.25


def test_a_schedule_cannot_be_overruled_by_a_number():
    optimizer = optimizers.SGD(schedules.ExponentialDecay(0.5, 1, 0.5))
    for assign in (optimizer.learning_rate.assign, lambda value: setattr(optimizer, "learning_rate", value)):
        with pytest.raises(TypeError, match="learning_rate cannot be set to a number"):
            assign(0.1)
    optimizer.learning_rate = schedules.ExponentialDecay(0.25, 1, 0.5)
    assert optimizer.learning_rate == 0.25


class Slower(fm.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        rate = self.model.optimizer.learning_rate
        rate.assign(rate / 2) if batch % 2 else setattr(self.model.optimizer, "learning_rate", rate * 0.5)


def test_a_callback_changes_the_rate_of_the_next_step():
    model = compiled(optimizers.SGD(0.1))
    model.fit(X, Y, batch_size=2, shuffle=False, verbose=0, callbacks=[Slower()])
    gain = 1.0
    for number in range(3):
        x, y = X[2 * number : 2 * number + 2], Y[:2]
        gain -= 0.1 / 2**number * (2 * (gain * x - y) * x).mean()
    np.testing.assert_allclose(model.get_weights()[0], gain, rtol=1e-6)
    assert model.optimizer.learning_rate == 0.1 / 8


def test_schedulers_log_plain_numbers():
    model = compiled(optimizers.SGD(0.1))
    callbacks = [fm.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5),
                 fm.callbacks.ReduceLROnPlateau("loss", patience=0, min_delta=10.0, factor=0.5)]  # fmt: skip
    history = model.fit(X, Y, epochs=3, verbose=0, callbacks=callbacks)
    assert history.history["learning_rate"] == [0.05, 0.025, 0.00625]
    assert {type(rate) for rate in history.history["learning_rate"]} == {float}
