"""Callbacks in fit() of a model whose logs are replaced by given numbers: what they print, write and do."""

from __future__ import annotations

import tempfile
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

Spec = list[Any]
FOLDER = "FOLDER"


def losses(*values: float) -> list[dict[str, float]]:
    """Return logs with the same numbers for training and validation."""
    return [{"loss": value, "val_loss": value} for value in values]


def every_other(*values: float) -> list[dict[str, float]]:
    """Return logs of which only every second has a number for the validation."""
    return [{"loss": value} | ({"val_loss": value} if index % 2 else {}) for index, value in enumerate(values)]


DIPS = losses(4.0, 3.0, 3.5, 2.5, 2.75, 2.625, 2.0, 2.25)
GROWING = [{"loss": 1.0, "accuracy": value} for value in (0.25, 0.5, 0.375, 0.75, 0.5)]
# label: (logs of each epoch, callbacks)
CASES: dict[str, tuple[list[dict[str, float]], list[Spec]]] = {
    "stop": (DIPS, [["EarlyStopping", {"patience": 2, "verbose": 1}]]),
    "stop-restore": (DIPS, [["EarlyStopping", {"patience": 1, "restore_best_weights": True, "verbose": 1}]]),
    "stop-delta": (DIPS, [["EarlyStopping", {"min_delta": 0.625, "patience": 2}]]),
    "stop-baseline": (DIPS, [["EarlyStopping", {"baseline": 2.75, "patience": 3}]]),
    "stop-start": (DIPS, [["EarlyStopping", {"start_from_epoch": 4}]]),
    "stop-max": (GROWING, [["EarlyStopping", {"monitor": "accuracy"}]]),
    "stop-missing": (every_other(4.0, 3.0, 2.0, 1.0, 0.5, 2.0, 1.0, 1.5), [["EarlyStopping", {"patience": 1}]]),
    "reduce": (DIPS, [["ReduceLROnPlateau", {"factor": 0.5, "patience": 1, "verbose": 1}]]),
    "reduce-cooldown": (
        losses(*[4.0] * 8),
        [["ReduceLROnPlateau", {"factor": 0.5, "patience": 1, "cooldown": 2, "min_lr": 0.125, "verbose": 1}]],
    ),
    "reduce-missing": (every_other(*[4.0] * 6), [["ReduceLROnPlateau", {"factor": 0.5, "patience": 1}]]),
    "schedule": (DIPS[:3], [["LearningRateScheduler", {"verbose": 1}]]),
    "csv": (DIPS[:3], [["CSVLogger", {"filename": f"{FOLDER}/log.csv"}]]),
    "csv-no_validation": (GROWING[:2], [["CSVLogger", {"filename": f"{FOLDER}/log.csv", "separator": ";"}]]),
    "csv-append": (
        DIPS[:2],
        [["CSVLogger", {"filename": f"{FOLDER}/old.csv", "append": True}],
         ["CSVLogger", {"filename": f"{FOLDER}/new.csv", "append": True}]],
    ),
    "csv-late_validation": (every_other(4.0, 3.0, 2.0), [["CSVLogger", {"filename": f"{FOLDER}/log.csv"}]]),
    "csv-learning_rate": (
        DIPS[:3], [["LearningRateScheduler", {}], ["CSVLogger", {"filename": f"{FOLDER}/log.csv"}]],
    ),
    "checkpoint": (DIPS[:3], [["ModelCheckpoint", {"filepath": f"{FOLDER}/{{epoch:02d}}-{{val_loss:.2f}}.keras"}]]),
    "checkpoint-best": (
        DIPS[:5], [["ModelCheckpoint", {"filepath": f"{FOLDER}/best.keras", "save_best_only": True, "verbose": 1}]],
    ),
    "checkpoint-threshold": (
        DIPS[:5],
        [["ModelCheckpoint", {"filepath": f"{FOLDER}/a/b.keras", "save_best_only": True,
                              "initial_value_threshold": 3.25, "verbose": 1}]],
    ),
    "checkpoint-weights": (
        DIPS[:2],
        [["ModelCheckpoint", {"filepath": f"{FOLDER}/x.weights.h5", "save_weights_only": True, "verbose": 1}]],
    ),
    "checkpoint-batches": (
        DIPS[:2], [["ModelCheckpoint", {"filepath": f"{FOLDER}/{{epoch}}-{{batch}}.keras", "save_freq": 3}]],
    ),
    "checkpoint-max": (
        GROWING,
        [["ModelCheckpoint", {"filepath": f"{FOLDER}/x.keras", "monitor": "accuracy", "save_best_only": True,
                              "mode": "max", "verbose": 1}]],
    ),
    "checkpoint-missing": (
        every_other(4.0, 3.0, 5.0, 4.0),
        [["ModelCheckpoint", {"filepath": f"{FOLDER}/x.keras", "save_best_only": True}]],
    ),
}  # fmt: skip


def rate(epoch: int, before: float) -> float:
    """Return the learning rate of an epoch."""
    return before / 2 if epoch else before


def run(library: Any, model: Any, logs: list[dict[str, float]], specs: list[Spec], folder: str) -> dict[str, Any]:
    """Fit with logs that are replaced; return what there is to see. Used with Keras and with fastmask."""

    class Replace(library.callbacks.Callback):
        def on_epoch_end(self, epoch: int, own: dict[str, Any] | None = None) -> None:
            own.clear()
            own.update(logs[epoch])

    saved: list[str] = []
    model.save = lambda path, overwrite: saved.append(Path(path).name)
    model.save_weights = lambda path, overwrite: saved.append(f"weights {Path(path).name}")
    (Path(folder) / "old.csv").write_text("epoch,loss\n")
    callbacks = [Replace()]
    for name, config in specs:
        given = {key: value.replace(FOLDER, folder) if isinstance(value, str) else value
                 for key, value in config.items()}  # fmt: skip
        if name == "LearningRateScheduler":
            given["schedule"] = rate
        callbacks.append(getattr(library.callbacks, name)(**given))
    x, y = np.ones((4, 2), "float32"), np.zeros((4, 1), "float32")
    with redirect_stdout(StringIO()) as printed, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        history = model.fit(x, y, batch_size=2, epochs=len(logs), verbose=0, callbacks=callbacks)
    return {
        "history": {key: [float(value) for value in values] for key, values in history.history.items()},
        "epoch": history.epoch,
        "printed": printed.getvalue().replace(folder, FOLDER),
        "warnings": sum(issubclass(one.category, UserWarning) for one in warned),
        "saved": saved,
        "files": {path.name: path.read_bytes().decode() for path in sorted(Path(folder).glob("*.csv"))},
        "learning_rate": float(np.asarray(model.optimizer.learning_rate)),
    }


def record_callbacks() -> dict[str, Any]:
    """Record every case."""
    import keras

    keras.config.set_floatx("float64")
    cases = {}
    for label, (logs, specs) in CASES.items():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.5), "mse", metrics=["accuracy"])
        with tempfile.TemporaryDirectory() as folder:
            seen = run(keras, model, logs, specs, folder)
        cases[label] = {"logs": logs, "callbacks": specs, "seen": seen}
    return cases
