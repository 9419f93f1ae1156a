"""Callbacks that watch a number of the logs: stopping, slower learning, saving."""

import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastmask.callbacks.base import Callback, Logs, check_save_freq
from fastmask.core.paths import path_text

# Multiplied by this, the better of two numbers is the smaller; "auto" waits for a metric that tells.
_SIGNS = {"min": 1.0, "max": -1.0, "auto": 0.0}


class MonitorCallback(Callback):
    """Base of the callbacks that ask whether a number got better.

    Parameters
    ----------
    monitor : str, default "val_loss"
        Its key in the logs.
    mode : {"auto", "min", "max"}, default "auto"
        Whether less or more is better; "auto" asks the metric of that name.
    baseline : float, optional
        What the first number has to improve on.
    min_delta : float, default 0.0
        Smallest change that counts as an improvement.

    Raises
    ------
    ValueError
        If `mode` is none of these; during training if "auto" finds no metric that knows, or the
        model does not have the number at all.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        mode: str = "auto",
        baseline: float | None = None,
        min_delta: float = 0.0,
    ) -> None:
        if mode not in _SIGNS:
            raise ValueError(f"mode: expected 'auto', 'min' or 'max', got {mode!r}")
        self.monitor = monitor
        self.mode = mode
        self.verbose = 0
        self.best = baseline
        self.min_delta = abs(min_delta)
        self.sign = _SIGNS[mode]

    def current(self, logs: Logs | None, action: str) -> float | None:
        """Return the number; where an epoch has none, warn of the action taken without it and return None."""
        value = (logs or {}).get(self.monitor)
        if value is None:
            available = ", ".join(logs or {})
            if self.monitor.removeprefix("val_") not in self.model.metrics_names:
                raise ValueError(f"monitor: expected one of {available}, got {self.monitor!r}")
            warnings.warn(
                f"{type(self).__name__} {action}, which has no {self.monitor!r}, only {available}; "
                "validation_data, validation_split and validation_freq make it",
                stacklevel=2,
            )
        elif not self.sign:
            self.sign = self._direction()
        return value

    def _say(self, text: str) -> None:
        if self.verbose > 0:
            print(text)

    def improves(self, value: float, reference: float | None) -> bool:
        """Return whether a number is better than another, or the first."""
        return reference is None or self.sign * value + self.min_delta < self.sign * reference

    def _direction(self) -> float:
        name = self.monitor.removeprefix("val_")
        for metric in getattr(self.model, "metrics", ()):
            known = name == metric.name or name.endswith(f"_{metric.name}")
            direction = getattr(metric, "direction", None)
            if known and direction is not None:
                return 1.0 if direction == "down" else -1.0
        if name.endswith("loss"):
            return 1.0
        if name.endswith(("acc", "accuracy")):
            return -1.0
        raise ValueError(
            f"mode: expected 'min' or 'max' for monitor={self.monitor!r}, got 'auto'; no metric tells what is better"
        )


class EarlyStopping(MonitorCallback):
    """Stops the training when a number of the logs no longer improves.

    Parameters
    ----------
    monitor, mode
        As in `MonitorCallback`. Epochs without the number are passed over with a warning.
    min_delta : float, default 0.0
        Smallest change that counts as an improvement.
    patience : int, default 0
        Number of epochs without improvement to wait for.
    verbose : int, default 0
        Above 0, print when the training is stopped and when weights are put back.
    baseline : float, optional
        What the first epochs have to improve on.
    restore_best_weights : bool, default False
        Whether the weights of the best epoch are put back at the end of the training.
    start_from_epoch : int, default 0
        Earlier epochs are not looked at.

    Attributes
    ----------
    stopped_epoch : int
        The epoch after which the training was stopped, 0 if it was not.
    best_epoch : int
    """

    _stored = ("wait", "stopped_epoch", "best_epoch", "best", "best_weights")

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(monitor, mode, None, min_delta)
        self.patience = patience
        self.verbose = verbose
        self.baseline = baseline
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = start_from_epoch

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Start anew."""
        self.wait = self.stopped_epoch = self.best_epoch = 0
        self.best = None
        self.best_weights: list[Any] | None = None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; TypeError if its weights are none of this model."""
        weights = state["best_weights"]
        shapes = [np.shape(weight) for weight in weights or ()]
        if weights is not None and shapes != [variable.shape for variable in self.model.weights]:
            raise TypeError(f"best_weights: expected the weights of model {self.model.name!r}, got shapes {shapes}")
        super().load_state_dict(state)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Look at the epoch's number and ask the model to stop if it is time."""
        value = self.current(logs, f"passes over epoch {epoch + 1}")
        if value is None or epoch < self.start_from_epoch:
            return
        self.wait += 1
        improved = self.improves(value, self.best)
        if improved:
            self.best, self.best_epoch = value, epoch
        if self.restore_best_weights and (improved or self.best_weights is None):
            self.best_weights = self.model.get_weights()
        if improved:
            if self.baseline is None or self.improves(value, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Put the best weights back if asked to."""
        if self.stopped_epoch > 0:
            self._say(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.best_weights is not None:
            self._say(f"Restoring model weights from the end of the best epoch: {self.best_epoch + 1}.")
            self.model.set_weights(self.best_weights)


class ReduceLROnPlateau(MonitorCallback):
    """Makes the learning rate smaller when a number of the logs no longer improves.

    Adds "learning_rate" to the logs.

    Parameters
    ----------
    monitor, mode
        As in `MonitorCallback`. Epochs without the number are passed over with a warning.
    factor : float, default 0.1
        Below 1.
    patience : int, default 10
        Number of epochs without improvement to wait for.
    verbose : int, default 0
        Above 0, print every change.
    min_delta : float, default 1e-4
        Smallest change that counts as an improvement.
    cooldown : int, default 0
        Number of epochs after a change in which waiting does not begin.
    min_lr : float, default 0.0
        Lower bound of the learning rate.
    """

    _stored = ("best", "wait", "cooldown_counter")

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(monitor, mode, None, min_delta)
        if factor >= 1.0:
            raise ValueError(f"factor: expected a number below 1, got {factor}")
        self.factor = factor
        self.patience = patience
        self.verbose = verbose
        self.cooldown = cooldown
        self.min_lr = min_lr

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Start anew."""
        self.best = None
        self.wait = self.cooldown_counter = 0

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Look at the epoch's number and reduce the learning rate if it is time."""
        logs = {} if logs is None else logs
        logs["learning_rate"] = float(self.model.optimizer.learning_rate)
        value = self.current(logs, f"passes over epoch {epoch + 1}")
        if value is None:
            return
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.wait = 0
        if self.improves(value, self.best):
            self.best = value
            self.wait = 0
        elif self.cooldown_counter == 0:
            self.wait += 1
            if self.wait >= self.patience and self._reduce(epoch):
                self.cooldown_counter = self.cooldown
                self.wait = 0

    def _reduce(self, epoch: int) -> bool:
        before = float(self.model.optimizer.learning_rate)
        if before <= self.min_lr:
            return False
        rate = max(before * self.factor, self.min_lr)
        self.model.optimizer.learning_rate = rate
        self._say(f"\nEpoch {epoch + 1}: ReduceLROnPlateau reducing learning rate to {rate}.")
        return True


class ModelCheckpoint(MonitorCallback):
    """Saves the model or its weights, every so often or when a number of the logs improves.

    Parameters
    ----------
    filepath : str or path
        Ends in ".keras", or in ".weights.h5" or ".safetensors" with `save_weights_only`. May hold
        "{epoch}" (counted from 1), "{batch}" and keys of the logs, such as
        "{epoch:02d}-{val_loss:.2f}.keras". Folders are made.
    monitor, mode
        As in `MonitorCallback`.
    verbose : int, default 0
        Above 0, print what is done.
    save_best_only : bool, default False
        Whether only an improvement is saved.
    save_weights_only : bool, default False
    save_freq : "epoch" or int, default "epoch"
        Save after every epoch, or after so many batches.
    initial_value_threshold : float, optional
        What the first number has to improve on.

    Raises
    ------
    ValueError
        If the ending of `filepath` or another argument does not fit.
    """

    _stored = ("best", "epoch", "batches")

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        super().__init__(monitor, mode, initial_value_threshold)
        self.filepath = path_text("filepath", filepath)
        endings = (".weights.h5", ".safetensors") if save_weights_only else (".keras",)
        if not self.filepath.endswith(endings):
            raise ValueError(
                f"filepath: expected one that ends in {' or '.join(endings)} with "
                f"save_weights_only={save_weights_only}, got {self.filepath!r}"
            )
        check_save_freq(save_freq)
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.save_weights_only = save_weights_only
        self.save_freq = save_freq
        self.epoch = self.batches = 0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Note the epoch."""
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Save if it is time for it by the number of batches."""
        if isinstance(self.save_freq, int):
            self.batches += 1
            if self.batches >= self.save_freq:
                self.batches = 0
                self._save({"epoch": self.epoch + 1, "batch": batch + 1} | (logs or {}), logs)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Save if it is time for it by the number of epochs."""
        if self.save_freq == "epoch":
            self._save({"epoch": epoch + 1} | (logs or {}), logs)

    def _save(self, fields: dict[str, Any], logs: Logs | None) -> None:
        try:
            path = self.filepath.format(**fields)
        except KeyError as error:
            raise KeyError(f"filepath {self.filepath!r} names {error}; the logs have {', '.join(fields)}") from None
        if not self._wanted(path, logs):
            return
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        save = self.model.save_weights if self.save_weights_only else self.model.save
        save(path, overwrite=True)
        self._say(f"\nEpoch {self.epoch + 1}: finished saving model to {path}")

    def _wanted(self, path: str, logs: Logs | None) -> bool:
        title = f"\nEpoch {self.epoch + 1}:"
        if not self.save_best_only:
            self._say(f"{title} saving model to {path}")
            return True
        value = self.current(logs, f"saves epoch {self.epoch + 1}")
        if value is None:
            return True
        best = "None" if self.best is None else f"{self.best:.5f}"
        if not self.improves(value, self.best):
            self._say(f"{title} {self.monitor} did not improve from {best}")
            return False
        self._say(f"{title} {self.monitor} improved from {best} to {value:.5f}, saving model to {path}")
        self.best = value
        return True
