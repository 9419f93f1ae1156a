"""Objects that `fit`, `evaluate` and `predict` tell what happens."""

import time
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fastmask.models import Sequential

Logs = dict[str, float]


class Callback:
    """Base of all callbacks: override what you want to hear of.

    Attributes
    ----------
    model : Sequential
        Set before the first call.
    params : dict
        "verbose", "epochs" and "steps" (batches per epoch, None if unknown).
    """

    model: "Sequential"
    params: dict[str, Any]

    def set_model(self, model: "Sequential") -> None:
        """Remember the model."""
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        """Remember the parameters of the run."""
        self.params = params

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Before the first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """After the last epoch."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Before an epoch, counted from 0."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """After an epoch and its validation, with the epoch's logs."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a training batch, counted from 0 in each epoch."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a training batch, with the means of the epoch so far."""

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Before an evaluation or validation."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """After an evaluation or validation."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a batch of an evaluation."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch of an evaluation, with the means so far."""

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Before a prediction."""

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """After a prediction."""

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a batch of a prediction."""

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch of a prediction."""


class CallbackList:
    """Several callbacks, told everything in order.

    Parameters
    ----------
    callbacks : iterable of Callback
    model : Sequential
    params : dict
        As `Callback.params`.
    """

    def __init__(self, callbacks: Iterable[Callback], model: "Sequential", params: dict[str, Any]) -> None:
        self.callbacks = list(callbacks)
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks must hold Callback objects, got {callback!r}")
            callback.set_model(model)
            callback.set_params(params)

    def call(self, hook: str, *args: Any) -> None:
        """Call the method `hook` of every callback."""
        for callback in self.callbacks:
            getattr(callback, hook)(*args)


class History(Callback):
    """Collects the logs of all epochs; `fit` returns one.

    Attributes
    ----------
    epoch : list of int
        Epochs that have ended, counted from 0.
    history : dict of str to list of float
        One list per key of the logs: those of the training in alphabetical order, then the
        same with "val_" before them.
    """

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Append the logs."""
        self.epoch.append(epoch)
        for key, value in (logs or {}).items():
            self.history.setdefault(key, []).append(value)


class EarlyStopping(Callback):
    """Stops the training when a number of the logs no longer improves.

    Parameters
    ----------
    monitor : str, default "val_loss"
    min_delta : float, default 0.0
        Smallest change that counts as an improvement.
    patience : int, default 0
        Number of epochs without improvement to wait for.
    verbose : int, default 0
        Above 0, print when the training is stopped and when weights are put back.
    mode : {"auto", "min", "max"}, default "auto"
        Whether less or more is better; "auto" takes more for accuracies and less for the rest.
    baseline : float, optional
        What the first epochs have to improve on.
    restore_best_weights : bool, default False
        Whether the weights of the best epoch are put back at the end of the training.
    start_from_epoch : int, default 0
        Earlier epochs are not looked at.

    Notes
    -----
    An epoch whose logs lack the number, for want of a validation, is passed over with a warning; a
    number that the model does not have at all is a ValueError.

    Attributes
    ----------
    stopped_epoch : int
        The epoch after which the training was stopped, 0 if it was not.
    best_epoch : int
    """

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
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"mode must be 'auto', 'min' or 'max', got {mode!r}")
        more = mode == "max" or (mode == "auto" and monitor.endswith(("accuracy", "acc")))
        self.monitor = monitor
        self.min_delta = abs(min_delta)
        self.patience = patience
        self.verbose = verbose
        self.sign = -1.0 if more else 1.0
        self.baseline = baseline
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = start_from_epoch

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Start anew."""
        self.wait = self.stopped_epoch = self.best_epoch = 0
        self.best = np.inf
        self.best_weights: list[Any] | None = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Look at the epoch's number and ask the model to stop if it is time."""
        value = self._monitored(epoch, logs or {})
        if value is None or epoch < self.start_from_epoch:
            return
        value *= self.sign
        self.wait += 1
        improved = value + self.min_delta < self.best
        if improved:
            self.best, self.best_epoch = value, epoch
        if self.restore_best_weights and (improved or self.best_weights is None):
            self.best_weights = self.model.get_weights()
        if improved:
            if self.baseline is None or value + self.min_delta < self.sign * self.baseline:
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def _monitored(self, epoch: int, logs: Logs) -> float | None:
        """Return the number, None if this epoch has none."""
        if self.monitor not in logs:
            if self.monitor.removeprefix("val_") not in self.model.metrics_names:
                raise ValueError(f"monitor must be one of {', '.join(logs)}, got {self.monitor!r}")
            warnings.warn(
                f"EarlyStopping passes over epoch {epoch + 1}, which has no {self.monitor!r}, only "
                f"{', '.join(logs)}; validation_data, validation_split and validation_freq make it",
                stacklevel=2,
            )
        return logs.get(self.monitor)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Put the best weights back if asked to."""
        if self.verbose > 0 and self.stopped_epoch > 0:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.best_weights is not None:
            if self.verbose > 0:
                print(f"Restoring model weights from the end of the best epoch: {self.best_epoch + 1}.")
            self.model.set_weights(self.best_weights)


class ProgressBar(Callback):
    """Shows how far a run has come: a tqdm bar, or a line of text per epoch.

    Parameters
    ----------
    verbose : {1, 2}, default 1
        1 draws a bar on stderr, 2 prints a line to stdout when an epoch has ended.
    """

    def __init__(self, verbose: int = 1) -> None:
        self.verbose = verbose
        self.bar: Any = None
        self.training = False

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Note that evaluations belong to a training."""
        self.training = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Close the bar if an epoch was left early."""
        self.training = False
        self.close()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Open the epoch's bar."""
        title = f"Epoch {epoch + 1}/{self.params['epochs']}"
        if self.verbose == 2 and self.params["epochs"] > 1:
            print(title)
        self._open(title)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Move the bar on."""
        self._step(logs)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Show the epoch's numbers, validation included."""
        self._finish(logs)

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Open a bar unless this is the validation of an epoch."""
        if not self.training:
            self._open("Evaluate")

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Move the bar on."""
        if not self.training:
            self._step(logs)

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Show the numbers of the evaluation."""
        if not self.training:
            self._finish(logs)

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Open a bar."""
        self._open("Predict")

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Move the bar on."""
        self._step(logs)

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Close the bar."""
        self._finish(logs)

    def close(self) -> None:
        """Close the bar, also after an interruption."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _open(self, title: str) -> None:
        self.close()
        self.started = time.perf_counter()
        self.steps = 0
        if self.verbose == 1:
            from tqdm import tqdm  # type: ignore[import-untyped]

            self.bar = tqdm(total=self.params["steps"], desc=title, unit="batch", leave=True)

    def _step(self, logs: Logs | None) -> None:
        self.steps += 1
        if self.bar is not None:
            self.bar.set_postfix_str(_numbers(logs), refresh=False)
            self.bar.update()

    def _finish(self, logs: Logs | None) -> None:
        if self.bar is not None:
            self.bar.set_postfix_str(_numbers(logs))
        elif self.verbose == 2:
            seconds = time.perf_counter() - self.started
            each = 1000 * seconds / max(self.steps, 1)
            total = self.params["steps"] or self.steps
            line = [f"{self.steps}/{total}", f"{seconds:.0f}s", f"{each:.0f}ms/step"]
            print(" - ".join([*line, *filter(None, [_numbers(logs)])]))
        self.close()


def _numbers(logs: Logs | None) -> str:
    """Write logs with four digits, as Keras does."""
    return " - ".join(
        f"{key}: {value:.4f}" if abs(value) > 1e-3 else f"{key}: {value:.4e}" for key, value in (logs or {}).items()
    )
