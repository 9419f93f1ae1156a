"""Tag every word of a sentence: a bidirectional LSTM over the tokens of Python statements.

    python examples/tagging.py [--files 40] [--keras]

The data are the sources of the standard library: each statement is a sentence, and each of its words is tagged with
the part it plays, which depends on its neighbours to both sides.
"""

import argparse
import importlib
import io
import sysconfig
import tokenize
from collections import Counter
from keyword import iskeyword
from pathlib import Path

TAGS = ("operator", "literal", "keyword", "definition", "attribute", "method", "call", "name")
PADDING, UNKNOWN, FIRST_WORD = 0, 1, 2


def read(count):
    """Return the texts of the first modules of the standard library."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return [path.read_text(encoding="utf-8") for path in paths[:count]]


def statements(text):
    """Yield every statement of a source text as a list of (kind of token, word)."""
    statement = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING):
            statement.append((token.type, token.string))
        elif token.type == tokenize.NEWLINE and statement:
            yield statement
            statement = []


def tag(statement, place):
    """Return the tag of a word of a statement."""
    kind, word = statement[place]
    before = statement[place - 1][1] if place else ""
    called = place + 1 < len(statement) and statement[place + 1][1] == "("
    if kind != tokenize.NAME:
        return "operator" if kind == tokenize.OP else "literal"
    if iskeyword(word):
        return "keyword"
    if before in ("def", "class"):
        return "definition"
    if before == ".":
        return "method" if called else "attribute"
    return "call" if called else "name"


def data(lib, texts, vocabulary=2000, longest=60):
    """Return padded word ids and tags (rows, time)."""
    found = [statement for text in texts for statement in statements(text)]
    counts = Counter(word for statement in found for _, word in statement).most_common(vocabulary - FIRST_WORD)
    ids = {word: i for i, (word, _) in enumerate(counts, FIRST_WORD)}
    words = [[ids.get(word, UNKNOWN) for _, word in statement] for statement in found]
    tags = [[TAGS.index(tag(statement, i)) for i in range(len(statement))] for statement in found]
    x, y = (lib.utils.pad_sequences(rows, longest, padding="post", truncating="post") for rows in (words, tags))
    return x, y


def build(lib, vocabulary=2000, width=32, units=32):
    """Return the compiled model: word ids to probabilities of tags."""
    model = lib.Sequential(
        [
            lib.Input((None,), dtype="int32"),
            lib.layers.Embedding(vocabulary, width, mask_zero=True),
            lib.layers.Bidirectional(lib.layers.LSTM(units, return_sequences=True)),
            lib.layers.TimeDistributed(lib.layers.Dense(len(TAGS), activation="softmax")),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    return model


def main(arguments=None):
    """Train, show a tagged statement, and return the validation accuracy per word."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--keras", action="store_true", help="run on Keras")
    options = parser.parse_args(arguments)
    lib = importlib.import_module("keras" if options.keras else "fastmask")
    lib.utils.set_random_seed(0)
    texts = read(options.files)
    x, y = data(lib, texts)
    model = build(lib)
    model.summary()
    history = model.fit(x, y, epochs=options.epochs, validation_split=0.1, verbose=2)
    last = list(statements(texts[-1]))[-1]
    guesses = model.predict(x[-1:], verbose=0)[0].argmax(-1)
    print(*(f"{word}/{TAGS[guess]}" for (_, word), guess in zip(last, guesses, strict=False)))
    return history.history["val_accuracy"][-1]


if __name__ == "__main__":
    main()
