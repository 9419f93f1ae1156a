"""Sort tickets: two texts of different lengths, each with a mask of its own, and labels go into one model.

    python examples/multi_input.py [--keras]

Title and body share an embedding whose zeros are padding; the masks go with them into an LSTM each and end there. Out
come the department that should answer and whether it is urgent. The tickets are made up.
"""

import argparse
import importlib

import numpy as np

DEPARTMENTS, LABELS, WORDS_EACH = 4, 6, 40
VOCABULARY = 1 + (DEPARTMENTS + 1) * WORDS_EACH  # padding, words of each department, words of anyone


def write(rng, department, length):
    """Return word ids, about a third of them of the department, the others of anyone."""
    words = rng.integers(WORDS_EACH, size=length)
    owners = np.where(rng.random(length) < 0.3, department, DEPARTMENTS)
    return 1 + owners * WORDS_EACH + words


def data(lib, rows, seed=0):
    """Return the inputs and the targets by name; the first word of a department in a body is a cry for help."""
    rng = np.random.default_rng(seed)
    departments = rng.integers(DEPARTMENTS, size=rows)
    titles = [write(rng, department, rng.integers(2, 9)) for department in departments]
    bodies = [write(rng, department, rng.integers(5, 60)) for department in departments]
    labels = rng.integers(2, size=(rows, LABELS)).astype("float32")
    cries = np.array([any(body == 1 + d * WORDS_EACH) for body, d in zip(bodies, departments, strict=True)])
    x = {
        "title": lib.utils.pad_sequences(titles, padding="post"),
        "body": lib.utils.pad_sequences(bodies, padding="post"),
        "labels": labels,
    }
    urgent = (cries | (labels[:, 0] > 0)).astype("float32")[:, None]
    return x, {"urgent": urgent, "department": departments[:, None]}


def build(lib, width=32, units=32):
    """Return the compiled model with three inputs and two outputs."""
    layers = lib.layers
    title = lib.Input((None,), dtype="int32", name="title")
    body = lib.Input((None,), dtype="int32", name="body")
    labels = lib.Input((LABELS,), name="labels")
    embedding = layers.Embedding(VOCABULARY, width, mask_zero=True)
    x = layers.Concatenate()([layers.LSTM(units)(embedding(title)), layers.LSTM(units)(embedding(body)), labels])
    urgent = layers.Dense(1, activation="sigmoid", name="urgent")(x)
    department = layers.Dense(DEPARTMENTS, activation="softmax", name="department")(x)
    model = lib.Model({"title": title, "body": body, "labels": labels}, {"urgent": urgent, "department": department})
    model.compile(
        "rmsprop",
        {"urgent": "binary_crossentropy", "department": "sparse_categorical_crossentropy"},
        loss_weights={"urgent": 1.0, "department": 0.2},
        metrics={"urgent": ["accuracy"], "department": ["accuracy"]},
    )
    return model


def main(arguments=None):
    """Train and return the validation accuracy of the department."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--keras", action="store_true", help="run on Keras")
    options = parser.parse_args(arguments)
    lib = importlib.import_module("keras" if options.keras else "fastmask")
    lib.utils.set_random_seed(0)
    x, y = data(lib, options.rows)
    model = build(lib)
    model.summary()
    history = model.fit(x, y, epochs=options.epochs, validation_split=0.1, verbose=2)
    return history.history["val_department_accuracy"][-1]


if __name__ == "__main__":
    main()
