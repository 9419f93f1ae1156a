"""Tell praise from blame: two bidirectional LSTMs over the words of a sentence.

    python examples/sentiment.py praise.txt blame.txt    # two files of yours, one sentence a line
    python examples/sentiment.py                         # made-up sentences

With ``--keras`` the same code runs on Keras.
"""

import argparse
import importlib
from collections import Counter
from pathlib import Path

import numpy as np

PADDING, UNKNOWN, FIRST_WORD = 0, 1, 2


def read(path, limit=None):
    """Return the sentences of a file, one a line, as lists of words."""
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.lower().split() for line in lines if line.strip()][:limit]


def make_up(rows, seed=0):
    """Return made-up sentences of 3 to 30 words, praise and blame; "not" turns the next judgement round."""
    rng = np.random.default_rng(seed)
    found = {True: [], False: []}
    for _ in range(rows):
        words = [f"word{i}" for i in rng.integers(200, size=rng.integers(3, 30))]
        praise, negated = bool(rng.integers(2)), bool(rng.integers(2))
        judgement = "good" if praise != negated else "bad"
        place = int(rng.integers(len(words)))
        words[place : place + 1] = ["not", judgement] if negated else [judgement]
        found[praise].append(words)
    return found[True], found[False]


def data(lib, praise, blame, vocabulary=10000, longest=100, seed=0):
    """Return padded word ids (rows, time) and labels (rows, 1), shuffled."""
    sentences = [*praise, *blame]
    counts = Counter(word for words in sentences for word in words).most_common(vocabulary - FIRST_WORD)
    ids = {word: i for i, (word, _) in enumerate(counts, FIRST_WORD)}
    rows = [[ids.get(word, UNKNOWN) for word in words] for words in sentences]
    x = lib.utils.pad_sequences(rows, maxlen=longest, padding="post", truncating="post")
    y = np.array([[1.0]] * len(praise) + [[0.0]] * len(blame), "float32")
    order = np.random.default_rng(seed).permutation(len(x))
    return x[order], y[order]


def build(lib, vocabulary=10000, width=64, units=32):
    """Return the compiled model: word ids to the probability of praise."""
    model = lib.Sequential(
        [
            lib.Input((None,), dtype="int32"),
            lib.layers.Embedding(vocabulary, width, mask_zero=True),
            lib.layers.Bidirectional(lib.layers.LSTM(units, return_sequences=True)),
            lib.layers.Bidirectional(lib.layers.LSTM(units)),
            lib.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return model


def main(arguments=None):
    """Train and return the validation accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="a file of praise and one of blame")
    parser.add_argument("--rows", type=int, default=2000, help="sentences to make up, or to read from each file")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--keras", action="store_true", help="run on Keras")
    options = parser.parse_args(arguments)
    if len(options.files) not in (0, 2):
        parser.error(f"give two files or none, not {len(options.files)}")
    lib = importlib.import_module("keras" if options.keras else "fastmask")
    lib.utils.set_random_seed(0)
    praise, blame = [read(path, options.rows) for path in options.files] or make_up(options.rows)
    x, y = data(lib, praise, blame)
    model = build(lib)
    model.summary()
    history = model.fit(x, y, epochs=options.epochs, validation_split=0.2, verbose=2)
    return history.history["val_accuracy"][-1]


if __name__ == "__main__":
    main()
