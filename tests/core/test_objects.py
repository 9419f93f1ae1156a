"""The registries: what names, configs and functions stand for."""

import pytest

import fastmask as fm
from fastmask import constraints, initializers, losses, metrics, optimizers, regularizers
from fastmask.core.objects import made, missing, snake_case
from fastmask.optimizers import schedules

MODULES = {module.REGISTRY.kind: module for module in (constraints, initializers, losses, metrics, optimizers)}
MODULES |= {"regularizer": regularizers}
REGISTRIES = {kind: module.REGISTRY for kind, module in MODULES.items()} | {"schedule": schedules.REGISTRY}


@pytest.mark.parametrize("kind", REGISTRIES)
def test_letter_case_does_not_matter(kind):
    registry = REGISTRIES[kind]
    for name in registry.names:
        cls = registry.find(name)
        assert cls is registry.find(name.upper())
        if isinstance(cls, type):
            assert issubclass(cls, registry.base)
            assert registry.find(cls.__name__) is cls


@pytest.mark.parametrize("kind", MODULES)
def test_what_is_taken(kind):
    module, registry = MODULES[kind], REGISTRIES[kind]
    for name in registry.names:
        thing = module.get(name)
        assert isinstance(thing, registry.base)
        assert module.get(thing) is thing
    with pytest.raises(ValueError, match=rf"^{kind}: expected one of .*{registry.names[0]}, .*, got 'none such'$"):
        module.get("none such")
    with pytest.raises(ValueError, match=rf"^{kind}: expected one of .*, got 'None'$"):
        module.get({"config": {}})
    with pytest.raises(TypeError, match=rf"^{kind}: expected a name.*, got 3$"):
        module.get(3)


@pytest.mark.parametrize("kind", REGISTRIES)
def test_what_is_serialized(kind):
    registry = REGISTRIES[kind]
    with pytest.raises(TypeError, match=rf"^{kind}: expected an instance of {registry.base.__name__} to serialize"):
        registry.serialize(3)
    for name in registry.names if kind in MODULES else ():
        cls = registry.find(name)
        if isinstance(cls, type):
            first = registry.get(name)
            again = registry.deserialize(registry.serialize(first))
            assert type(again) is cls
            assert again.get_config() == first.get_config()


def test_objects_of_the_user_come_first():
    class Mine(losses.MeanSquaredError):
        pass

    own = {"MeanSquaredError": Mine, "mine>Mine": losses.Huber, "plain": lambda y_true, y_pred: (y_true, y_pred)}
    assert type(losses.deserialize({"class_name": "MeanSquaredError", "config": {}}, own)) is Mine
    assert type(losses.deserialize({"class_name": "Mine", "registered_name": "mine>Mine"}, own)) is losses.Huber
    assert losses.deserialize({"class_name": "function", "config": "plain"}, own).function is own["plain"]
    with pytest.raises(TypeError, match="schedule: expected a LearningRateSchedule, got <"):
        schedules.deserialize({"class_name": "Mine"}, {"Mine": Mine})


def test_metrics_from_functions():
    assert metrics.get({"class_name": "function", "config": "huber"}).function is losses.huber
    named = metrics.get("Huber")
    assert named.name == "Huber"
    assert named.function is losses.huber
    assert isinstance(metrics.deserialize({"class_name": "Mean", "config": {"name": "own"}}), metrics.Mean)


def test_made_without_from_config():
    assert made(dict, {"a": 1}) == {"a": 1}
    assert made(losses.Huber, {"delta": 2.0}).delta == 2.0


@pytest.mark.parametrize(
    ("name", "expected"),
    [("SimpleRNN", "simple_rnn"), ("KLDivergence", "kl_divergence"), ("AUC", "auc"), ("Conv1D<T>", "conv1dt"),
     ("SparseTopKCategoricalAccuracy", "sparse_top_k_categorical_accuracy")],
)  # fmt: skip
def test_snake_case(name, expected):
    assert snake_case(name) == expected


def test_names_that_are_not_there():
    for module in (fm.layers, losses, metrics, optimizers, fm.callbacks):
        with pytest.raises(AttributeError, match=r"has no attribute 'Conv1D'; .*accelerate"):
            _ = module.Conv1D
    with pytest.raises(AttributeError, match=r"^module 'a' has no attribute 'b'$"):
        missing("a")("b")
