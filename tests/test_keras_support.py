"""The table in docs/keras_support.md against the public names of fastmask and of Keras."""

import inspect
import re
from operator import attrgetter
from pathlib import Path

import pytest
from keras_parity.archive import load

import fastmask as fm

TEXT = (Path(__file__).parents[1] / "docs" / "keras_support.md").read_text()
KERAS = load("names")["cases"]
ROW = re.compile(r"^\| `(\w+)` \| (yes|no) \|(.*)\|$", re.MULTILINE)
SECTIONS = {
    module: part
    for part in TEXT.split("\n## ")[1:]
    for module in re.findall(r"^In `fastmask\.([\w.]+)`", part, re.MULTILINE)
}
OWN = {"Gradients", "Variable"}  # what layers and their weights are made of


def rows(module):
    return {name: (answer, note.strip()) for name, answer, note in ROW.findall(SECTIONS[module])}


@pytest.mark.parametrize("module", KERAS)
def test_every_class_of_keras_has_its_row(module):
    assert sorted(rows(module)) == KERAS[module]


@pytest.mark.parametrize("module", KERAS)
def test_rows_say_what_the_code_says(module):
    here = attrgetter(module)(fm)
    for name, (answer, note) in rows(module).items():
        assert (answer == "yes") == hasattr(here, name), name
        assert answer == "yes" or note, f"{name} has neither a reason nor a way out"


@pytest.mark.parametrize("module", ["layers", "losses", "metrics", "optimizers", "callbacks"])
def test_every_public_class_is_on_the_page(module):
    here = attrgetter(module)(fm)
    classes = {
        getattr(here, name).__name__
        for name in here.__all__
        if inspect.isclass(getattr(here, name))
    }
    named = {*re.findall(r"`(\w+)`", SECTIONS[module])}
    assert classes - OWN <= named


def test_names_in_notes_exist():
    """What a note recommends is here."""
    for module in ("layers", "metrics", "optimizers", "losses", "callbacks"):
        for name, (answer, note) in rows(module).items():
            for other in re.findall(r"`([A-Z]\w+)`", note):
                places = [attrgetter(place)(fm) for place in (module, "initializers", "regularizers")]
                assert any(hasattr(place, other) for place in places), (name, answer, other)


@pytest.mark.parametrize("module", ["layers", "losses", "metrics", "optimizers", "callbacks"])
def test_what_is_missing_comes_with_a_way_out(module):
    missing = next(name for name, (answer, _) in rows(module).items() if answer == "no")
    with pytest.raises(AttributeError, match=f"no attribute '{missing}'; docs/keras_support.md lists what there is"):
        getattr(getattr(fm, module), missing)
    with pytest.raises(AttributeError, match=r"no attribute 'conv'$"):
        _ = getattr(fm, module).conv
    for statement in (f"import fastmask.{module}.{missing}", f"from fastmask.{module} import {missing}"):
        with pytest.raises(ImportError, match=f"no attribute '{missing}'; docs/keras_support.md lists what there is"):
            exec(statement)
    with pytest.raises(ImportError, match="cannot import name 'conv'"):
        exec(f"from fastmask.{module} import conv")
    with pytest.raises(ModuleNotFoundError, match="No module named"):
        exec(f"import fastmask.{module}.conv")
