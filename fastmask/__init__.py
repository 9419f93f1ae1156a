"""Masked recurrent networks on the CPU: time and memory follow the valid tokens, not the padding.

>>> import fastmask as fm
>>> model = fm.Sequential([
...     fm.layers.Embedding(1000, 64, mask_zero=True),
...     fm.layers.LSTM(32),
...     fm.layers.Dense(1, activation="sigmoid"),
... ])
>>> model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
"""

import os
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastmask import (
        callbacks,
        config,
        constraints,
        convert,
        initializers,
        kernels,
        layers,
        losses,
        metrics,
        models,
        ops,
        optimizers,
        random,
        reference,
        regularizers,
        saving,
        utils,
    )
    from fastmask.batch.packing import PackedSequence, Packing
    from fastmask.models import Input, Model, Sequential
    from fastmask.threads import get_num_threads, set_num_threads

__version__ = "0.1.0"


def _require_kernels() -> None:
    """Raise ImportError if the compiled modules do not stand beside this file."""
    folder = os.path.join(os.path.dirname(__file__), "kernels")
    if not any(name.endswith(tuple(EXTENSION_SUFFIXES)) for name in os.listdir(folder)):
        raise ImportError(
            f"the compiled kernels of fastmask are missing from {folder}. This looks like a source "
            "checkout that has not been built: run `pip install -e .` in it, or leave the folder "
            "to use an installed fastmask."
        )


_require_kernels()
if os.environ.get("FASTMASK_ISA"):
    import_module("fastmask.kernels")  # which says at once if this is no instruction set of this machine

_NAMES = {
    "Input": "models",
    "Model": "models",
    "Sequential": "models",
    "PackedSequence": "batch.packing",
    "Packing": "batch.packing",
    "get_num_threads": "threads",
    "set_num_threads": "threads",
}

__all__ = [
    "Input",
    "Model",
    "PackedSequence",
    "Packing",
    "Sequential",
    "__version__",
    "callbacks",
    "config",
    "constraints",
    "convert",
    "get_num_threads",
    "initializers",
    "kernels",
    "layers",
    "losses",
    "metrics",
    "models",
    "ops",
    "optimizers",
    "random",
    "reference",
    "regularizers",
    "saving",
    "set_num_threads",
    "utils",
]


def __getattr__(name: str) -> Any:
    """Import a public module or name on first use, which keeps ``import fastmask`` quick."""
    if name in _NAMES:
        value = getattr(import_module(f"fastmask.{_NAMES[name]}"), name)
        globals()[name] = value
        return value
    if name in __all__:
        return import_module(f"fastmask.{name}")
    raise AttributeError(f"module 'fastmask' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return __all__
