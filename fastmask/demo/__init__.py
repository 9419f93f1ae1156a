"""The demo: a tagger for Python source text, trained on the standard library's own files.

A character-level bidirectional LSTM learns to say of every character whether it belongs to a
keyword, a name, an operator, a number, a string, a comment or a space, from one line at a time.
Lines have very different lengths; they go in as a list, so no padding exists anywhere.
"""

import sys
import time
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from fastmask import layers, optimizers, utils
from fastmask.demo import corpus
from fastmask.demo.baseline import compare
from fastmask.demo.corpus import SourceFile
from fastmask.demo.paint import legend, paint, wants_colour
from fastmask.models import Sequential

BATCH_SIZE = 128
SNIPPET_LINES = 16


def run(
    epochs: int = 3,
    characters: int = 600_000,
    units: int = 64,
    seed: int = 1,
    stream: IO[str] = sys.stdout,
) -> float:
    """Train the tagger, show what it does and what it costs; return its accuracy on unseen files.

    Parameters
    ----------
    epochs : int, default 3
    characters : int, default 600_000
        Size of the training set; the test set has a fifth of it.
    units : int, default 64
        Of the LSTM in each direction.
    seed : int, default 1
        Of the choice of files, the weights and the order of the lines.
    stream : text file, default sys.stdout
    """
    utils.set_random_seed(seed)
    train, test = corpus.load(characters, characters // 5, seed)
    _say(stream, "Training files", train)
    _say(stream, "Unseen files", test)
    model = tagger(units)
    model.summary(lambda text: print(text, file=stream))
    started = time.perf_counter()
    x, y = dataset(train)
    model.fit(x, y, batch_size=BATCH_SIZE, epochs=epochs)
    print(f"Trained in {time.perf_counter() - started:.1f} s.", file=stream)
    accuracy = _evaluate(model, test, stream)
    _show_snippet(model, test, stream)
    sample = np.random.default_rng(seed).permutation(len(x))[:BATCH_SIZE]
    print(compare(tagger(units), [x[i] for i in sample], [y[i] for i in sample]), file=stream)
    return accuracy


def tagger(units: int) -> Sequential:
    """Return the compiled model."""
    model = Sequential(
        [
            layers.Embedding(corpus.VOCABULARY, 32, mask_zero=True),
            layers.Bidirectional(layers.LSTM(units, return_sequences=True)),
            layers.TimeDistributed(layers.Dense(len(corpus.KINDS), activation="softmax")),
        ]
    )
    optimizer = optimizers.Adam(0.005)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def dataset(files: Sequence[SourceFile]) -> tuple[list[Any], list[Any]]:
    """Return the ids and the kinds of the characters of all lines."""
    lines = [line for file in files for line in file.lines]
    return [corpus.encode(line) for line in lines], [k for file in files for k in file.kinds]


def snippet(files: Sequence[SourceFile], count: int) -> tuple[SourceFile, int]:
    """Return the file and the first of `count` lines in a row in which most kinds meet."""

    def variety(place: tuple[SourceFile, int]) -> tuple[int, float]:
        file, start = place
        kinds = np.concatenate(file.kinds[start : start + count])
        shares = np.bincount(kinds, minlength=len(corpus.KINDS)) / len(kinds)
        return int(np.count_nonzero(shares)), float(-np.sum(shares * np.log(shares + 1e-9)))

    places = [(f, i) for f in files for i in range(0, max(len(f.lines) - count, 1), count)]
    return max(places, key=variety)


def _evaluate(model: Sequential, files: Sequence[SourceFile], stream: IO[str]) -> float:
    x, y = dataset(files)
    predicted = [row.argmax(axis=-1) for row in model.predict(x, batch_size=BATCH_SIZE)]
    found, true = np.concatenate(predicted), np.concatenate(y)
    accuracy = float(np.mean(found == true))
    print(f"Accuracy on unseen files: {accuracy:.2%} of {len(true):,} characters", file=stream)
    shares = (f"{kind} {np.mean(found[true == i] == i):.1%}" for i, kind in enumerate(corpus.KINDS))
    print(f"  of them {', '.join(shares)}", file=stream)
    return accuracy


def _show_snippet(model: Sequential, files: Sequence[SourceFile], stream: IO[str]) -> None:
    file, start = snippet(files, SNIPPET_LINES)
    lines = file.lines[start : start + SNIPPET_LINES]
    predicted = model.predict([corpus.encode(line) for line in lines], verbose=0)
    colour = wants_colour(stream)
    print(f"\n{file.name} as the model reads it: {legend(colour)}\n", file=stream)
    for line in paint(lines, [row.argmax(axis=-1) for row in predicted], colour):
        print(f"    {line}", file=stream)
    print(file=stream)


def _say(stream: IO[str], title: str, files: Sequence[SourceFile]) -> None:
    lines = sum(len(file.lines) for file in files)
    characters = sum(file.characters for file in files)
    longest = max(len(line) for file in files for line in file.lines)
    print(
        f"{title}: {len(files)}, {lines:,} lines, {characters:,} characters "
        f"(mean {characters / lines:.0f} per line, longest {longest})",
        file=stream,
    )
