"""Steps and epochs: what happens between a batch of rows and new weights, scores or outputs."""

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from fastmask import losses, ops
from fastmask.callbacks import CallbackList
from fastmask.data import Rows, RowSource, StreamSource
from fastmask.metrics import Mean, Metric, get
from fastmask.packing import PackedSequence
from fastmask.tokens import Tokens, align, split_rows

Array = NDArray[Any]
Source = RowSource | StreamSource
ClassWeight = Mapping[int, float] | None


class Scores:
    """The loss and the metrics of an epoch so far.

    The loss is a mean over batches weighted by their number of rows, as in Keras.

    Parameters
    ----------
    metrics, weighted_metrics : list of str, Metric or callable, or one of them, optional
        Only the second kind sees sample weights; it gets "weighted_" before a name that one of
        the first kind has.
    """

    def __init__(self, metrics: Any = None, weighted_metrics: Any = None) -> None:
        self.loss = Mean("loss")
        self.plain = _metrics(metrics)
        self.weighted = _metrics(weighted_metrics)
        taken = {metric.name for metric in self.plain}
        for metric in self.weighted:
            if metric.name in taken:
                metric.name = f"weighted_{metric.name}"
        names = [metric.name for metric in self.all]
        if len({*names}) < len(names):
            raise ValueError(f"metrics must have different names, got {', '.join(names)}")

    @property
    def all(self) -> list[Metric]:
        """The loss, the metrics and the weighted metrics."""
        return [self.loss, *self.plain, *self.weighted]

    def reset(self) -> None:
        """Start a new epoch."""
        for metric in self.all:
            metric.reset_state()

    def update(self, loss: float, rows: int, tokens: Tokens) -> None:
        """Add a batch."""
        self.loss.add(loss, rows)
        for metrics, weights in ((self.plain, None), (self.weighted, tokens.weights)):
            for metric in metrics:
                metric.update_tokens(tokens.target, tokens.prediction, weights, tokens.steps)

    def logs(self, prefix: str = "") -> dict[str, float]:
        """Return the results by name, sorted."""
        return {prefix + m.name: m.result() for m in sorted(self.all, key=lambda m: m.name)}


class Loop:
    """The steps of training, on top of a `run` that a model defines."""

    optimizer: Any = None
    loss: losses.Loss | None = None
    loss_weight = 1.0
    stop_training = False

    def __init__(self) -> None:
        self.scores = Scores()

    def run(
        self, x: Any, mask: Any = None, *, training: bool = False, keep: bool = False
    ) -> tuple[Any, Callable[[Any], list[Any]]]:
        """Return the output, packed if it has a time axis, and its pullback.

        The pullback works if `keep`; it takes the gradient by the output's values and returns
        those by `trainable_weights`.
        """
        raise NotImplementedError

    @property
    def trainable_weights(self) -> list[Any]:
        """The variables that training changes."""
        raise NotImplementedError

    def train_step(self, rows: Rows, class_weight: ClassWeight = None) -> None:
        """Update the weights and the scores with one batch."""
        loss, grads, tokens = self.step_gradients(rows, class_weight, training=True)
        self.optimizer.apply(grads, self.trainable_weights)
        self.scores.update(loss, len(rows), tokens)

    def step_gradients(
        self, rows: Rows, class_weight: ClassWeight, training: bool
    ) -> tuple[float, list[Any], Tokens]:
        """Return the loss of a batch, its gradients by `trainable_weights` and the tokens."""
        output, pullback = self.run(rows.x, training=training, keep=True)
        packed = isinstance(output, PackedSequence)
        prediction, collapse = ops.expand_vjp(output) if packed else (output, lambda d: d)
        tokens = align(output, prediction, rows, class_weight)
        loss, slope = self.require_loss("fit").value_and_gradient(
            tokens.target, tokens.prediction, tokens.weights
        )
        slope *= slope.dtype.type(self.loss_weight)
        return loss * self.loss_weight, pullback(collapse(slope)), tokens

    def test_step(self, rows: Rows) -> None:
        """Update the scores with one batch."""
        output = self.run(rows.x)[0]
        prediction = output.data if isinstance(output, PackedSequence) else output
        tokens = align(output, prediction, rows)
        loss = self.require_loss("evaluate")(tokens.target, tokens.prediction, tokens.weights)
        self.scores.update(loss * self.loss_weight, len(rows), tokens)

    def predict_step(self, rows: Rows, mask: Any = None, training: bool = False) -> Any:
        """Return the output of one batch as the user sees it."""
        output = self.run(rows.x, mask, training=training)[0]
        if not isinstance(output, PackedSequence):
            return output
        return output.pad() if rows.lengths is None else split_rows(output, rows.lengths)

    def epoch(
        self,
        number: int,
        batches: Source,
        held_out: Source | None,
        listeners: CallbackList,
        class_weight: ClassWeight,
    ) -> None:
        """Train on the batches of an epoch, then validate if there is data held out for it."""
        listeners.call("on_epoch_begin", number, {})
        logs = self.train_epoch(batches, listeners, class_weight)
        if held_out is not None:
            self.test_epoch(held_out, listeners)
            logs |= self.scores.logs("val_")
        listeners.call("on_epoch_end", number, logs)

    def train_epoch(
        self, batches: Source, listeners: CallbackList, class_weight: ClassWeight
    ) -> dict[str, float]:
        """Train on the batches of an epoch; return its logs."""
        self.scores.reset()
        for i, rows in enumerate(batches.epoch()):
            listeners.call("on_train_batch_begin", i, {})
            self.train_step(rows, class_weight)
            listeners.call("on_train_batch_end", i, self.scores.logs())
            if self.stop_training:
                break
        return self.scores.logs()

    def test_epoch(self, batches: Source, listeners: CallbackList) -> None:
        """Fill the scores with all batches."""
        listeners.call("on_test_begin", {})
        self.scores.reset()
        for i, rows in enumerate(batches.epoch()):
            listeners.call("on_test_batch_begin", i, {})
            self.test_step(rows)
            listeners.call("on_test_batch_end", i, self.scores.logs())
        listeners.call("on_test_end", self.scores.logs())

    def require_loss(self, method: str) -> losses.Loss:
        """Return the loss; ValueError if the model cannot do `method` for want of one."""
        if self.optimizer is None:
            raise ValueError(f"the model must be compiled: call compile() before {method}()")
        if self.loss is None:
            raise ValueError(f"loss must be given to compile() before {method}(), got None")
        return self.loss


def _metrics(identifiers: Any) -> list[Metric]:
    if identifiers is None:
        return []
    several = isinstance(identifiers, (list, tuple))
    return [get(identifier) for identifier in (identifiers if several else [identifiers])]
