"""Bars and lines that show how far a run has come."""

import time
from typing import Any

import numpy as np

from fastmask.callbacks.base import Callback, Logs


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
        self.steps = self.tokens = 0
        self.seconds = 0.0
        self.seen: int | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Note that evaluations belong to a training."""
        self.training, self.seen = True, None

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
        self._step(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Show the epoch's numbers, validation included; the next one is taken to have as many batches."""
        self.seen = self.steps
        self._finish(logs)

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Open a bar unless this is the validation of an epoch."""
        if not self.training:
            self._open("Evaluate")

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Move the bar on."""
        if not self.training:
            self._step(batch, logs)

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Show the numbers of the evaluation."""
        if not self.training:
            self._finish(logs)

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Open a bar."""
        self._open("Predict")

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Move the bar on; the logs are the outputs."""
        self._step(batch, None)

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
        self.steps = self.tokens = 0
        self.seconds = 0.0
        if self.verbose == 1:
            from tqdm import tqdm  # type: ignore[import-untyped]

            self.bar = tqdm(total=self.params["steps"] or self.seen, desc=title, unit="batch", leave=True)

    def _step(self, batch: int, logs: Logs | None) -> None:
        self.steps += 1
        self.tokens = getattr(self.model, "tokens_seen", 0)
        self.seconds = time.perf_counter() - self.started
        if self.bar is not None:
            self.bar.set_postfix_str(self._text(logs), refresh=False)
            self.bar.update(batch + 1 - self.bar.n)

    def _finish(self, logs: Logs | None) -> None:
        if self.bar is not None:
            self.bar.set_postfix_str(self._text(logs))
        elif self.verbose == 2:
            seconds = time.perf_counter() - self.started
            each = 1000 * seconds / max(self.steps, 1)
            total = self.params["steps"] or self.steps
            line = [f"{self.steps}/{total}", f"{seconds:.0f}s", f"{each:.0f}ms/step"]
            print(" - ".join([*line, *filter(None, [self._text(logs)])]))
        self.close()

    def _text(self, logs: Logs | None) -> str:
        """Return the logs and the speed of the batches so far."""
        speed = [f"{count_per_second(self.tokens, self.seconds)} tokens/s"] if self.tokens else []
        return " - ".join([*filter(None, [numbers(logs)]), *speed])


def numbers(logs: Logs | None) -> str:
    """Write logs with four digits, as Keras does."""
    return " - ".join(f"{key}: {_number(value)}" for key, value in (logs or {}).items())


def _number(value: Any) -> str:
    values = np.atleast_1d(value)
    return ", ".join(f"{v:.4f}" if abs(v) > 1e-3 else f"{v:.4e}" for v in values)


def count_per_second(count: int, seconds: float) -> str:
    """Write a speed with three digits: 950, 1.23k, 45.6k, 7.89M."""
    speed = count / max(seconds, 1e-9)
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if speed >= size:
            speed /= size
            return f"{speed:.{max(2 - len(str(int(speed))) + 1, 0)}f}{unit}"
    return f"{speed:.0f}"
