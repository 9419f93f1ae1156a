"""Translate letter by letter: an encoder's states start the decoder.

    python examples/translation.py [--keras]

The language pair is made up: words of a few syllables, and the same in pig latin ("banu riko" is "anubay ikoray").
In training the decoder reads the right translation, one letter behind; afterwards it reads what it wrote itself.
"""

import argparse
import importlib

import numpy as np

START, END = "<", ">"
LETTERS = "_" + START + END + " abcdefghijklmnopqrstuvwxyz"  # id 0 is padding


def pairs(rows, seed=0, words=2):
    """Return phrases and their translations."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(rows):
        phrase = []
        for _ in range(rng.integers(1, words + 1)):
            syllables = (rng.choice(list("bdklmnrst")) + rng.choice(list("aeiou")) for _ in range(rng.integers(1, 4)))
            phrase.append("".join(syllables))
        found.append((" ".join(phrase), " ".join(word[1:] + word[0] + "ay" for word in phrase)))
    return found


def encode(lib, texts):
    """Return padded ids (rows, time)."""
    return lib.utils.pad_sequences([[LETTERS.index(letter) for letter in text] for text in texts], padding="post")


def data(lib, found):
    """Return [source ids, decoder's input ids], the next letters, and their weights: 0 on the padding."""
    source = encode(lib, [phrase for phrase, _ in found])
    target = encode(lib, [START + translation + END for _, translation in found])
    following = target[:, 1:]
    return [source, target[:, :-1]], following, (following != 0).astype("float32")


def build(lib, width=32, units=96):
    """Return the compiled model for training."""
    layers = lib.layers
    source = lib.Input((None,), dtype="int32", name="source")
    written = lib.Input((None,), dtype="int32", name="written")
    x = layers.Embedding(len(LETTERS), width, mask_zero=True)(source)
    _, *states = layers.LSTM(units, return_state=True, name="encoder")(x)
    # Keras 3 drops the mask of a layer called with an initial_state: weights keep the padding out of the loss instead.
    x = layers.Embedding(len(LETTERS), width, name="letters")(written)
    decoder = layers.LSTM(units, return_sequences=True, return_state=True, name="decoder")
    x, *_ = decoder(x, initial_state=states)
    x = layers.Dense(len(LETTERS), activation="softmax", name="guess")(x)
    model = lib.Model([source, written], x)
    model.compile(lib.optimizers.Adam(0.005), "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    return model


def translator(lib, model):
    """Return the trained layers as two models: source to states, and (letter, states) to (guess, states)."""
    encoder = lib.Model(model.inputs[0], list(model.get_layer("encoder").output[1:]))
    units = model.get_layer("decoder").units
    letter = lib.Input((1,), dtype="int32")
    states = [lib.Input((units,)), lib.Input((units,))]
    x, *after = model.get_layer("decoder")(model.get_layer("letters")(letter), initial_state=states)
    return encoder, lib.Model([letter, *states], [model.get_layer("guess")(x), *after])


def translate(lib, model, phrases, longest=30):
    """Return the likeliest next letter again and again, for all phrases at once."""
    encoder, decoder = translator(lib, model)
    states = encoder.predict(encode(lib, phrases), verbose=0)
    letters, texts = encode(lib, [START] * len(phrases)), [""] * len(phrases)
    for _ in range(longest):
        guess, *states = decoder.predict([letters, *states], verbose=0)
        letters = guess.argmax(-1).astype("int32")
        texts = [text + LETTERS[i] for text, i in zip(texts, letters[:, 0], strict=True)]
        if all(END in text for text in texts):
            break
    return [text.split(END)[0] for text in texts]


def main(arguments=None):
    """Train, show some translations, and return the validation accuracy per letter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--keras", action="store_true", help="run on Keras")
    options = parser.parse_args(arguments)
    lib = importlib.import_module("keras" if options.keras else "fastmask")
    lib.utils.set_random_seed(0)
    found = pairs(options.rows)
    x, y, weights = data(lib, found)
    model = build(lib)
    model.summary()
    history = model.fit(x, y, sample_weight=weights, epochs=options.epochs, validation_split=0.1, verbose=2)
    phrases = [phrase for phrase, _ in found[-6:]]
    for phrase, text in zip(phrases, translate(lib, model, phrases), strict=True):
        print(f"{phrase} -> {text}")
    return history.history["val_accuracy"][-1]


if __name__ == "__main__":
    main()
