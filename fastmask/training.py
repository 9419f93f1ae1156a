"""The training half of a model: compile, fit, evaluate, predict."""

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from fastmask import data, losses, optimizers
from fastmask.callbacks import Callback, CallbackList, History, ProgressBar
from fastmask.loop import Loop, Scores, Source

Outcome = float | list[float] | dict[str, float]


class Trainer(Loop):
    """Base of models: all that is done with batches of data."""

    history: History | None = None

    @property
    def takes_ids(self) -> bool:
        """Whether the input holds integer ids."""
        raise NotImplementedError

    def compile(
        self,
        optimizer: str | optimizers.Optimizer = "rmsprop",
        loss: str | losses.Loss | None = None,
        loss_weights: float | Sequence[float] | None = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: str | bool = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        """Choose how to train. May be called again; weights stay as they are.

        Parameters
        ----------
        optimizer : str or Optimizer, default "rmsprop"
        loss : str or Loss, optional
            Needed by `fit` and `evaluate`.
        loss_weights : float, optional
            Factor of the loss.
        metrics : list of str, Metric or callable, optional
            Shown beside the loss; they see no sample weights.
        weighted_metrics : list of str, Metric or callable, optional
            The same with sample weights and class weights.
        run_eagerly, steps_per_execution, jit_compile, auto_scale_loss
            Accepted for Keras's sake; there is no graph to compile and no loss scaling.

        Raises
        ------
        ValueError, TypeError
            If a name is unknown (the message lists the legal ones) or an argument of another type.
        """
        self.optimizer = optimizers.get(optimizer)
        self.loss = None if loss is None else losses.get(loss)
        if self.loss is not None and self.loss.reduction == "none":
            raise ValueError("loss must reduce to one number to train, got reduction 'none'")
        self.loss_weight = 1.0 if loss_weights is None else float(np.squeeze(loss_weights))
        self.scores = Scores(metrics, weighted_metrics)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Callback | Iterable[Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Collection[int] = 1,
    ) -> History:
        """Train for a number of epochs.

        Parameters
        ----------
        x : array_like (B, ...), sequence of B sequences, or iterable of batches
            Sequences of different lengths, (t_i,) of ids or (t_i, F), are taken as they are: no
            padding is made. An iterable yields tuples (x, y) or (x, y, sample_weight).
        y : array_like (B, ...), or sequence of B arrays (t_i, ...)
            Targets. If the model's output has a time axis there is one per step.
        batch_size : int, default 32
        epochs : int, default 1
            The epoch to stop after, counted from `initial_epoch`.
        verbose : {"auto", 0, 1, 2}, default "auto"
            0 is silent, 1 draws progress bars, 2 prints a line per epoch; "auto" is 1 on a
            terminal or in a notebook, else 2.
        callbacks : Callback or iterable of Callback, optional
        validation_split : float, default 0.0
            The last fraction of the rows is held out, before shuffling.
        validation_data : tuple (x, y) or (x, y, sample_weight), or iterable of batches, optional
            Takes the place of `validation_split`.
        shuffle : bool, default True
            Whether every epoch has a new order of rows; `utils.set_random_seed` makes it
            reproducible.
        class_weight : mapping of class number to weight, optional
            Weight of every token (row, if the output has no time axis) by the class in `y`.
        sample_weight : array_like (B,) or (B, T), or sequence of B arrays (t_i,), optional
            Weights of rows or tokens.
        initial_epoch : int, default 0
        steps_per_epoch, validation_steps : int, optional
            Batches per epoch and per validation; by default all.
        validation_batch_size : int, optional
            `batch_size` by default.
        validation_freq : int or collection of int, default 1
            Validate every so many epochs, or after these (counted from 1).

        Returns
        -------
        History
            Also found as `model.history`, from the start on.

        Raises
        ------
        ValueError
            If the model is not compiled, or an argument does not fit; it is named.
        """
        self.require_loss("fit")
        _check_epochs(epochs, initial_epoch, validation_freq)
        _check_weights(class_weight, sample_weight)
        options = {"batch_size": batch_size, "shuffle": shuffle, "repeat": True}
        train = self._source(x, y, sample_weight, steps=steps_per_epoch, **options)
        size = validation_batch_size or batch_size
        if validation_data is None:
            train, held_out = _hold_out(train, validation_split, size, validation_steps)
        else:
            held_out = self._validation_source(validation_data, size, validation_steps)
        self.history = History()
        self.stop_training = False
        with _Listening(self, callbacks, verbose, train, epochs, self.history) as listeners:
            listeners.call("on_train_begin", {})
            for epoch in range(initial_epoch, epochs):
                due = held_out is not None and _due(epoch, validation_freq)
                self.epoch(epoch, train, held_out if due else None, listeners, class_weight)
                if self.stop_training:
                    break
            listeners.call("on_train_end", {})
        return self.history

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Callback | Iterable[Callback] | None = None,
        return_dict: bool = False,
    ) -> Outcome:
        """Return the loss and the metrics on some data.

        Parameters
        ----------
        x, y, batch_size, sample_weight, callbacks
            As in `fit`.
        verbose : {"auto", 0, 1, 2}, default "auto"
            As in `fit`, but "auto" is silent where there is no terminal.
        steps : int, optional
            Number of batches; by default all.
        return_dict : bool, default False

        Returns
        -------
        float, list of float or dict of str to float
            The loss alone if there are no metrics; else loss and metrics in the order of
            `metrics_names`, or by name if `return_dict`.
        """
        self.require_loss("evaluate")
        batches = self._source(x, y, sample_weight, batch_size=batch_size, steps=steps)
        with _Listening(self, callbacks, verbose, batches) as listeners:
            self.test_epoch(batches, listeners)
        return self._outcome(return_dict)

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        steps: int | None = None,
        callbacks: Callback | Iterable[Callback] | None = None,
    ) -> Any:
        """Return the model's outputs.

        Parameters
        ----------
        x, batch_size, callbacks
            As in `fit`.
        verbose, steps
            As in `evaluate`.

        Returns
        -------
        ndarray (B, ...), or list of B ndarrays (t_i, ...)
            A list if `x` is one of sequences and the output has a time axis. Padded outputs hold
            at masked places what Keras shows there.
        """
        batches = self._source(x, batch_size=batch_size, steps=steps)
        outputs: list[Any] = []
        with _Listening(self, callbacks, verbose, batches) as listeners:
            listeners.call("on_predict_begin", {})
            for i, rows in enumerate(batches.epoch()):
                listeners.call("on_predict_batch_begin", i, {})
                outputs.append(self.predict_step(rows))
                listeners.call("on_predict_batch_end", i, {})
            listeners.call("on_predict_end", {})
        if isinstance(outputs[0], list):
            return [row for output in outputs for row in output]
        return np.concatenate(outputs)

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None,
        return_dict: bool = False,
    ) -> Outcome:
        """Make one training step on a batch; return loss and metrics as `evaluate` does."""
        self.require_loss("train_on_batch")
        _check_weights(class_weight, sample_weight)
        self.scores.reset()
        self.train_step(data.as_rows(x, y, sample_weight, ids=self.takes_ids), class_weight)
        return self._outcome(return_dict)

    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False
    ) -> Outcome:
        """Return loss and metrics on a batch as `evaluate` does."""
        self.require_loss("test_on_batch")
        self.scores.reset()
        self.test_step(data.as_rows(x, y, sample_weight, ids=self.takes_ids))
        return self._outcome(return_dict)

    def predict_on_batch(self, x: Any) -> Any:
        """Return the outputs for a batch as `predict` does."""
        return self.predict_step(data.as_rows(x, ids=self.takes_ids))

    def loss_and_gradients(
        self, x: Any, y: Any, sample_weight: Any = None, training: bool = False
    ) -> tuple[float, list[Any]]:
        """Return the loss of a batch and its gradients by `trainable_weights`.

        Parameters
        ----------
        x, y, sample_weight
            As in `fit`.
        training : bool, default False
            Whether dropout acts.

        Returns
        -------
        loss : float
        gradients : list of ndarray or ops.SparseRows
            In the order of `trainable_weights`; those of embeddings are `SparseRows`.
        """
        self.require_loss("loss_and_gradients")
        rows = data.as_rows(x, y, sample_weight, ids=self.takes_ids)
        return self.step_gradients(rows, None, training)[:2]

    @property
    def metrics_names(self) -> list[str]:
        """The names of what `evaluate` returns, in its order."""
        return [metric.name for metric in self.scores.all]

    def _source(self, x: Any, y: Any = None, sample_weight: Any = None, **options: Any) -> Source:
        return data.source(x, y, sample_weight, ids=self.takes_ids, **options)

    def _validation_source(self, given: Any, size: int | None, steps: int | None) -> Source:
        if data.is_stream(given):
            return self._source(given, steps=steps)
        if not isinstance(given, (tuple, list)) or len(given) not in (2, 3):
            raise ValueError(
                "validation_data must be a tuple (x, y) or (x, y, sample_weight), "
                f"got {type(given).__name__}"
            )
        return self._source(*given, batch_size=size, steps=steps)

    def _outcome(self, return_dict: bool) -> Outcome:
        if return_dict:
            return self.scores.logs()
        values = [metric.result() for metric in self.scores.all]
        return values if len(values) > 1 else values[0]


class _Listening:
    """The callbacks of a run, whose progress bar is closed at the end of a with block."""

    def __init__(
        self,
        model: Any,
        callbacks: Callback | Iterable[Callback] | None,
        verbose: str | int,
        batches: Source,
        epochs: int = 1,
        history: History | None = None,
    ) -> None:
        fitting = history is not None
        self.progress = _progress(verbose, otherwise=2 if fitting else 0)
        callbacks = [callbacks] if isinstance(callbacks, Callback) else callbacks
        own = [*self.progress, *([history] if history is not None else [])]
        params = {"verbose": verbose, "epochs": epochs, "steps": batches.steps}
        self.listeners = CallbackList([*(callbacks or ()), *own], model, params)

    def __enter__(self) -> CallbackList:
        return self.listeners

    def __exit__(self, *error: object) -> None:
        for bar in self.progress:
            bar.close()


def _progress(verbose: str | int, otherwise: int) -> list[ProgressBar]:
    if verbose not in ("auto", 0, 1, 2):
        raise ValueError(f"verbose must be 'auto', 0, 1 or 2, got {verbose!r}")
    if verbose == "auto":
        shown = "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())
        verbose = 1 if shown else otherwise
    return [ProgressBar(int(verbose))] if verbose else []


def _hold_out(
    train: Source, fraction: float, size: int | None, steps: int | None
) -> tuple[Source, Source | None]:
    """Return a source without the last `fraction` of its rows, and one of these."""
    if not 0 <= fraction < 1:
        raise ValueError(f"validation_split must be at least 0 and below 1, got {fraction!r}")
    if not fraction:
        return train, None
    if not isinstance(train, data.RowSource):
        raise ValueError("validation_split must be 0 when x is an iterable of batches")
    return train.split(fraction, size, steps)


def _due(epoch: int, frequency: int | Collection[int]) -> bool:
    """Return whether to validate after an epoch, counted from 0."""
    if isinstance(frequency, Collection):
        return epoch + 1 in frequency
    return (epoch + 1) % frequency == 0


def _check_epochs(epochs: Any, initial_epoch: Any, validation_freq: Any) -> None:
    for name, value in (("epochs", epochs), ("initial_epoch", initial_epoch)):
        if not isinstance(value, (int, np.integer)) or value < 0:
            raise ValueError(f"{name} must be an integer of at least 0, got {value!r}")
    for value in validation_freq if isinstance(validation_freq, Collection) else [validation_freq]:
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"validation_freq must be a positive integer or several, got {validation_freq!r}")


def _check_weights(class_weight: Any, sample_weight: Any) -> None:
    if class_weight is not None and not (
        isinstance(class_weight, Mapping)
        and all(isinstance(k, (int, np.integer)) and isinstance(w, Real) for k, w in class_weight.items())
    ):
        raise TypeError(f"class_weight must map class numbers to weights, got {class_weight!r}")
    if class_weight is not None and sample_weight is not None:
        raise ValueError("class_weight and sample_weight cannot be given together")
