"""Area under a curve of true and false positives over thresholds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmask.config import epsilon
from fastmask.layers.base import checks
from fastmask.metrics.confusion import Confusion, ratio

Array = NDArray[Any]
_CURVES = ("ROC", "PR", "PRGAIN")
# Each threshold is an object that two lists refer to, and has two counts.
_NUMBERS_PER_THRESHOLD = 8
_METHODS = ("interpolation", "minoring", "majoring")


class AUC(Confusion):
    """Area under the ROC, the precision-recall or the precision-recall-gain curve, by a Riemann sum over thresholds.

    Parameters
    ----------
    num_thresholds : int, default 200
        Greater than 1; evenly spaced from 0 to 1.
    curve : {"ROC", "PR", "PRGAIN"}, default "ROC"
        In any letter case.
    summation_method : {"interpolation", "minoring", "majoring"}, default "interpolation"
        Height between two thresholds: mean (for "PR" the interpolation of the true positives),
        smaller or larger value.
    name : str, optional
    dtype : optional
        As in `Metric`.
    thresholds : sequence of float, optional
        In [0, 1]; take the place of the evenly spaced ones between 0 and 1.
    multi_label : bool, default False
        Whether every output has its own curve and the mean area is the result; otherwise all
        outputs count alike.
    num_labels : int, optional
        With `multi_label`, how many outputs there must be.
    label_weights : sequence of float, optional
        Weight of every output, of its area with `multi_label`.
    from_logits : bool, default False
        Whether predictions are scores before the sigmoid.

    Raises
    ------
    ValueError
        If an argument is none of these.
    """

    def __init__(
        self,
        num_thresholds: int = 200,
        curve: str = "ROC",
        summation_method: str = "interpolation",
        name: str | None = None,
        dtype: Any = None,
        thresholds: Sequence[float] | None = None,
        multi_label: bool = False,
        num_labels: int | None = None,
        label_weights: ArrayLike | None = None,
        from_logits: bool = False,
    ) -> None:
        if thresholds is None and num_thresholds <= 1:
            raise ValueError(f"num_thresholds: expected a number greater than 1, got {num_thresholds}")
        self.curve = _choice("curve", curve, _CURVES)
        self.summation_method = _choice("summation_method", summation_method, _METHODS)
        if num_labels and not multi_label:
            raise ValueError(f"num_labels: expected None unless multi_label is True, got {num_labels}")
        count = num_thresholds if thresholds is None else len(thresholds) + 2
        checks.require_memory("the counts of AUC", (count, _NUMBERS_PER_THRESHOLD), np.dtype(np.float64))
        self.given = None if thresholds is None else sorted(float(value) for value in thresholds)
        if not all(0 <= value <= 1 for value in self.given or ()):
            raise ValueError(f"thresholds: expected numbers between 0 and 1, got {thresholds!r}")
        inner = [i / (num_thresholds - 1) for i in range(1, num_thresholds - 1)] if self.given is None else self.given
        self.num_thresholds = len(inner) + 2
        self.multi_label = self.per_label = multi_label
        self.num_labels = num_labels
        self.label_weights = None if label_weights is None else np.asarray(label_weights, np.float64)
        self.from_logits = from_logits
        super().__init__([-epsilon(), *inner, 1 + epsilon()], name, dtype, True if thresholds is None else None)

    def select(self, y_true: Array, y_pred: Array, weights: Array) -> tuple[Array, Array, Array]:
        """Return targets, probabilities and weights; with `multi_label` those of labels come in at the end."""
        if self.multi_label and y_pred.ndim == 1:
            raise ValueError(f"y_pred: expected an axis of labels for multi_label, got shape {y_pred.shape}")
        self._check_labels(y_pred.shape[1:])
        if self.from_logits:
            decay = np.exp(-np.abs(y_pred))
            y_pred = np.where(y_pred >= 0, 1, decay) / (1 + decay)
        if self.label_weights is not None and not self.multi_label:
            weights = weights * self.label_weights
        return y_true, y_pred, weights

    def _check_labels(self, shape: tuple[int, ...]) -> None:
        labels = shape[-1] if shape else 1
        weights = labels if self.label_weights is None else len(self.label_weights)
        for name, count in (("num_labels", self.num_labels or labels), ("label_weights", weights)):
            if count != labels:
                raise ValueError(f"{name}: expected as many as there are outputs, {labels}, got {count}")

    def result(self) -> float:
        """Return the area so far."""
        if self.curve == "PR" and self.summation_method == "interpolation":
            areas = self._interpolated()
        else:
            areas = self._riemann()
        if not self.multi_label:
            return float(areas[0])
        weights = np.ones(len(areas)) if self.label_weights is None else self.label_weights
        total = float(np.sum(weights))
        return float(np.sum(areas * weights)) / total if total else 0.0

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = ("num_thresholds", "curve", "summation_method", "multi_label", "num_labels", "from_logits")
        weights = None if self.label_weights is None else self.label_weights.tolist()
        config = super().get_config() | {name: getattr(self, name) for name in own} | {"label_weights": weights}
        return config if self.given is None else config | {"thresholds": self.given}

    def _riemann(self) -> Array:
        recall = ratio(self.true_positives, np.broadcast_to(self.positives, self.true_positives.shape))
        if self.curve == "ROC":
            negatives = np.broadcast_to(self.negatives, self.false_positives.shape)
            x, y = ratio(self.false_positives, negatives), recall
        elif self.curve == "PR":
            x, y = recall, ratio(self.true_positives, self.true_positives + self.false_positives)
        else:
            x, y = self._gains()
        left, right = y[:-1], y[1:]
        if self.summation_method == "interpolation":
            heights = (left + right) / 2
        else:
            choose = np.minimum if self.summation_method == "minoring" else np.maximum
            heights = choose(left, right)
        return np.asarray(np.sum((x[:-1] - x[1:]) * heights, axis=0))

    def _gains(self) -> tuple[Array, Array]:
        """Return the gains of recall and precision over those of a yes to everything.

        Flach and Kull, Precision-recall-gain curves, 2015. As in Keras the first is at least 0, and without true
        positives it is 0 and the second 1.
        """
        odds, none = ratio(self.positives, self.negatives), self.true_positives == 0
        recall = 1 - odds * ratio(self.false_negatives, self.true_positives)
        precision = 1 - odds * ratio(self.false_positives, self.true_positives)
        return np.maximum(np.where(none, 0, recall), 0), np.where(none, 1, precision)

    def _interpolated(self) -> Array:
        """Return the area when true positives grow linearly with all positives between thresholds.

        Davis and Goadrich, The relationship between precision-recall and ROC curves, 2006.
        """
        true, every = self.true_positives, self.true_positives + self.false_positives
        gained = true[:-1] - true[1:]
        slope = ratio(gained, np.maximum(every[:-1] - every[1:], 0))
        intercept = true[1:] - slope * every[1:]
        usable = (every[:-1] > 0) & (every[1:] > 0)
        growth = np.where(usable, ratio(every[:-1], np.maximum(every[1:], 0)), 1)
        rise = slope * (gained + intercept * np.log(growth))
        positives = np.broadcast_to(self.positives, rise.shape)
        return np.asarray(np.sum(ratio(rise, positives), axis=0))


def _choice(name: str, value: str, legal: tuple[str, ...]) -> str:
    for choice in legal:
        if str(value).lower() == choice.lower():
            return choice
    raise ValueError(f"{name}: expected one of {', '.join(legal)}, got {value!r}")
