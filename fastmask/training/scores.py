"""What `compile` asks for, output by output, and what became of it in an epoch so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastmask import losses
from fastmask.batch.tokens import Tokens
from fastmask.core.structure import aligned, flatten, pack_as, paths
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
    outputs : str, or nested list, tuple or dict of str, default "y"
        Names of the outputs, in the form of these. If there are several, the keys that lead to an output, or its name,
        stand before the names of losses and metrics.
    loss : str, Loss or callable, or one per output, optional
    loss_weights : float, or one per output, optional
    metrics, weighted_metrics : list of str, Metric or callable, or one of them, optional
        With several outputs one per output. A weighted metric gets "weighted_" before a name that one of the others
        has.
        What is given per output stands in the form of the outputs, in a list, or in a dict by name.

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
        outputs: Any = "y",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
    ) -> None:
        self.loss = Mean("loss")
        labels, prefixes = _labels(outputs)
        several = len(labels) > 1
        given = [None if f is None else losses.get(f) for f in _per_output("loss", loss, outputs, shared=True)]
        factors = _per_output("loss_weights", loss_weights, outputs, shared=not several)
        self.heads = [
            Head(f, 1.0 if w is None else float(np.squeeze(w))) for f, w in zip(given, factors, strict=True)
        ]
        for head in self.heads:
            if head.loss is not None and head.loss.reduction == "none":
                raise ValueError("loss: expected one number to train with, got reduction 'none'")
        if sum(head.loss is not None for head in self.heads) > 1:
            for head, label in zip(self.heads, labels, strict=True):
                head.mean = None if head.loss is None else Mean(f"{label}_loss")
        taken = {"loss", *(head.mean.name for head in self.heads if head.mean is not None)}
        for kind, identifiers in (("metrics", metrics), ("weighted_metrics", weighted_metrics)):
            found = _per_output(kind, identifiers, outputs, shared=not several)
            for head, prefix, own in zip(self.heads, prefixes, found, strict=True):
                pairs = [(_free_name(m.name, prefix, kind, taken), m) for m in _metrics(own)]
                (head.plain if kind == "metrics" else head.weighted).extend(pairs)
        self.named = self._named(_order(pack_as(outputs, range(len(labels))), loss))
        self.all: list[Metric] = [metric for _, metric in self.named]
        self.has_loss = any(head.loss is not None for head in self.heads)

    def _named(self, order: Sequence[int]) -> list[tuple[str, Metric]]:
        ordered = [self.heads[i].mean for i in order]
        means = [(mean.name, mean) for mean in ordered if mean is not None]
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


def _labels(outputs: Any) -> tuple[list[str], list[str]]:
    """Return what stands before the loss of each output, and before its metrics.

    Before a loss these are the keys that lead to the output, with its name in place of a last number; before metrics
    the key in a plain dict, else the name.
    """
    names, found = flatten(outputs), []
    for path, name in zip(paths(outputs), names, strict=True):
        last = name if not path or isinstance(path[-1], int) else path[-1]
        found.append("/".join(map(str, (*path[:-1], last))))
    plain = isinstance(outputs, Mapping) and len(outputs) == len(names)
    prefixes = [f"{label}_" for label in (found if plain else names)]
    return found, prefixes if len(names) > 1 else [""]


def _order(numbers: Any, loss: Any) -> list[int]:
    """Return the numbers of the outputs in the order of a dict of losses, where they stand in a dict as well."""
    if isinstance(numbers, Mapping) and isinstance(loss, Mapping) and loss.keys() <= numbers.keys():
        return [number for key in loss for number in _order(numbers[key], loss[key])]
    return flatten(numbers)


def _per_output(argument: str, given: Any, outputs: Any, shared: bool) -> list[Any]:
    """Return one entry of an argument of `compile` for each output, None where there is none."""
    count = len(flatten(outputs))
    by_output = isinstance(given, Mapping) and "class_name" not in given
    if not by_output and count == 1 and isinstance(given, (list, tuple)) and argument in ("loss", "loss_weights"):
        if len(given) != 1:
            raise ValueError(f"{argument}: expected one entry for the one output, got {len(given)}")
        return [given[0]]
    if not by_output and (given is None or (shared and not (isinstance(given, (list, tuple)) and count > 1))):
        return [given] * count
    return aligned(argument, given, outputs)


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
