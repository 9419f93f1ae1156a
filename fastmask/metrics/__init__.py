"""Metrics, with Keras's values of tokens: masked tokens count in none of them.

Each update adds, with v the values, w the sample weights and m the mask, ``sum(v w m)`` to the
total and ``sum(w m)`` to the count; the result is their ratio, however rows are cut into batches.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from fastmask import losses
from fastmask.core.objects import Registry, in_snake_case, missing, snake_case
from fastmask.losses.functions import FUNCTIONS as _LOSS_FUNCTIONS
from fastmask.metrics.accuracy import (
    Accuracy,
    BinaryAccuracy,
    CategoricalAccuracy,
    SparseCategoricalAccuracy,
    SparseTopKCategoricalAccuracy,
    TopKCategoricalAccuracy,
    binary_accuracy,
    categorical_accuracy,
    sparse_categorical_accuracy,
    sparse_top_k_categorical_accuracy,
    top_k_categorical_accuracy,
)
from fastmask.metrics.auc import AUC
from fastmask.metrics.base import Mean, MeanMetricWrapper, Metric
from fastmask.metrics.confusion import (
    FalseNegatives,
    FalsePositives,
    Precision,
    Recall,
    TrueNegatives,
    TruePositives,
)
from fastmask.metrics.means import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    CategoricalHinge,
    CosineSimilarity,
    Crossentropy,
    Hinge,
    KLDivergence,
    LogCoshError,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanOfLoss,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    Perplexity,
    Poisson,
    RootMeanSquaredError,
    SparseCategoricalCrossentropy,
    SquaredHinge,
)

__all__ = [
    "AUC",
    "Accuracy",
    "BinaryAccuracy",
    "BinaryCrossentropy",
    "CategoricalAccuracy",
    "CategoricalCrossentropy",
    "CategoricalHinge",
    "CosineSimilarity",
    "FalseNegatives",
    "FalsePositives",
    "Hinge",
    "KLDivergence",
    "LogCoshError",
    "Mean",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanMetricWrapper",
    "MeanSquaredError",
    "MeanSquaredLogarithmicError",
    "Metric",
    "Perplexity",
    "Poisson",
    "Precision",
    "Recall",
    "RootMeanSquaredError",
    "SparseCategoricalAccuracy",
    "SparseCategoricalCrossentropy",
    "SparseTopKCategoricalAccuracy",
    "SquaredHinge",
    "TopKCategoricalAccuracy",
    "TrueNegatives",
    "TruePositives",
    "binary_accuracy",
    "categorical_accuracy",
    "deserialize",
    "get",
    "serialize",
    "sparse_categorical_accuracy",
    "sparse_top_k_categorical_accuracy",
    "top_k_categorical_accuracy",
]

_CLASSES: tuple[type[Metric], ...] = (
    Accuracy, BinaryAccuracy, CategoricalAccuracy, SparseCategoricalAccuracy, TopKCategoricalAccuracy,
    SparseTopKCategoricalAccuracy, AUC, Precision, Recall, TruePositives, FalsePositives, TrueNegatives, FalseNegatives,
    MeanSquaredError, RootMeanSquaredError, MeanAbsoluteError, MeanAbsolutePercentageError,
    MeanSquaredLogarithmicError, LogCoshError, CosineSimilarity, Hinge, SquaredHinge, CategoricalHinge, KLDivergence,
    Poisson, BinaryCrossentropy, CategoricalCrossentropy, SparseCategoricalCrossentropy, Crossentropy, Perplexity,
)  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        binary_accuracy,
        categorical_accuracy,
        sparse_categorical_accuracy,
        top_k_categorical_accuracy,
        sparse_top_k_categorical_accuracy,
    )
} | _LOSS_FUNCTIONS
_NAMED = in_snake_case(_CLASSES)
_ALIASES: dict[str, Any] = {
    "acc": Accuracy,
    **{alias: _NAMED[snake_case(cls.__name__)] for alias, cls in losses.ALIASES.items()},
    **{name: partial(MeanMetricWrapper, function) for name, function in _FUNCTIONS.items() if name not in _NAMED},
}


def _of_function(function: Any) -> Metric:
    return MeanOfLoss(function) if isinstance(function, losses.Loss) else MeanMetricWrapper(function)


REGISTRY = Registry(
    "metric", Metric, "keras.metrics", _NAMED, _ALIASES, from_function=_of_function, tells_name=True,
    takes="a name, a Metric or a function",
)  # fmt: skip


def get(identifier: Any) -> Metric:
    """Return the metric that a name, a class, a function, a config or an instance stands for.

    Parameters
    ----------
    identifier : str, Metric, type, callable or dict
        A name becomes the metric's key in the logs as it stands. A function takes `y_true` and
        `y_pred` and returns what `MeanMetricWrapper` says.

    Raises
    ------
    ValueError
        If a name is unknown; the message lists the legal ones.
    TypeError
        If `identifier` is something else.
    """
    return deserialize(identifier) if isinstance(identifier, Mapping) else REGISTRY.get(identifier)


def serialize(metric: Metric) -> dict[str, Any]:
    """Return the class name and config of a metric."""
    return REGISTRY.serialize(metric)


def deserialize(config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Metric:
    """Return a metric from what `serialize` returned.

    Parameters
    ----------
    config : dict
    custom_objects : dict of str to class or function, optional
        Metrics of your own by name.

    Raises
    ------
    ValueError
        If there is no metric of that name.
    """
    own: Mapping[str, Any] = _FUNCTIONS if config.get("class_name") == "function" else {"Mean": Mean}
    return REGISTRY.deserialize(config, {**own, **(custom_objects or {})})


if not TYPE_CHECKING:
    __getattr__ = missing(__name__)
