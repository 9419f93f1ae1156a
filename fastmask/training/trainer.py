"""The training half of a model: compile, fit, evaluate, predict."""

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fastmask import optimizers
from fastmask.batch import data
from fastmask.callbacks import Callback, CallbackList, History, ProgressBar
from fastmask.metrics import Metric
from fastmask.saving.storable import Storable
from fastmask.training import options, sources
from fastmask.training.loop import Loop, Place
from fastmask.training.scores import Scores
from fastmask.training.sources import Source

Outcome = float | list[float] | dict[str, float]


class Trainer(Loop, Storable):
    """Base of models: all that is done with batches of data."""

    history: History | None = None
    loss: Any = None
    compile_arguments: Mapping[str, Any] = {}
    output_names: Sequence[str] = ("y",)
    output_form: Any = "y"

    @property
    def layout(self) -> data.Layout:
        """What data for this model must look like."""
        raise NotImplementedError

    def compile(
        self,
        optimizer: str | optimizers.Optimizer = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
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
        loss : str, Loss or callable, optional
            Needed by `fit` and `evaluate`. A function takes `y_true` and `y_pred` and returns the values and their
            gradient. For several outputs one for all; or one for each in the form of the outputs, in a list or in a
            dict by name, as all that follows.
        loss_weights : float, optional
            Factors of the losses in their sum.
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
        options.require_own_steps(self)
        chosen = optimizers.get(optimizer)
        self.scores = Scores(self.output_form, loss, loss_weights, metrics, weighted_metrics)
        self.optimizer, found = chosen, [head.loss for head in self.scores.heads]
        self.loss = found[0] if len(found) == 1 else loss
        self.compile_arguments = {
            "loss": loss, "loss_weights": loss_weights, "metrics": metrics, "weighted_metrics": weighted_metrics,
        }  # fmt: skip

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
            Sequences of different lengths, (t_i,) of ids or (t_i, F), are taken as they are: no padding is made. Where
            the input has more axes they have too: (t_i, W) of the ids of W words each, padded with zeros. They may also
            be a column of lists of pandas, polars, pyarrow or datasets, or a ragged tensor. For several inputs these in
            the form of the inputs, in a list or in a dict by name. An iterable, such as a loader of PyTorch or
            TensorFlow, yields tuples (x, y) or (x, y, sample_weight).
        y : array_like (B, ...), or sequence of B arrays (t_i, ...)
            Targets. If the model's output has a time axis there is one per step. For several outputs as for `x`.
        batch_size : int, default 32
        epochs : int, default 1
            The epoch to stop after, counted from `initial_epoch`.
        verbose : {"auto", 0, 1, 2}, default "auto"
            0 is silent, 1 draws progress bars, 2 prints a line per epoch; "auto" is 1 on a terminal or in a notebook,
            else 0.
        callbacks : Callback, or other object with its methods, or iterable of these, optional
        validation_split : float, default 0.0
            The last fraction of the rows is held out, before shuffling.
        validation_data : tuple (x, y) or (x, y, sample_weight), or iterable of batches, optional
            Takes the place of `validation_split`.
        shuffle : bool, default True
            Whether every epoch has a new order of rows; `utils.set_random_seed` makes it reproducible.
        class_weight : mapping of class number to weight, optional
            Weight of every token (row, if the output has no time axis) by the class in `y`.
        sample_weight : array_like (B,) or (B, T), or sequence of B arrays (t_i,), optional
            Weights of rows or tokens, with as many of the axes of a mask as are wanted; for several outputs also as y.
        initial_epoch : int, default 0
        steps_per_epoch, validation_steps : int, optional
            Batches per epoch and per validation; by default all. An epoch goes on in the rows where the one before
            stopped, and ends with them, as in Keras.
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
        options.check_epochs(epochs, initial_epoch, validation_freq)
        options.check_weights(class_weight, sample_weight, self.output_names)
        batches = {"batch_size": batch_size, "shuffle": shuffle, "repeat": True, "targets": True}
        train = self._source(x, y, sample_weight, steps=steps_per_epoch, **batches)
        size = validation_batch_size or batch_size
        if validation_data is None:
            train, held_out = _hold_out(train, validation_split, size, validation_steps)
        else:
            held_out = self._validation_source(validation_data, size, validation_steps)
        self.history = History()
        with _Listening(self, callbacks, verbose, train, epochs, self.history) as listeners:
            self.place = Place(train, held_out, listeners.callbacks, initial_epoch)
            self.train_epochs(self.place, epochs, validation_freq, listeners, class_weight)
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
            As in `fit`.
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
        batches = self._source(x, y, sample_weight, batch_size=batch_size, steps=steps, targets=True)
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
            at masked places what Keras shows there. Several outputs come as the model has them.
        """
        batches = self._source(x, batch_size=batch_size, steps=steps)
        with _Listening(self, callbacks, verbose, batches) as listeners:
            found = self.predict_epoch(batches, listeners)
        return self.pack_outputs([_joined(parts) for parts in zip(*found, strict=True)])

    def predict_batches(self, x: Any, batch_size: int | None = None, steps: int | None = None) -> Iterator[Any]:
        """Yield the outputs batch by batch, in order, for inputs or outputs that do not fit in memory.

        Parameters are those of `predict`.
        """
        for batch in self._source(x, batch_size=batch_size, steps=steps).epoch():
            yield self.predict_step(batch)

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
        options.check_weights(class_weight, sample_weight, self.output_names)
        self.scores.reset()
        self.train_step(data.as_batch(x, y, sample_weight, self.layout), class_weight)
        return self._outcome(return_dict)

    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False
    ) -> Outcome:
        """Return loss and metrics on a batch as `evaluate` does."""
        self.require_loss("test_on_batch")
        self.scores.reset()
        self.test_step(data.as_batch(x, y, sample_weight, self.layout))
        return self._outcome(return_dict)

    def predict_on_batch(self, x: Any) -> Any:
        """Return the outputs for a batch as `predict` does."""
        return self.predict_step(data.as_batch(x, None, None, self.layout))

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
        batch = data.as_batch(x, y, sample_weight, self.layout)
        loss, pairs, _ = self.step_gradients(batch, None, training)
        return loss, [np.zeros_like(v.value) if g is None else g for g, v in pairs]

    @property
    def metrics_names(self) -> list[str]:
        """The names of what `evaluate` returns, in its order."""
        return [name for name, _ in self.scores.named]

    @property
    def metrics(self) -> list[Metric]:
        """The loss, as a mean, and the metrics."""
        return list(self.scores.all)

    def _source(self, x: Any, y: Any = None, sample_weight: Any = None, **options: Any) -> Source:
        return sources.source(x, y, sample_weight, layout=self.layout, **options)

    def _validation_source(self, given: Any, size: int | None, steps: int | None) -> Source:
        if sources.is_stream(given):
            return self._source(given, steps=steps, targets=True)
        if not isinstance(given, (tuple, list)) or len(given) not in (2, 3):
            raise ValueError(
                "validation_data: expected a tuple (x, y) or (x, y, sample_weight), "
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
        self.model, self.batches = model, batches
        self.progress = _progress(verbose)
        given = [] if callbacks is None else callbacks if isinstance(callbacks, Iterable) else [callbacks]
        own = [*self.progress, *([history] if history is not None else [])]
        params = {"verbose": verbose, "epochs": epochs, "steps": batches.steps}
        self.listeners = CallbackList([*given, *own], model, params)

    def __enter__(self) -> CallbackList:
        return self.listeners

    def __exit__(self, *error: object) -> None:
        for bar in self.progress:
            bar.close()
        self.batches.close()
        if self.model.place is not None and self.model.place.source is self.batches:
            self.model.place = None


def _progress(verbose: str | int) -> list[ProgressBar]:
    if verbose not in ("auto", 0, 1, 2):
        raise ValueError(f"verbose: expected 'auto', 0, 1 or 2, got {verbose!r}")
    if verbose == "auto":
        shown = "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())
        verbose = 1 if shown else 0
    return [ProgressBar(int(verbose))] if verbose else []


def _hold_out(
    train: Source, fraction: float, size: int | None, steps: int | None
) -> tuple[Source, Source | None]:
    """Return a source without the last `fraction` of its rows, and one of these."""
    if not 0 <= fraction < 1:
        raise ValueError(f"validation_split: expected a number of at least 0 and below 1, got {fraction!r}")
    if not fraction:
        return train, None
    if not isinstance(train, sources.RowSource):
        raise ValueError(f"validation_split: expected 0 when x is an iterable of batches, got {fraction!r}")
    return train.split(fraction, size, steps)


def _joined(parts: Sequence[Any]) -> Any:
    """Return the batches of one output as one."""
    if any(isinstance(part, list) for part in parts):
        return [row for part in parts for row in part]
    return np.concatenate(parts)
