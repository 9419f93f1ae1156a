"""The scripts of ``examples/``: they run, and train to the losses that Keras reaches from the same weights.

With FASTMASK_KERAS_PYTHON naming a Python with Keras and PyTorch the losses are compared live, too.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from examples.cases import CASES, FOLDER, digest, load, possible

import fastmask as fm

HERE = Path(__file__).parent / "examples"
RECORDED = json.loads((HERE / "losses.json").read_text(encoding="utf-8"))
KERAS = os.environ.get("FASTMASK_KERAS_PYTHON")
ELSEWHERE = {"predict_ray", "train_ddp"}  # tested in bridges/: they need packages that the others do not
SHORT = {
    "sentiment": ["--rows", "60"],
    "addition": ["--rows", "60", "--digits", "2"],
    "translation": ["--rows", "40"],
    "stateful": ["--series", "3", "--pieces", "6"],
    "tagging": ["--files", "1"],
    "multi_input": ["--rows", "60"],
}


def check(name, expected):
    losses = CASES[name](fm)
    assert losses == pytest.approx(expected, abs=1e-4)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", CASES)
def test_losses_are_those_of_keras(name):
    if name == "sentiment_files" and digest() != RECORDED["sentences"]:
        pytest.skip("FASTMASK_SENTENCES does not name the files that were recorded")
    check(name, RECORDED["losses"][name])


@pytest.mark.skipif(not KERAS, reason="FASTMASK_KERAS_PYTHON names no Python with Keras")
def test_losses_are_those_of_live_keras(tmp_path):
    path = tmp_path / "losses.json"
    subprocess.run([KERAS, HERE / "record.py", path], check=True)
    live = json.loads(path.read_text(encoding="utf-8"))["losses"]
    assert list(live) == list(possible())
    for name, expected in live.items():
        check(name, expected)


@pytest.mark.parametrize("name", sorted({path.stem for path in FOLDER.glob("*.py")} - ELSEWHERE))
def test_script(name, capsys):
    result = load(name).main([*SHORT[name], "--epochs", "1"])
    assert np.isfinite(result)
    assert "Total params" in capsys.readouterr().out


def test_sentiment_reads_files(tmp_path):
    sentences = load("sentiment").make_up(40)
    paths = [tmp_path / "praise", tmp_path / "blame"]
    for path, rows in zip(paths, sentences, strict=True):
        path.write_text("\n".join(map(" ".join, rows)))
    assert load("sentiment").read(paths[1]) == sentences[1]
    assert 0 <= load("sentiment").main([*map(str, paths), "--epochs", "1"]) <= 1


def test_sentiment_wants_two_files(capsys):
    with pytest.raises(SystemExit):
        load("sentiment").main(["alone.txt"])
    assert "give two files or none, not 1" in capsys.readouterr().err


def test_forgetting_costs():
    losses = {}
    for flags in ([], ["--forgetful"]):
        losses[len(flags)] = load("stateful").main(["--pieces", "30", "--epochs", "20", *flags])
    assert losses[0] < 0.75 * losses[1]


def test_addition_shows_sums_as_written():
    example = load("addition")
    sums, answers = example.questions(20, 2)
    x, y = example.data(20, 2)
    assert example.decode_sums(x) == sums
    assert example.decode(y) == answers


def test_tags():
    example = load("tagging")
    (statement,) = example.statements("def f(x=1): return x.y(z).w")
    tags = [example.tag(statement, i) for i in range(len(statement))]
    found = {word: tag for (_, word), tag in zip(statement, tags, strict=True)}
    assert found["f"] == "definition"
    assert found["1"] == "literal"
    assert found["return"] == "keyword"
    assert found["y"] == "method"
    assert found["w"] == "attribute"
    assert found["z"] == "name"
