"""The example of the README runs and learns."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture(scope="module")
def text():
    return README.read_text(encoding="utf-8")


def test_example(text, capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    names = {}
    exec(compile(code, str(README), "exec"), names)
    assert names["model"].history.history["val_accuracy"][-1] > 0.9
    assert len(code.strip().splitlines()) <= 22


def test_links(text):
    for name in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (README.parent / name).exists(), name
