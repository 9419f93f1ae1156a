"""Datasets read ahead by threads: order, shuffling, errors, shutdown, epochs of some steps."""

import threading
import time

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers
from fastmask.batch.dataset import read_ahead

ROWS, SIZE = 11, 3
X = np.random.default_rng(0).normal(size=(ROWS, 2)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


class Slices(fm.utils.PyDataset):
    """Batches of `SIZE` rows; the first ones take longest."""

    def __init__(self, fail=None, **options):
        super().__init__(**options)
        self.fail = fail
        self.asked, self.threads, self.epochs = [], set(), 0

    def __len__(self):
        return -(-ROWS // SIZE)

    def __getitem__(self, index):
        time.sleep(0.002 * (len(self) - index))
        self.asked.append(index)
        self.threads.add(threading.current_thread().name)
        if index == self.fail:
            raise OSError(f"batch {index} cannot be read")
        chosen = slice(index * SIZE, (index + 1) * SIZE)
        return X[chosen], Y[chosen]

    def on_epoch_end(self):
        self.epochs += 1


def make():
    fm.utils.set_random_seed(3)
    model = fm.Sequential([layers.Dense(1, input_shape=(2,))])
    model.compile("sgd", "mse")
    return model


def workers():
    return [t for t in threading.enumerate() if t.name.startswith("fastmask-data")]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_order_and_results(count):
    expected, model, data = make(), make(), Slices(workers=count)
    expected.fit(X, Y, batch_size=SIZE, epochs=2, shuffle=False, verbose=0)
    model.fit(data, epochs=2, shuffle=False, verbose=0, validation_data=Slices(workers=count))
    np.testing.assert_array_equal(model.get_weights()[0], expected.get_weights()[0])
    np.testing.assert_array_equal(model.predict(data), model.predict(X))
    assert model.evaluate(data, verbose=0) == pytest.approx(model.history.history["val_loss"][-1])
    assert data.epochs == 4
    assert model.history.params["steps"] == len(data) == data.num_batches
    assert any(name.startswith("fastmask-data") for name in data.threads) == (count > 0)
    assert not workers()


def test_shuffling_is_seeded():
    orders = []
    for seed in (1, 1, 2):
        data, model = Slices(workers=0), make()
        fm.utils.set_random_seed(seed)
        model.fit(data, epochs=3, verbose=0)
        orders.append(data.asked)
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0][:4]) == [0, 1, 2, 3]
    data = Slices(workers=0)
    make().evaluate(data, verbose=0)
    assert data.asked == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [0, 2])
def test_errors_come_through(count):
    data, model = Slices(fail=2, workers=count), make()
    with pytest.raises(OSError, match="batch 2 cannot be read"):
        model.fit(data, shuffle=False, verbose=0)
    assert model.optimizer.iterations == 2
    assert not workers()


def test_leaving_early_stops_the_workers():
    class Stop(fm.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True

    class Interrupt(fm.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    make().fit(Slices(workers=2), callbacks=[Stop()], verbose=0)
    assert not workers()
    with pytest.raises(KeyboardInterrupt):
        make().fit(Slices(workers=2), callbacks=[Interrupt()], verbose=0)
    assert not workers()


def test_steps_go_on_through_the_batches():
    data, model = Slices(workers=1), make()
    sizes = []
    count = fm.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: sizes.append(batch))
    model.fit(data, epochs=4, steps_per_epoch=3, shuffle=False, callbacks=[count], verbose=0)
    assert sizes == [0, 1, 2, 0, 0, 1, 2, 0]  # an epoch ends where the batches end
    assert not workers()
    assert model.predict(data, steps=2).shape == (2 * SIZE, 1)


def test_no_more_than_the_queue_is_read_ahead():
    started = []
    results = read_ahead(started.append, range(100), workers=1, size=4)
    for _ in range(3):
        next(results)
    time.sleep(0.05)
    assert len(started) <= 3 + 4
    results.close()
    assert not workers()


def test_inputs_that_do_not_fit_in_memory(tmp_path):
    """Rows of a file, in and out batch by batch, in order."""
    path = tmp_path / "rows.bin"
    rows = np.memmap(path, dtype="float32", mode="w+", shape=(1000, 2))
    rows[:] = np.arange(2000).reshape(1000, 2) / 1000
    model = make()
    alive, outputs = [], []

    def stream():
        for start in range(0, 1000, 64):
            alive.append(start)
            yield np.array(rows[start : start + 64])

    for i, output in enumerate(model.predict_batches(stream())):
        assert len(alive) == i + 1  # nothing is read before it is needed
        outputs.append(output)
    np.testing.assert_array_equal(np.concatenate(outputs), model.predict(rows))
    np.testing.assert_array_equal(model.predict(stream()), model.predict(rows))
    blocks = [block.shape for block in model.predict_batches(rows, batch_size=300)]
    assert blocks == [(300, 1)] * 3 + [(100, 1)]


def test_a_generator_is_left_to_its_owner():
    def forever():
        while True:
            yield X, Y

    stream, model = forever(), make()
    for _ in range(2):
        model.fit(stream, steps_per_epoch=2, verbose=0)
    assert model.optimizer.iterations == 4
    assert next(stream)[0] is X


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Slices(workers=-1), "workers: expected a number of at least 0, got -1"),
        (lambda: Slices(max_queue_size=0), "max_queue_size: expected a number of at least 1, got 0"),
        (lambda: make().fit(Slices(), Y), "y: expected None when x is an iterable"),
        (lambda: make().fit(Slices(), batch_size=2), "batch_size: expected None when x is an iterable"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_must_be_overridden():
    with pytest.raises(NotImplementedError, match="PyDataset must override __len__"):
        len(fm.utils.PyDataset())
    with pytest.raises(NotImplementedError, match="PyDataset must override __getitem__"):
        fm.utils.PyDataset()[0]
    assert fm.utils.Sequence is fm.utils.PyDataset
