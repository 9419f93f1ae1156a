"""Parameters and defaults against Keras's, and layers from Keras's configs."""

from inspect import Parameter, signature

import pytest

import fastmask as fm

from .archive import load

RECORDED = load("interfaces")["cases"]
OWN_DEFAULTS = ("name", "print_fn")  # made from the class, or shown otherwise
NOT_IN_CONFIG = ("dtype", "quantization_config")
OTHERWISE = ("Sequential.summary",)


def positional(function):
    """List [name, has a default, default] as it was recorded."""
    return [
        [p.name, p.default is not Parameter.empty, None if p.default is Parameter.empty else p.default]
        for p in signature(function).parameters.values()
        if p.kind is Parameter.POSITIONAL_OR_KEYWORD and p.name != "self"
    ]


@pytest.mark.parametrize("name", [name for name in RECORDED["signatures"] if name not in OTHERWISE])
def test_positional_parameters(name):
    owner, function = name.split(".")
    found = positional(getattr(getattr(fm, owner), function))
    for own, recorded in zip(found, RECORDED["signatures"][name], strict=False):
        assert own[0] == recorded[0]
        assert own[0] in OWN_DEFAULTS or own == recorded


@pytest.mark.parametrize("name", RECORDED["signatures"])
def test_defaults(name):
    owner, function = name.split(".")
    found = signature(getattr(getattr(fm, owner), function)).parameters
    recorded = {parameter: default for parameter, given, default in RECORDED["signatures"][name] if given}
    common = [parameter for parameter in recorded if parameter in found and parameter not in OWN_DEFAULTS]
    assert {key: found[key].default for key in common} == {key: recorded[key] for key in common}


def compare(found, recorded, path):
    """Assert that every entry of a recorded config that is not None is in the one found."""
    for key, value in recorded.items():
        if isinstance(value, dict) and key not in NOT_IN_CONFIG:
            compare(found[key], value, f"{path}.{key}")
        elif value is not None and key not in NOT_IN_CONFIG:
            assert found[key] == value, f"{path}.{key}"


@pytest.mark.parametrize("name", RECORDED["serialized"])
def test_layers_from_configs(name):
    recorded = RECORDED["serialized"][name]
    layer = fm.layers.deserialize(recorded)
    assert layer.dtype == "float32"
    compare(fm.layers.serialize(layer), recorded, recorded["class_name"])
