"""Steps and epochs: what happens between a batch of rows and new weights, scores or outputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from fastmask import ops
from fastmask.batch.data import Batch
from fastmask.batch.packing import PackedSequence
from fastmask.batch.tokens import Tokens, align, split_rows
from fastmask.callbacks import Callback, CallbackList
from fastmask.layers.base.flow import add
from fastmask.layers.base.variable import Variable
from fastmask.training.options import due
from fastmask.training.scores import Head, Scores
from fastmask.training.sources import Source

Array = NDArray[Any]
ClassWeight = Mapping[int, float] | None
Part = tuple[float, Tokens | None]
GradientOf = tuple[Any, Variable]


@dataclass
class Place:
    """Where a call of `fit` stands.

    Attributes
    ----------
    source : Source
        What it trains on.
    held_out : Source or None
        What it validates on.
    callbacks : sequence of Callback
    epoch : int
        The epoch under way, or the next one, counted from 0.
    step : int
        Batches of that epoch that are done.
    ended : bool
        Whether a callback has asked to stop after the batches that are done.
    """

    source: Source
    held_out: Source | None
    callbacks: Sequence[Callback]
    epoch: int = 0
    step: int = 0
    ended: bool = False

    def due(self, epochs: int) -> bool:
        """Return whether there is something left to do of so many epochs."""
        return self.epoch < epochs and (self.step > 0 or not self.ended)


class Loop:
    """The steps of training, on top of a `run` that a model defines.

    Attributes
    ----------
    tokens_seen : int
        Tokens of the inputs of an epoch so far; rows where no input has a time axis.
    place : Place or None
        Where `fit` stands, None outside of it.
    stop_training, stop_evaluating, stop_predicting : bool
        A callback sets one to end a call of `fit`, `evaluate` or `predict` after the batch.
    """

    optimizer: Any = None
    stop_training = stop_evaluating = stop_predicting = False
    tokens_seen = 0
    scores: Scores
    place: Place | None = None
    refuse_quantized: Callable[[], None]  # of layers

    @property
    def losses(self) -> list[float]:
        """What the regularizers of the variables that training changes add to the loss."""
        raise NotImplementedError

    def run(
        self, x: Sequence[Any], mask: Any = None, *, training: bool = False, keep: bool = False
    ) -> tuple[list[Any], Callable[[Sequence[Any]], list[GradientOf]]]:
        """Return the outputs, packed where they have a time axis, and their pullback.

        The pullback works if `keep`; it takes the gradients by the outputs' values and returns
        those by `trainable_weights`, each beside its variable, None where there is none.
        """
        raise NotImplementedError

    def pack_outputs(self, outputs: Sequence[Any]) -> Any:
        """Return one entry per output in the form of the model's outputs."""
        raise NotImplementedError

    def train_step(self, batch: Batch, class_weight: ClassWeight = None) -> None:
        """Update the weights and the scores with one batch."""
        total, found, parts = self.step_gradients(batch, class_weight, training=True)
        pairs = [pair for pair in found if pair[0] is not None]
        self.optimizer.apply([g for g, _ in pairs], [v for _, v in pairs])
        self.scores.update(total, len(batch), parts)

    def step_gradients(
        self, batch: Batch, class_weight: ClassWeight, training: bool
    ) -> tuple[float, list[GradientOf], list[Part]]:
        """Return the loss of a batch, its gradients by `trainable_weights`, and loss and tokens of each output."""
        outputs, pullback = self.run(batch.x, training=training, keep=True)
        total, slopes, parts = 0.0, [], []
        for i, (head, output) in enumerate(zip(self.scores.heads, outputs, strict=True)):
            packed = isinstance(output, PackedSequence)
            prediction, collapse = ops.expand_vjp(output) if packed else (output, lambda d: d)
            tokens = _tokens(head, batch, i, output, prediction, class_weight)
            loss, slope = 0.0, None
            if head.loss is not None and tokens is not None:
                loss, slope = head.loss.value_and_gradient(tokens.target, tokens.prediction, tokens.weights)
                if head.weight != 1:
                    slope *= slope.dtype.type(head.weight)
                total += head.weight * loss
            slopes.append(None if slope is None else collapse(slope))
            parts.append((loss, tokens))
        pairs, penalty = regularized(pullback(slopes))
        if not pairs:
            self.refuse_quantized()
        return total + penalty, pairs, parts

    def test_step(self, batch: Batch) -> None:
        """Update the scores with one batch."""
        outputs = self.run(batch.x)[0]
        total, parts = sum(self.losses), []
        for i, (head, output) in enumerate(zip(self.scores.heads, outputs, strict=True)):
            prediction = output.data if isinstance(output, PackedSequence) else output
            tokens = _tokens(head, batch, i, output, prediction, None)
            loss = 0.0
            if head.loss is not None and tokens is not None:
                loss = head.loss(tokens.target, tokens.prediction, tokens.weights)
                total += head.weight * loss
            parts.append((loss, tokens))
        self.scores.update(total, len(batch), parts)

    def predict_step(self, batch: Batch, mask: Any = None, training: bool = False) -> Any:
        """Return the outputs of one batch as the user sees them."""
        return self.pack_outputs(self.predict_outputs(batch, mask, training))

    def predict_outputs(self, batch: Batch, mask: Any = None, training: bool = False) -> list[Any]:
        """Return the outputs of one batch: arrays, or lists of arrays that follow lists of sequences."""
        outputs = self.run(batch.x, mask, training=training)[0]
        return [_shown(output, batch) for output in outputs]

    def train_epochs(
        self, place: Place, epochs: int, frequency: Any, listeners: CallbackList, class_weight: ClassWeight
    ) -> None:
        """Train up to an epoch, and validate every so many epochs or after some of them."""
        self.stop_training = False
        logs: dict[str, float] = {}
        listeners.call("on_train_begin", {})
        while place.due(epochs):
            logs = self.epoch(place, due(place.epoch, frequency), listeners, class_weight)
        listeners.call("on_train_end", logs)

    def epoch(
        self, place: Place, validate: bool, listeners: CallbackList, class_weight: ClassWeight
    ) -> dict[str, float]:
        """Train on the batches of an epoch, validate if that is due and data is held out for it; return the logs."""
        number = place.epoch
        listeners.call("on_epoch_begin", number, {})
        logs = self.train_epoch(place, listeners, class_weight)
        if validate and place.held_out is not None:
            self.test_epoch(place.held_out, listeners)
            logs |= self.scores.logs("val_")
        place.epoch, place.step = number + 1, 0
        listeners.call("on_epoch_end", number, logs)
        place.ended = self.stop_training
        return logs

    def train_epoch(self, place: Place, listeners: CallbackList, class_weight: ClassWeight) -> dict[str, float]:
        """Train on the batches of an epoch that are not done yet; return its logs."""
        if not place.step:
            self.scores.reset()
        self.tokens_seen = 0
        with place.source.running(place.step) as epoch:
            for batch in () if place.ended else epoch:
                listeners.call("on_train_batch_begin", place.step, {})
                self.train_step(batch, class_weight)
                place.step += 1
                listeners.call("on_train_batch_end", place.step - 1, self.scores.logs())
                if self.stop_training:
                    break
        return self.scores.logs()

    def test_epoch(self, batches: Source, listeners: CallbackList) -> None:
        """Fill the scores with all batches."""
        self.stop_evaluating, self.tokens_seen = False, 0
        listeners.call("on_test_begin", {})
        self.scores.reset()
        with batches.running() as epoch:
            for i, batch in enumerate(epoch):
                listeners.call("on_test_batch_begin", i, {})
                self.test_step(batch)
                listeners.call("on_test_batch_end", i, self.scores.logs())
                if self.stop_evaluating:
                    break
        listeners.call("on_test_end", self.scores.logs())

    def predict_epoch(self, batches: Source, listeners: CallbackList) -> list[list[Any]]:
        """Return the outputs of each batch."""
        self.stop_predicting, self.tokens_seen = False, 0
        found: list[list[Any]] = []
        listeners.call("on_predict_begin", {})
        with batches.running() as epoch:
            for i, batch in enumerate(epoch):
                listeners.call("on_predict_batch_begin", i, {})
                found.append(self.predict_outputs(batch))
                listeners.call("on_predict_batch_end", i, {"outputs": self.pack_outputs(found[-1])})
                if self.stop_predicting:
                    break
        listeners.call("on_predict_end", {})
        return found

    def require_loss(self, method: str) -> None:
        """Raise ValueError if the model cannot do `method` for want of a loss."""
        if self.optimizer is None:
            raise ValueError(f"the model must be compiled: call compile() before {method}()")
        if not self.scores.has_loss:
            raise ValueError(f"loss: expected one in compile() before {method}(), got None")


def regularized(pairs: Sequence[GradientOf]) -> tuple[list[GradientOf], float]:
    """Add the gradients of regularizers to those by some variables; return them and the sum of the penalties."""
    found, penalty = list(pairs), 0.0
    for i, (grad, weight) in enumerate(pairs):
        if weight.regularizer is not None:
            penalty += float(weight.regularizer(weight.value))
            own = weight.regularizer.gradient(weight.value)
            found[i] = own if grad is None else add(grad, own), weight
    return found, penalty


def _tokens(
    head: Head, batch: Batch, index: int, output: Any, prediction: Array, class_weight: ClassWeight
) -> Tokens | None:
    """Return what the loss and the metrics of an output look at; None if it has neither."""
    if head.loss is None and not head.plain and not head.weighted:
        return None
    if head.loss is not None and isinstance(output, PackedSequence):
        head.loss.require_packed_axis()
    return align(output, prediction, batch.rows(index, output), class_weight)


def _shown(output: Any, batch: Batch) -> Any:
    if not isinstance(output, PackedSequence):
        return output
    lengths = batch.rows(0, output).lengths
    return output.pad() if lengths is None else split_rows(output, lengths)
