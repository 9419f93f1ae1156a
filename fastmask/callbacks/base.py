"""What `fit`, `evaluate` and `predict` tell, to whom, and how it is collected."""

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, ClassVar

import numpy as np

Logs = dict[str, Any]
_KINDS: tuple[Any, ...] = ((Real, np.generic, np.ndarray), str, (list, tuple), Mapping)


class Callback:
    """Base of all callbacks: override what you want to hear of.

    Attributes
    ----------
    model : Model
        Set before the first call.
    params : dict
        "verbose", "epochs" and "steps" (batches per epoch, None if unknown).
    comes_last : bool
        Whether it is told everything after the callbacks that are not last.
    """

    model: Any
    params: dict[str, Any]
    comes_last: ClassVar[bool] = False
    _stored: ClassVar[tuple[str, ...]] = ()

    def set_model(self, model: Any) -> None:
        """Remember the model."""
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        """Remember the parameters of the run."""
        self.params = params

    def state_dict(self) -> dict[str, Any]:
        """Return what the callback has to know to go on in another process, for `BackupAndRestore`.

        Returns
        -------
        dict
            Numbers, strings, None and arrays, in lists and dicts with strings as keys; empty if
            there is nothing.
        """
        return {name: getattr(self, name) for name in self._stored}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; called after `on_train_begin`.

        Raises
        ------
        KeyError, TypeError
            If `state` lacks an entry, or has one of another kind than here; nothing has changed then.
        """
        before = self.state_dict()
        values = {name: state[name] for name in before}
        for name, own in before.items():
            kind = next((kind for kind in _KINDS if isinstance(own, kind)), object)
            if own is not None and values[name] is not None and not isinstance(values[name], kind):
                raise TypeError(f"{name}: expected {type(own).__name__}, got {values[name]!r:.80}")
        for name, value in values.items():
            setattr(self, name, value)

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
        type(self).on_batch_begin(self, batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a training batch, with the means of the epoch so far."""
        type(self).on_batch_end(self, batch, logs)

    def on_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Another name of `on_train_batch_begin`."""

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Another name of `on_train_batch_end`."""

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


def check_save_freq(save_freq: Any) -> None:
    """Raise ValueError unless it is "epoch" or a number of batches."""
    counts = isinstance(save_freq, int) and not isinstance(save_freq, bool) and save_freq > 0
    if save_freq != "epoch" and not counts:
        raise ValueError(f"save_freq: expected 'epoch' or a positive integer, got {save_freq!r}")


HOOKS = tuple(name for name in vars(Callback) if name.startswith("on_"))


class Adapted(Callback):
    """A callback of a class that is not of fastmask, such as one of Keras: it hears of all that it has methods for.

    Parameters
    ----------
    callback : object
        With methods of the names of those of `Callback`.

    Raises
    ------
    TypeError
        If it has none that begin with ``on_``.
    """

    def __init__(self, callback: Any) -> None:
        self.callback = callback
        own = [name for name in HOOKS if callable(getattr(callback, name, None))]
        if not own or isinstance(callback, type):
            raise TypeError(
                f"callbacks: expected objects of classes in fastmask.callbacks, or others with methods such as "
                f"on_epoch_end, got {callback!r}"
            )
        for name in own:
            setattr(self, name, getattr(callback, name))

    def set_model(self, model: Any) -> None:
        if hasattr(self.callback, "set_model"):
            self.callback.set_model(model)
        else:
            self.callback.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        if hasattr(self.callback, "set_params"):
            self.callback.set_params(params)
        else:
            self.callback.params = params


class CallbackList:
    """Several callbacks, told everything in order, but for those that come last.

    Parameters
    ----------
    callbacks : iterable of Callback, or of other objects with methods of the same names
    model : Model
    params : dict
        As `Callback.params`.
    """

    def __init__(self, callbacks: Iterable[Any], model: Any, params: dict[str, Any]) -> None:
        given = [callback if isinstance(callback, Callback) else Adapted(callback) for callback in callbacks]
        self.callbacks = sorted(given, key=lambda callback: callback.comes_last)
        for callback in self.callbacks:
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

    _stored = ("epoch", "history")

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Append the logs."""
        self.epoch.append(epoch)
        for key, value in (logs or {}).items():
            self.history.setdefault(key, []).append(value)
