"""Callbacks that set learning rates, write files, call functions, and guard against NaN."""

import csv
import math
import os
from collections.abc import Callable
from io import TextIOBase
from typing import Any

import numpy as np

from fastmask.callbacks.base import Callback, Logs
from fastmask.core.paths import path_text


class LearningRateScheduler(Callback):
    """Sets the learning rate at the start of every epoch; adds "learning_rate" to the logs.

    Parameters
    ----------
    schedule : callable
        Takes the epoch, counted from 0, and the learning rate so far (or the epoch alone), and
        returns the new one.
    verbose : int, default 0
        Above 0, print every learning rate.
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        self.schedule = schedule
        self.verbose = verbose

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Set the learning rate; TypeError if the schedule returns no float."""
        optimizer = self.model.optimizer
        try:
            rate = self.schedule(epoch, float(optimizer.learning_rate))
        except TypeError:
            rate = self.schedule(epoch)
        if not isinstance(rate, (float, np.floating)):
            raise TypeError(f"schedule: expected a function that returns a float, got one that returned {rate!r}")
        optimizer.learning_rate = rate
        if self.verbose > 0:
            print(f"\nEpoch {epoch + 1}: LearningRateScheduler setting learning rate to {rate}.")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Log the learning rate."""
        if logs is not None:
            logs["learning_rate"] = float(self.model.optimizer.learning_rate)


class CSVLogger(Callback):
    """Writes the logs of every epoch as a row of a file, under a line with their keys.

    Parameters
    ----------
    filename : str or path
    separator : str, default ","
    append : bool, default False
        Whether rows are added to a file that exists.
    """

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False) -> None:
        self.filename = path_text("filename", filename)
        self.separator = separator
        self.append = append
        self.file: TextIOBase | None = None
        self.keys: list[str] | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Open the file."""
        self.close()
        has_rows = self.append and os.path.exists(self.filename) and os.path.getsize(self.filename)
        self.with_head = not has_rows
        self.file = open(self.filename, "a" if self.append else "w", newline="")  # noqa: SIM115
        self.keys = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write a row; keys that the first epoch had no value for come out as NA."""
        logs = logs or {}
        if self.file is None:
            return
        writer = csv.writer(self.file, delimiter=self.separator)
        if self.keys is None:
            self.keys = sorted(logs)
            if not any(key.startswith("val_") for key in self.keys):
                self.keys += [f"val_{key}" for key in self.keys]
            if self.with_head:
                writer.writerow(["epoch", *self.keys])
        writer.writerow([epoch, *(_cell(logs.get(key, "NA")) for key in self.keys)])
        self.file.flush()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file if it is open."""
        if self.file is not None:
            self.file.close()
            self.file = None


class LambdaCallback(Callback):
    """Calls functions.

    Parameters
    ----------
    on_epoch_begin, on_epoch_end, on_train_begin, on_train_end : callable, optional
    on_train_batch_begin, on_train_batch_end : callable, optional
    **kwargs : callable
        For the other hooks of `Callback`. All take what the method of that name takes.

    Raises
    ------
    TypeError
        If `Callback` has no such hook.
    """

    def __init__(
        self,
        on_epoch_begin: Callable[..., Any] | None = None,
        on_epoch_end: Callable[..., Any] | None = None,
        on_train_begin: Callable[..., Any] | None = None,
        on_train_end: Callable[..., Any] | None = None,
        on_train_batch_begin: Callable[..., Any] | None = None,
        on_train_batch_end: Callable[..., Any] | None = None,
        **kwargs: Callable[..., Any] | None,
    ) -> None:
        hooks = {
            "on_epoch_begin": on_epoch_begin,
            "on_epoch_end": on_epoch_end,
            "on_train_begin": on_train_begin,
            "on_train_end": on_train_end,
            "on_train_batch_begin": on_train_batch_begin,
            "on_train_batch_end": on_train_batch_end,
            **kwargs,
        }
        for name, function in hooks.items():
            if not (name.startswith("on_") and hasattr(Callback, name)):
                raise TypeError(f"kwargs: expected functions for hooks of Callback, got one for {name!r}")
            if function is not None:
                setattr(self, name, function)


class TerminateOnNaN(Callback):
    """Stops the training when the loss is NaN or infinite.

    Parameters
    ----------
    raise_error : bool, default False
        Whether to raise RuntimeError rather than to stop.
    """

    def __init__(self, raise_error: bool = False) -> None:
        self.raise_error = raise_error

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Look at the loss."""
        loss = (logs or {}).get("loss")
        if loss is None or math.isfinite(loss):
            return
        if self.raise_error:
            raise RuntimeError(f"the loss is {loss} at batch {batch}")
        print(f"Batch {batch}: Invalid loss, terminating training")
        self.model.stop_training = True


def _cell(value: Any) -> Any:
    """Write several numbers into one cell as Keras does."""
    if isinstance(value, (list, tuple)) or np.ndim(value):
        return f'"[{", ".join(map(str, value))}]"'
    return value
