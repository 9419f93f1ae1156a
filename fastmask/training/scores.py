"""What `compile` asks for, output by output, and what became of it in an epoch so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastmask import losses
from fastmask.batch.tokens import Tokens
from fastmask.metrics import Mean, Metric, get


@dataclass
class Head:
    """The loss and the metrics of one output.

    Attributes
    ----------
    loss : Loss or None
    weight : float
        Factor of the loss in the total.
    mean : Mean or None
        The epoch's loss of this output, kept where several outputs have one.
    plain, weighted : list of (str, Metric)
        Metrics with their names in the logs; only the second kind sees sample weights.
    """

    loss: losses.Loss | None = None
    weight: float = 1.0
    mean: Mean | None = None
    plain: list[tuple[str, Metric]] = field(default_factory=list)
    weighted: list[tuple[str, Metric]] = field(default_factory=list)


class Scores:
    """The losses and the metrics of an epoch so far.

    A loss is a mean over batches weighted by their number of rows, as in Keras.

    Parameters
    ----------
    outputs : sequence of str, default ("y",)
        Names of the outputs; they stand before those of losses and metrics if there are several.
    loss : str, Loss or callable, or one per output in a list or dict, optional
    loss_weights : float, or one per output in a list or dict, optional
    metrics, weighted_metrics : list of str, Metric or callable, or one of them, optional
        With several outputs a list with an entry for each, or a dict. A weighted metric gets
        "weighted_" before a name that one of the others has.
    keyed : bool, default False
        Whether the outputs stand in a dict; then the losses are in the order of a dict of these.

    Attributes
    ----------
    named : list of (str, Metric)
        The loss, the losses of several outputs, the metrics and the weighted metrics, by name. Those of several
        outputs are in alphabetical order, as in Keras.
    all : list of Metric
        The metrics of `named`.
    has_loss : bool
        Whether an output has one.
    """

    def __init__(
        self,
        outputs: Sequence[str] = ("y",),
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        keyed: bool = False,
    ) -> None:
        self.loss = Mean("loss")
        self.first = [f"{name}_loss" for name in loss] if keyed and isinstance(loss, Mapping) else []
        given = [None if f is None else losses.get(f) for f in _per_output("loss", loss, outputs, shared=True)]
        factors = _per_output("loss_weights", loss_weights, outputs, shared=len(outputs) == 1)
        self.heads = [
            Head(f, 1.0 if w is None else float(np.squeeze(w))) for f, w in zip(given, factors, strict=True)
        ]
        for head in self.heads:
            if head.loss is not None and head.loss.reduction == "none":
                raise ValueError("loss: expected one number to train with, got reduction 'none'")
        prefixes = [f"{name}_" for name in outputs] if len(outputs) > 1 else [""]
        if sum(head.loss is not None for head in self.heads) > 1:
            for head, prefix in zip(self.heads, prefixes, strict=True):
                head.mean = None if head.loss is None else Mean(f"{prefix}loss")
        taken = {"loss", *(head.mean.name for head in self.heads if head.mean is not None)}
        for kind, identifiers in (("metrics", metrics), ("weighted_metrics", weighted_metrics)):
            found = _per_output(kind, identifiers, outputs, shared=len(outputs) == 1)
            for head, prefix, own in zip(self.heads, prefixes, found, strict=True):
                pairs = [(_free_name(m.name, prefix, kind, taken), m) for m in _metrics(own)]
                (head.plain if kind == "metrics" else head.weighted).extend(pairs)
        self.named = self._named()
        self.all: list[Metric] = [metric for _, metric in self.named]
        self.has_loss = any(head.loss is not None for head in self.heads)

    def _named(self) -> list[tuple[str, Metric]]:
        means = [(head.mean.name, head.mean) for head in self.heads if head.mean is not None]
        means.sort(key=lambda pair: self.first.index(pair[0]) if pair[0] in self.first else -1)
        found = [pair for head in self.heads for pair in head.plain]
        found += [pair for head in self.heads for pair in head.weighted]
        return [("loss", self.loss), *means, *(sorted(found, key=_name) if len(self.heads) > 1 else found)]

    def reset(self) -> None:
        """Start a new epoch."""
        for metric in self.all:
            metric.reset_state()

    def update(self, total: float, rows: int, parts: Sequence[tuple[float, Tokens | None]]) -> None:
        """Add a batch: its total loss, and of each output the loss and the tokens."""
        self.loss.add(total, rows)
        for head, (loss, tokens) in zip(self.heads, parts, strict=True):
            if head.mean is not None:
                head.mean.add(loss, rows)
            if tokens is None:
                continue
            for pairs, weights in ((head.plain, None), (head.weighted, tokens.weights)):
                for _, metric in pairs:
                    metric.update_tokens(tokens.target, tokens.prediction, weights)

    def logs(self, prefix: str = "") -> dict[str, float]:
        """Return the results by name, sorted."""
        return {prefix + name: metric.result() for name, metric in sorted(self.named, key=_name)}


def _name(pair: tuple[str, Metric]) -> str:
    return pair[0]


def _per_output(argument: str, given: Any, outputs: Sequence[str], shared: bool) -> list[Any]:
    """Return one entry of an argument of `compile` for each output, None where there is none."""
    count = len(outputs)
    if isinstance(given, Mapping) and "class_name" not in given:
        unknown = [name for name in given if name not in outputs]
        if unknown:
            raise ValueError(f"{argument}: expected names of outputs among {', '.join(outputs)}, got {unknown[0]!r}")
        return [given.get(name) for name in outputs]
    listed = isinstance(given, (list, tuple))
    if count == 1 and listed and argument in ("loss", "loss_weights"):
        if len(given) != 1:
            raise ValueError(f"{argument}: expected one entry for the one output, got {len(given)}")
        return [given[0]]
    if given is None or (shared and not (listed and count > 1)):
        return [given] * count
    if not listed or len(given) != count:
        raise ValueError(
            f"{argument}: expected one entry for each of the {count} outputs {', '.join(outputs)}, got {given!r}"
        )
    return list(given)


def _metrics(identifiers: Any) -> list[Metric]:
    if identifiers is None:
        return []
    several = isinstance(identifiers, (list, tuple))
    flat = [m for entry in (identifiers if several else [identifiers]) for m in _flat(entry)]
    return [get(identifier) for identifier in flat]


def _flat(entry: Any) -> list[Any]:
    return list(entry) if isinstance(entry, (list, tuple)) else [entry]


def _free_name(name: str, prefix: str, kind: str, taken: set[str]) -> str:
    """Return a metric's name in the logs: with a number if it is taken, as in Keras."""
    found = prefix + name
    if found in taken and kind == "weighted_metrics":
        found = f"{prefix}weighted_{name}"
    plain, number = found, 0
    while found in taken:
        number += 1
        found = f"{plain}_{number}"
    taken.add(found)
    return found
