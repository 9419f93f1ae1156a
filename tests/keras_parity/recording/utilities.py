"""pad_sequences, to_categorical and the text of model.summary()."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from specs import make_layers

from .stacks import STACKS

SEQUENCES: dict[str, list[Any]] = {
    "ids": [[1, 2, 3], [4], [], [5, 6, 7, 8, 9]],
    "floats": [[0.5, 1.7], [2.9], [-3.2, 4.0, 5.5]],
    "vectors": [[[1, 2], [3, 4]], [[5, 6]], [[7, 8], [9, 10], [11, 12]]],
}
PADDING: tuple[dict[str, Any], ...] = (
    {},
    {"padding": "post"},
    {"maxlen": 3},
    {"maxlen": 3, "truncating": "post"},
    {"maxlen": 3, "padding": "post"},
    {"maxlen": 3, "padding": "post", "truncating": "post"},
    {"maxlen": 7, "value": -1},
    {"dtype": "float32", "value": 0.25},
    {"dtype": "int64", "padding": "post"},
    {"maxlen": 1},
)
LABELS: dict[str, tuple[Any, int | None]] = {
    "list": ([0, 2, 1], None),
    "classes": ([0, 2, 1], 5),
    "matrix": (np.array([[0, 1], [3, 2]]), None),
    "column": (np.array([[0], [3]]), 4),
    "batch_of_one": (np.array([[2, 0, 1]]), 3),
    "scalar": (2, 4),
    "floats": (np.array([0.0, 1.9, 2.0]), None),
}


def padding_cases() -> dict[str, Any]:
    """Record pad_sequences."""
    cases = {}
    for kind, sequences in SEQUENCES.items():
        for options in PADDING:
            label = ",".join(f"{key}={value}" for key, value in options.items())
            padded = keras.utils.pad_sequences(sequences, **options)
            cases[f"pad-{kind}-{label}"] = {"sequences": sequences, "options": options, "padded": padded}
    return cases


def label_cases() -> dict[str, Any]:
    """Record to_categorical."""
    return {
        f"labels-{name}": {"labels": x, "num_classes": n, "encoded": np.asarray(keras.utils.to_categorical(x, n))}
        for name, (x, n) in LABELS.items()
    }


def summary_cases() -> dict[str, Any]:
    """Record the text of summary(), and what it counts, for information."""
    model = keras.Sequential(make_layers(keras.layers, STACKS["tagger"], "float32"))
    model.build((None, 5))
    lines: list[str] = []
    model.summary(print_fn=lambda text, **_: lines.append(text), line_length=80)
    counts = [layer.count_params() for layer in model.layers]
    return {"summary": {"layers": STACKS["tagger"], "text": "\n".join(lines), "parameters": counts}}


def record_utilities() -> dict[str, Any]:
    """Record all of it."""
    return padding_cases() | label_cases() | summary_cases()
