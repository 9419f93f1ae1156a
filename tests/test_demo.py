"""The demo: labels of source text, colours, the run as a whole, the command line."""

import io
import subprocess
import sys

import numpy as np
import pytest

import fastmask as fm
from fastmask import __main__ as command
from fastmask import demo
from fastmask.demo import corpus
from fastmask.demo.baseline import numpy_step
from fastmask.demo.paint import legend, paint, wants_colour

LETTERS = dict(zip(corpus.KINDS, " kno0sc", strict=True))

SOURCE = '''\
def f(x):  # why
    """Doc
    more = 1
    """
    return x[1_0] + 'ä'
'''

LABELS = [
    "kkk nonoo  ccccc",
    "    ssssss",
    "ssssssssssss",
    "sssssss",
    "    kkkkkk no000o o sss",
    "",
]


def letters(kinds):
    return "".join(LETTERS[corpus.KINDS[kind]] for kind in kinds)


def test_labels():
    assert [letters(kinds) for kinds in corpus.label(SOURCE)] == LABELS


def test_ids():
    ids = corpus.encode("\x00a~\x7fä€")
    assert ids.dtype == np.int64
    assert ids.tolist() == [1, 98, 127, 128, 129, 129]


def test_read(tmp_path):
    good, broken, binary = (tmp_path / name for name in ("good.py", "broken.py", "binary.py"))
    good.write_text("x = 1\n\n\ny = 2\n")
    broken.write_text("x = (1\n")
    binary.write_bytes(b"\xff\xfe\x00")
    file = corpus.read(good)
    assert file.lines == ["x = 1", "y = 2"]
    assert [letters(kinds) for kinds in file.kinds] == ["n o 0"] * 2
    assert file.characters == 10
    assert corpus.read(broken) is None
    assert corpus.read(binary) is None
    assert corpus.read(tmp_path / "absent.py") is None


def test_load_splits_by_file():
    train, test = corpus.load(50_000, 20_000, seed=3)
    assert not {file.name for file in train} & {file.name for file in test}
    assert sum(file.characters for file in train) >= 50_000
    assert sum(file.characters for file in test) >= 20_000
    for file in train + test:
        assert [len(line) for line in file.lines] == [len(kinds) for kinds in file.kinds]


def test_paint():
    kinds = [[corpus.KINDS.index(kind) for kind in ("keyword", "keyword", "space", "number")]]
    assert paint(["if 1"], kinds, colour=False) == ["if 1", "kk 0"]
    assert paint(["if 1"], kinds, colour=True) == ["\x1b[35mif\x1b[0m \x1b[33m1\x1b[0m"]
    assert "k keyword" in legend(colour=False)
    assert "\x1b[35mkeyword\x1b[0m" in legend(colour=True)


def test_colour_is_for_terminals_that_want_it(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert wants_colour(Terminal())
    assert not wants_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())


def test_the_baseline_computes_the_same():
    fm.utils.set_random_seed(0)
    model = demo.tagger(5)
    x = [corpus.encode(line) for line in ("a = 1", "", "if b:", "# long comment")]
    y = [np.arange(len(row)) % len(corpus.KINDS) for row in x]
    loss, grads = model.loss_and_gradients(x, y)
    ids, targets = (fm.utils.pad_sequences(rows, padding="post") for rows in (x, y))
    expected_loss, expected = numpy_step(model.get_weights(), ids, targets)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for found, grad in zip(grads, expected, strict=True):
        dense = found.dense() if isinstance(found, fm.ops.SparseRows) else found
        np.testing.assert_allclose(dense, grad, atol=1e-6)


def test_run():
    out = io.StringIO()
    accuracy = demo.run(epochs=4, characters=60_000, units=16, stream=out)
    assert 0.5 < accuracy <= 1
    for part in ("Unseen files", "Accuracy on unseen files", "as the model reads it", "k keyword",
                 "padding skipped", "NumPy reference", "largest difference"):  # fmt: skip
        assert part in out.getvalue()


def test_without_sources(monkeypatch, capsys):
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda name: "/nowhere")
    assert command.main(["demo"]) == 1
    assert "found too few Python sources in /nowhere" in capsys.readouterr().err


def test_info(monkeypatch, capsys):
    monkeypatch.setattr(fm.kernels, "peak_gflops", lambda dtype=None: 123.4)
    assert command.main(["info"]) == 0
    out = capsys.readouterr().out
    for part in (fm.__version__, fm.kernels.instruction_set(), np.__version__, "123 GFLOP/s"):
        assert part in out


def test_command_line():
    found = subprocess.run(
        [sys.executable, "-m", "fastmask", "--help"], capture_output=True, text=True, check=True
    )
    assert "usage: python -m fastmask" in found.stdout
    for arguments in (["--epochs", "0"], ["--units", "x"], ["train"]):
        with pytest.raises(SystemExit) as error:
            command.main(arguments)
        assert error.value.code == 2
