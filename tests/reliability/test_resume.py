"""A training that is interrupted and taken up again ends with the bits of one that was not."""

import random
import subprocess
import sys

import numpy as np
import pytest
from helpers.runs import BATCH, EPOCHS, ROWS, SOURCES, WORDS, Interrupt, compiled, environment, fit, rows, same_runs

import fastmask as fm
from fastmask import layers, optimizers
from fastmask.callbacks import (
    BackupAndRestore,
    EarlyStopping,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
)
from fastmask.random import global_generator
from fastmask.saving import FileFormatError

OPTIMIZERS = sorted(
    name for name in optimizers.__all__
    if isinstance(getattr(optimizers, name), type) and issubclass(getattr(optimizers, name), optimizers.Optimizer)
    and name != "Optimizer"
)  # fmt: skip


def resumed(folder, batches, make=compiled, callbacks=list, **arguments):
    """Train, interrupted after every `batches` batches, by a new model each time; return the last run."""
    save_freq = arguments.pop("save_freq", 1)
    for _ in range(100):
        backup = BackupAndRestore(folder, save_freq=save_freq, double_checkpoint=True)
        try:
            return fit(make(), [backup, *callbacks(), Interrupt(batches)], **arguments)
        except InterruptedError:
            assert list(folder.glob("*.npz"))
    raise AssertionError("the training does not end")


@pytest.mark.parametrize("save_freq", [1, 3, "epoch"])
@pytest.mark.parametrize("source", SOURCES)
def test_all_kinds_of_data(source, save_freq, tmp_path):
    whole = fit(compiled(), source=source)
    again = resumed(tmp_path / "backup", 13, source=source, save_freq=save_freq)
    same_runs(whole, again)
    assert whole[1].epoch == list(range(EPOCHS))
    assert not (tmp_path / "backup").exists()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_all_optimizers(name, tmp_path):
    def make():
        return compiled(getattr(optimizers, name)(0.01))

    same_runs(fit(make()), resumed(tmp_path, 7, make, save_freq=2))


def test_a_schedule(tmp_path):
    def make():
        return compiled(optimizers.SGD(optimizers.schedules.ExponentialDecay(0.1, 5, 0.9), momentum=0.9))

    same_runs(fit(make()), resumed(tmp_path, 4, make))


def test_stateful_layers(tmp_path):
    def make():
        return compiled(stateful=True)

    same_runs(fit(make(), shuffle=False), resumed(tmp_path, 5, make, shuffle=False))


@pytest.mark.parametrize("save_freq", [1, 4, "epoch"])
def test_callbacks_go_on(save_freq, tmp_path):
    """Plateaus, the best weights and a rate that shrinks at the begin of epochs are not forgotten."""

    def callbacks():
        return [
            LearningRateScheduler(lambda epoch, rate: 0.7 * rate),
            ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=0.05),
            EarlyStopping("val_loss", patience=2, min_delta=0.02, restore_best_weights=True),
            ModelCheckpoint(tmp_path / "best.keras", "val_loss", save_best_only=True),
        ]

    pytest.importorskip("h5py")
    whole = fit(compiled(), callbacks(), epochs=12, validation_split=0.2)
    again = resumed(tmp_path / "b", 20, callbacks=callbacks, epochs=12, validation_split=0.2, save_freq=save_freq)
    same_runs(whole, again)
    assert 2 < len(whole[1].epoch) < 12


DRAWS = {
    # Normal numbers come in pairs, one of which waits for the next call.
    "Python": lambda: random.gauss(0.0, 1.0),
    "NumPy": lambda: np.random.normal(),  # noqa: NPY002
    "fastmask": lambda: global_generator().normal(),
}


class Jolt(fm.callbacks.Callback):
    """Moves a weight at random before every batch."""

    def __init__(self, draw):
        self.draw = draw

    def on_train_batch_begin(self, batch, logs=None):
        with self.model.weights[-1].changing() as bias:
            bias += np.float32(0.1 * self.draw())


class Reordered:
    """An iterable that draws the order of its batches, and then, on its way, the weights of their rows."""

    def __init__(self, draw):
        self.draw = draw

    def __iter__(self):
        x, y = rows()
        for first in np.argsort([self.draw() for _ in range(ROWS // BATCH)]) * BATCH:
            yield x[first : first + BATCH], y[first : first + BATCH], np.full(BATCH, 1 + abs(self.draw()))


@pytest.mark.parametrize("save_freq", [4, "epoch"])
@pytest.mark.parametrize("name", DRAWS)
class TestGlobalGenerators:
    def test_between_batches(self, name, save_freq, tmp_path):
        def callbacks():
            return [Jolt(DRAWS[name])]

        whole = fit(compiled(), callbacks())
        same_runs(whole, resumed(tmp_path, 11, callbacks=callbacks, save_freq=save_freq))

    def test_behind_the_data(self, name, save_freq, tmp_path):
        data = {"x": Reordered(DRAWS[name]), "y": None, "batch_size": None}
        same_runs(fit(compiled(), **data), resumed(tmp_path, 11, save_freq=save_freq, **data))


class Noise(layers.Layer):
    """Adds numbers of a generator of its own while training."""

    def __init__(self, **options):
        super().__init__(**options)
        self.generator = np.random.default_rng(3)

    def noise(self, training):
        return np.float32(0.1 * self.generator.normal()) if training else np.float32(0)

    def call(self, x, training=False):
        return x + self.noise(training)

    def vjp(self, x, training=False):
        return x + self.noise(training), lambda dy: dy


def test_generators_of_layers(tmp_path):
    """Of a layer of the user's, and of dropout with a seed of its own."""

    def make():
        fm.utils.set_random_seed(5)
        model = fm.Sequential([
            fm.Input((None,), dtype="int32"), layers.Embedding(WORDS, 5, mask_zero=True),
            layers.LSTM(4, dropout=0.3, seed=8), layers.Dropout(0.3, seed=9), Noise(), layers.Dense(1),
        ])  # fmt: skip
        model.compile("adam", "mse", metrics=["mae"])
        return model

    same_runs(fit(make()), resumed(tmp_path, 7, make))


def test_a_stop_is_not_forgotten(tmp_path):
    """A training that was stopped and then killed, before its end was noted, trains no further."""

    class Killed(fm.callbacks.Callback):
        def on_train_end(self, logs=None):
            raise InterruptedError

    def callbacks():
        return [EarlyStopping("loss", patience=0, min_delta=10.0)]

    whole = fit(compiled(), callbacks())
    with pytest.raises(InterruptedError):
        fit(compiled(), [BackupAndRestore(tmp_path), *callbacks(), Killed()])
    same_runs(whole, fit(compiled(), [BackupAndRestore(tmp_path), *callbacks()]))
    assert whole[1].epoch == [0, 1]


def test_the_backup_goes_when_the_training_ends_unless_it_is_to_stay(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "other").touch()
    fit(compiled(), [BackupAndRestore(tmp_path / "a")])
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["other"]
    backup = BackupAndRestore(tmp_path / "b", delete_checkpoint=False)
    model, history = fit(compiled(), [backup])
    again = fit(compiled(), [backup])
    same_runs((model, history), again)


def test_a_longer_training_goes_on_from_the_backup(tmp_path):
    whole = fit(compiled(), epochs=5)
    fit(compiled(), [BackupAndRestore(tmp_path, delete_checkpoint=False)], epochs=2)
    same_runs(whole, fit(compiled(), [BackupAndRestore(tmp_path)], epochs=5))


def test_evaluation_within_the_training(tmp_path):
    class Evaluate(fm.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                self.model.predict(np.ones((3, 4), np.int32))

    same_runs(fit(compiled(), [Evaluate()]), resumed(tmp_path, 5, callbacks=lambda: [Evaluate()]))


@pytest.fixture
def interrupted(tmp_path):
    """A folder with the last two backups of a training."""
    with pytest.raises(InterruptedError):
        fit(compiled(), [BackupAndRestore(tmp_path, 1, double_checkpoint=True), Interrupt(11)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest.npz", "previous.npz"]
    return tmp_path


def test_a_damaged_backup_gives_way_to_the_one_before(interrupted):
    latest = interrupted / "latest.npz"
    latest.write_bytes(latest.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=r"latest.npz cannot be read, going on from previous.npz"):
        again = fit(compiled(), [BackupAndRestore(interrupted)])
    same_runs(fit(compiled()), again)


def test_a_missing_backup_gives_way_to_the_one_before(interrupted):
    """A process that is killed between the two renames leaves the older backup alone."""
    (interrupted / "latest.npz").unlink()
    same_runs(fit(compiled()), fit(compiled(), [BackupAndRestore(interrupted)]))


def test_a_training_does_not_silently_begin_anew(interrupted):
    (interrupted / "previous.npz").unlink()
    (interrupted / "latest.npz").write_bytes(b"PK")
    with pytest.raises(FileFormatError, match=r"latest\.npz"):
        fit(compiled(), [BackupAndRestore(interrupted)])


CHANGES = {
    "weights": lambda: fit_of(compiled(units=7)),
    "optimizer": lambda: fit_of(compiled("sgd")),
    "metrics": lambda: fit_of(compiled(metrics=["mse"])),
    "batch_size": lambda: fit_of(compiled(), batch_size=16),
    "rows": lambda: fit_of(compiled(), validation_split=0.5),
}


def fit_of(model, **arguments):
    return lambda folder: fit(model, [BackupAndRestore(folder)], **arguments)


@pytest.mark.parametrize("name", CHANGES)
def test_a_backup_of_another_training_is_refused(name, interrupted):
    run = CHANGES[name]()
    with pytest.raises(ValueError, match=f"^{name}(:| must be) .*as in the backup"):
        run(interrupted)


@pytest.mark.parametrize(("name", "value"), [("backup_dir", ""), *(("save_freq", v) for v in (0, "batch", True, 1.5))])
def test_arguments(name, value, tmp_path):
    with pytest.raises(ValueError, match=name):
        BackupAndRestore(**({"backup_dir": tmp_path} | {name: value}))


def test_a_model_without_shape_is_refused(tmp_path):
    model = fm.Sequential([layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="expected a built one"):
        model.fit(np.ones((4, 2)), np.ones((4, 1)), callbacks=[BackupAndRestore(tmp_path)])


KILLS = """
import os, random, signal, sys, time
import numpy as np
from helpers.runs import compiled, fit
from fastmask.callbacks import BackupAndRestore

folder, seed = sys.argv[1], int(sys.argv[2])
clock, kills = random.Random(seed), 0
while True:
    child = os.fork()
    if not child:
        model, history = fit(compiled(), [BackupAndRestore(folder, 1, double_checkpoint=seed % 2 == 1)], epochs=10)
        whole, expected = fit(compiled(), epochs=10)
        same = all(np.array_equal(a, b) for a, b in zip(model.get_weights(), whole.get_weights()))
        os._exit(0 if same and history.history == expected.history else 3)
    time.sleep(clock.uniform(0.03, 0.2))
    os.kill(child, signal.SIGKILL) if kills < 12 else None
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status):
        print(kills)
        sys.exit(os.WEXITSTATUS(status))
    kills += 1
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork here")
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_processes(seed, tmp_path):
    """A process that stores after every batch is killed at any moment, also while it stores."""
    command = [sys.executable, "-c", KILLS, str(tmp_path / "backup"), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 3
