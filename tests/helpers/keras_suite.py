"""Keras's own tests, which its wheel has: ``python -m helpers.keras_suite WAY RESULTS FILE ...`` runs some one way.

RESULTS becomes a JSON file that says of each test how it ended, and how often the kernels ran in it.
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import keras
import pytest

import fastmask.keras as fk
from helpers.keras_layers import counted

LAYERS = Path(keras.__file__).parent / "src" / "layers"


class Recorder:
    """A plugin of pytest that runs each test within the context that `around` makes."""

    def __init__(self, around):
        self.around = around
        self.outcomes, self.runs = {}, {}

    def pytest_configure(self, config):
        config.addinivalue_line("markers", "requires_trainable_backend: known to Keras's conftest, which it leaves out")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        with counted() as calls, self.around():
            try:
                return (yield)
            finally:
                self.runs[item.nodeid] = len(calls)

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid] = report.outcome


def accelerate_all():
    """Have each recurrent layer accelerated before its calls, and each model when it is compiled."""
    trainer = next(cls for cls in keras.Model.__mro__ if "compile" in vars(cls))
    call, compile_model = keras.layers.RNN.__call__, trainer.compile

    def accelerated_call(self, *args, **kwargs):
        fk.accelerate(self)
        return call(self, *args, **kwargs)

    def accelerated_compile(self, *args, **kwargs):
        compile_model(self, *args, **kwargs)
        fk.accelerate(self)

    keras.layers.RNN.__call__ = accelerated_call
    trainer.compile = accelerated_compile


def take_classes():
    """Have tests make the layers of fastmask.keras in place of Keras's own."""
    for cls in (fk.LSTM, fk.GRU, fk.SimpleRNN):
        setattr(keras.src.layers, cls.__name__, cls)


WAYS = {"keras": None, "accelerate": accelerate_all, "scope": None, "classes": take_classes}


def main(way, results, *files):
    if WAYS[way] is not None:
        WAYS[way]()
    recorder = Recorder(fk.accelerated if way == "scope" else nullcontext)
    options = ["-q", "-c", "/dev/null", "--rootdir", str(LAYERS), "-p", "no:cacheprovider", "--tb=short"]
    status = pytest.main([*options, *[str(LAYERS / f"{name}_test.py") for name in files]], plugins=[recorder])
    found = {name: (outcome, recorder.runs.get(name, 0)) for name, outcome in recorder.outcomes.items()}
    Path(results).write_text(json.dumps(found), "utf-8")
    return 0 if status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) else status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
