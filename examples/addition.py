"""Learn to add: read "27+815" letter by letter, write "842".

    python examples/addition.py [--digits 3] [--keras]

The encoder reads the sum backwards, so that its state is freshest about the leading digits; `RepeatVector` hands that
state to every step of the decoder. Sums are shorter or longer: `Masking` skips the rows of zeros that pad them.
"""

import argparse
import importlib

import numpy as np

LETTERS = "0123456789+ "


def questions(rows, digits, seed=0):
    """Return sums and their answers, all different, as strings."""
    rng = np.random.default_rng(seed)
    found = {}
    while len(found) < rows:
        a, b = (int(rng.integers(10 ** rng.integers(1, digits + 1))) for _ in range(2))
        found[f"{a}+{b}"] = str(a + b)
    return list(found), list(found.values())


def one_hot(texts, length, fill=None):
    """Return float32 (rows, length, letters); what follows a text is zeros, or the letter `fill`."""
    encoded = np.zeros((len(texts), length, len(LETTERS)), "float32")
    for row, text in enumerate(texts):
        for step, letter in enumerate(text if fill is None else text.ljust(length, fill)):
            encoded[row, step, LETTERS.index(letter)] = 1
    return encoded


def decode(encoded):
    """Return the texts of letters, or of probabilities of letters."""
    return ["".join(LETTERS[i] for i in row).rstrip() for row in encoded.argmax(-1)]


def data(rows, digits, seed=0):
    """Return x (rows, 2 digits + 1, letters), zeros after the sum, and y (rows, digits + 1, letters)."""
    sums, answers = questions(rows, digits, seed)
    return one_hot([text[::-1] for text in sums], 2 * digits + 1), one_hot(answers, digits + 1, fill=" ")


def build(lib, digits=3, units=96):
    """Return the compiled model."""
    model = lib.Sequential(
        [
            lib.Input((2 * digits + 1, len(LETTERS))),
            lib.layers.Masking(),
            lib.layers.LSTM(units),
            lib.layers.RepeatVector(digits + 1),
            lib.layers.LSTM(units, return_sequences=True),
            lib.layers.Dense(len(LETTERS), activation="softmax"),
        ]
    )
    model.compile(lib.optimizers.Adam(0.003), "categorical_crossentropy", metrics=["accuracy"])
    return model


def main(arguments=None):
    """Train, show some answers, and return the validation accuracy per letter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=int, default=2)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--keras", action="store_true", help="run on Keras")
    options = parser.parse_args(arguments)
    lib = importlib.import_module("keras" if options.keras else "fastmask")
    lib.utils.set_random_seed(0)
    x, y = data(options.rows, options.digits)
    model = build(lib, options.digits)
    model.summary()
    history = model.fit(x, y, epochs=options.epochs, validation_split=0.1, verbose=2)
    guesses = decode(model.predict(x[-8:], verbose=0))
    for question, guess, answer in zip(decode_sums(x[-8:]), guesses, decode(y[-8:]), strict=True):
        print(f"{question:>9} = {guess:5}", "right" if guess == answer else f"wrong: {answer}")
    return history.history["val_accuracy"][-1]


def decode_sums(x):
    """Return the sums as people write them."""
    lengths = x.any(-1).sum(-1)
    return [text[:length][::-1] for text, length in zip(decode(x), lengths, strict=True)]


if __name__ == "__main__":
    main()
