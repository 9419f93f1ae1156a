"""Metrics, with Keras's values of tokens: masked tokens count in none of them.

Each update adds, with v the values, w the sample weights and m the mask, ``sum(v w m)`` to the
total and ``sum(w m)`` to the count; the result is their ratio, however rows are cut into batches.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fastmask import losses
from fastmask.core import objects
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

_NAMED: dict[str, type[Metric]] = {
    "accuracy": Accuracy,
    "binary_accuracy": BinaryAccuracy,
    "categorical_accuracy": CategoricalAccuracy,
    "sparse_categorical_accuracy": SparseCategoricalAccuracy,
    "top_k_categorical_accuracy": TopKCategoricalAccuracy,
    "sparse_top_k_categorical_accuracy": SparseTopKCategoricalAccuracy,
    "auc": AUC,
    "precision": Precision,
    "recall": Recall,
    "true_positives": TruePositives,
    "false_positives": FalsePositives,
    "true_negatives": TrueNegatives,
    "false_negatives": FalseNegatives,
    "mean_squared_error": MeanSquaredError,
    "root_mean_squared_error": RootMeanSquaredError,
    "mean_absolute_error": MeanAbsoluteError,
    "mean_absolute_percentage_error": MeanAbsolutePercentageError,
    "mean_squared_logarithmic_error": MeanSquaredLogarithmicError,
    "log_cosh_error": LogCoshError,
    "cosine_similarity": CosineSimilarity,
    "hinge": Hinge,
    "squared_hinge": SquaredHinge,
    "categorical_hinge": CategoricalHinge,
    "kl_divergence": KLDivergence,
    "poisson": Poisson,
    "binary_crossentropy": BinaryCrossentropy,
    "categorical_crossentropy": CategoricalCrossentropy,
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
    "crossentropy": Crossentropy,
    "perplexity": Perplexity,
}
_ALIASES = {"acc": "accuracy"} | losses.ALIASES
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
    if isinstance(identifier, Metric):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Metric):
        return identifier()
    if isinstance(identifier, losses.Loss):
        return MeanOfLoss(identifier)
    if isinstance(identifier, Mapping):
        return deserialize(identifier)
    if isinstance(identifier, str):
        return _named(identifier)
    if callable(identifier):
        return MeanMetricWrapper(identifier)
    raise TypeError(f"metrics: expected names, metrics or functions, got {identifier!r}")


def serialize(metric: Metric) -> dict[str, Any]:
    """Return the class name and config of a metric."""
    return objects.serialize(metric, "keras.metrics")


def deserialize(
    config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
) -> Metric:
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
    if config.get("class_name") == "function" and config.get("config") in _FUNCTIONS:
        return MeanMetricWrapper(_FUNCTIONS[str(config["config"])])
    classes = {cls.__name__: cls for cls in (*_NAMED.values(), Mean)}
    return get(objects.deserialize(config, classes, custom_objects, "metric"))


def _named(name: str) -> Metric:
    wanted = _ALIASES.get(name.lower(), name.lower())
    for known, cls in _NAMED.items():
        if wanted in (known, cls.__name__.lower()):
            return cls(name=name)
    if wanted in _FUNCTIONS:
        return MeanMetricWrapper(_FUNCTIONS[wanted], name)
    legal = {*_NAMED, *_ALIASES, *_FUNCTIONS}
    raise ValueError(f"metrics: expected names among {', '.join(sorted(legal))}, got {name!r}")


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Say what to do about a class of Keras that is not here."""
        raise objects.missing(__name__, name)
