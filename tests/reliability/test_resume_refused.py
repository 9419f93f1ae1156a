"""A backup that is refused changes nothing, whatever part of it is damaged; a good one is not taken for damaged."""

import copy
import random

import numpy as np
import pytest
from helpers.runs import BATCH, Batches, Interrupt, compiled, fit, same_runs

import fastmask as fm
from fastmask.callbacks import BackupAndRestore, Callback, EarlyStopping, ReduceLROnPlateau, resuming
from fastmask.saving import npz


class Counts(Callback):
    """A callback of the user's, which takes its state entry by entry."""

    def __init__(self):
        self.first = self.second = 0

    def state_dict(self):
        return {"first": self.first, "second": self.second}

    def load_state_dict(self, state):
        self.first = state["first"]
        self.second = state["second"] + 0

    def on_train_batch_end(self, batch, logs=None):
        self.first += 1
        self.second += 2


def callbacks():
    return [
        EarlyStopping("val_loss", patience=9, restore_best_weights=True),
        ReduceLROnPlateau("loss", patience=1, min_delta=0.05),
        Counts(),
    ]


def make():
    return compiled("nadam", stateful=True, metrics=("mae", fm.metrics.AUC(3, name="auc")))


ARGUMENTS = {"shuffle": False, "validation_split": 16 / 72, "epochs": 5}


@pytest.fixture(scope="module", params=["within an epoch", "between epochs"])
def backup(request, tmp_path_factory):
    """The content of a backup of a training of 7 batches per epoch."""
    folder = tmp_path_factory.mktemp("backup")
    freq, batches = (1, 11) if request.param == "within an epoch" else ("epoch", 15)
    with pytest.raises(InterruptedError):
        fit(make(), [BackupAndRestore(folder, freq), *callbacks(), Interrupt(batches)], **ARGUMENTS)
    return (folder / "latest.npz").read_bytes()


def numbers(model, listening):
    """Copies of all that a backup may change."""
    generators = [generator.bit_generator.state for layer in resuming._layers(model) for generator in
                  resuming._generators(layer)]  # fmt: skip
    metrics = [{k: v for k, v in vars(metric).items() if isinstance(v, (int, float, np.ndarray))}
               for metric in model.metrics]  # fmt: skip
    return copy.deepcopy({
        "weights": [variable.numpy() for variable in model.weights],
        "optimizer": [variable.numpy() for variable in model.optimizer.variables],
        "rate": model.optimizer.learning_rate,
        "metrics": metrics,
        "generators": generators,
        "states": [getattr(layer, "states", None) for layer in model.layers],
        "callbacks": [{k: v for k, v in vars(callback).items() if k not in ("model", "params")}
                      for callback in listening],
        "random": [fm.random.get_state(), random.getstate()],
    })  # fmt: skip


def same(first, second, place="all"):
    """Fail unless two structures hold the same numbers."""
    if isinstance(first, dict):
        assert list(first) == list(second), place
        for name in first:
            same(first[name], second[name], f"{place}/{name}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), place
        for number, (a, b) in enumerate(zip(first, second, strict=True)):
            same(a, b, f"{place}/{number}")
    else:
        np.testing.assert_array_equal(first, second, place)


def of_callback(name, change):
    """Change the state of a callback in a backup."""

    def changed(tree):
        state = next(state for kind, state in tree["callbacks"] if kind == name)
        change(state)

    return changed


DAMAGES = {
    "last weight": lambda tree: tree["weights"].__setitem__(-1, np.zeros(7)),
    "last slot": lambda tree: tree["slots"].__setitem__(-1, np.zeros((2, 2))),
    "last slot too large": lambda tree: tree["slots"].__setitem__(0, np.full(tree["slots"][0].shape, 1e300)),
    "a slot less": lambda tree: tree["slots"].pop(),
    "steps": lambda tree: tree.update(iterations=-3),
    "many steps": lambda tree: tree.update(iterations=2**80),
    "rate": lambda tree: tree.update(learning_rate=np.zeros(2)),
    "epoch": lambda tree: tree.update(epoch=-1),
    "metric": lambda tree: tree["metrics"][-1].pop("total", tree["metrics"][-1].popitem()),
    "metric of text": lambda tree: tree["metrics"][0].update(total="text"),
    "generator of a layer": lambda tree: generators_of(tree).pop(),
    "state of a generator": lambda tree: generators_of(tree).__setitem__(-1, {"bit_generator": "MT19937"}),
    "states": lambda tree: states_of(tree).__setitem__(-1, np.zeros((BATCH, 3), np.float32)),
    "one state": lambda tree: states_of(tree).pop(),
    "NumPy's generator": lambda tree: tree["random"].update(numpy={}),
    "Python's generator": lambda tree: tree["random"].update(python=[3, [1, 2], None]),
    "last callback": of_callback("Counts", lambda state: state.pop("second")),
    "last callback's number": of_callback("Counts", lambda state: state.update(second="text")),
    "history": of_callback("History", lambda state: state.pop("history")),
    "kind of history": of_callback("History", lambda state: state.update(history=3)),
    "best weights": of_callback("EarlyStopping", lambda state: state.update(best_weights=[np.zeros(3)])),
    "plateau": of_callback("ReduceLROnPlateau", lambda state: state.update(wait=[])),
    "validation data": lambda tree: tree["held_out"].update({"random": {}, "taken": 0, "rows": 16, "batch_size": 3}),
    "random state of the data": lambda tree: tree["position"].update({"random": {}, "taken": 1, "rows": 56,
                                                                      "batch_size": BATCH}),
}  # fmt: skip


def generators_of(tree):
    return [layer["random"] for layer in tree["layers"] if layer["random"]][-1]


def states_of(tree):
    return next(layer["states"] for layer in tree["layers"] if layer["states"])


@pytest.mark.parametrize("name", DAMAGES)
def test_nothing_changes(name, backup, tmp_path):
    path = tmp_path / "latest.npz"
    path.write_bytes(backup)
    tree = npz.read(path)
    DAMAGES[name](tree)
    npz.write(path, tree)
    unchanged(BackupAndRestore(tmp_path), tmp_path, **ARGUMENTS)


def unchanged(restoring, folder, model=None, expected=ValueError, **arguments):
    """Fail unless `fit` is refused and leaves all as it was; the first batch is never reached."""
    model, listening = model or make(), callbacks()
    model.optimizer.build(model.trainable_weights)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    before = numbers(model, listening)
    for callback in listening:  # what they do when a training begins is theirs
        callback.model = model
        callback.on_train_begin()
    before["callbacks"] = numbers(model, listening)["callbacks"]
    with pytest.raises(expected):
        fit(model, [*listening, Interrupt(0), restoring], **arguments)
    same(before, numbers(model, listening))
    assert model.place is None
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_data_that_end_early(tmp_path):
    """The middle of an epoch is found only after its begin; what was taken by then is given back."""

    class Short(Batches):
        def __len__(self):
            return 2

    def plain():
        return compiled(metrics=())

    with pytest.raises(InterruptedError):
        fit(plain(), [BackupAndRestore(tmp_path, 1), *callbacks(), Interrupt(5)], "dataset")
    unchanged(BackupAndRestore(tmp_path), tmp_path, plain(), x=Short(), y=None, batch_size=None)


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["fill", "set_state", "load_state_dict"])
def test_errors_of_the_machine(place, error, backup, tmp_path, monkeypatch):
    """Memory that is short and Ctrl-C stay what they are, and leave all as it was."""
    (tmp_path / "latest.npz").write_bytes(backup)
    model, calls = make(), []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise error("now")
        return kept(*arguments)

    if place == "fill":
        target, name = fm.layers.Variable, "checked"
    elif place == "set_state":
        target, name = fm.random, "set_state"
    else:
        target, name = Counts, "load_state_dict"
    kept = getattr(target, name)
    monkeypatch.setattr(target, name, fail)
    unchanged(BackupAndRestore(tmp_path), tmp_path, model, expected=error, **ARGUMENTS)


def test_a_good_backup_is_not_damaged_where_memory_is_short(tmp_path, monkeypatch):
    """With two backups, the newer one is not passed over; the error says what it is."""
    with pytest.raises(InterruptedError):
        fit(compiled(), [BackupAndRestore(tmp_path, 1, double_checkpoint=True), Interrupt(5)])
    assert len(list(tmp_path.iterdir())) == 2
    load = npz._array

    def short(content):
        if len(content) > 800:
            raise MemoryError("no room")
        return load(content)

    monkeypatch.setattr(npz, "_array", short)
    with pytest.raises(MemoryError, match="no room"):
        fit(compiled(), [BackupAndRestore(tmp_path, 1, double_checkpoint=True)])
    monkeypatch.undo()
    again = fit(compiled(), [BackupAndRestore(tmp_path, 1, double_checkpoint=True)])
    same_runs(fit(compiled()), again)
