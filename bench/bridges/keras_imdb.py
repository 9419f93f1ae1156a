"""An existing Keras model before and after ``fastmask.keras.accelerate``: Keras's own IMDB example with an LSTM.

The model is the one that Keras's example imdb_lstm had for years: Embedding(20000, 128), LSTM(128), Dense(1, sigmoid),
Adam, batches of 32. Here ids of padding are masked; ``--no-mask`` has it without. The data are the movie reviews of
rt-polarity in ``../shared/data`` if they are there, generated text of their lengths if not.

    KERAS_BACKEND=tensorflow python bench/bridges/keras_imdb.py --threads 2
"""

import argparse
import os
import platform
import re
import sys
import time
from collections import Counter
from pathlib import Path

WORDS, WIDTH, UNITS, BATCH = 20000, 128, 128, 32
DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "rt-polarity"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--maxlen", type=int, default=80, help="steps of the padded batch, as in Keras's example")
    parser.add_argument("--no-mask", action="store_true", help="compute the padding, as Keras's example does")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=0, help="time this many steps alone, and train no model")
    return parser.parse_args()


def limit_threads(count):
    """Bind the process to its first CPUs, before any library looks at them."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        os.environ[name] = str(count)
    os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def reviews(np):
    """Sentences as lists of words, and 0 or 1 for each."""
    if not DATA.is_dir():
        rng = np.random.default_rng(0)
        count, mood = 10000, rng.integers(0, 2, 10000)
        lengths = np.clip(rng.normal(21, 9, count), 2, 55).astype(int)
        words = [[f"w{w}" for w in rng.zipf(1.3, n) % 15000] for n in lengths]
        for sentence, label in zip(words, mood, strict=True):
            sentence[rng.integers(len(sentence))] = ("good", "bad")[label]
        return words, mood, "generated text"
    sentences, labels = [], []
    for label, name in enumerate(("rt-polarity.neg", "rt-polarity.pos")):
        lines = (DATA / name).read_text(encoding="latin-1").splitlines()
        sentences += [re.findall(r"[a-z']+", line.lower()) or ["nothing"] for line in lines]
        labels += [label] * len(lines)
    return sentences, np.array(labels), "rt-polarity"


def dataset(keras, np, maxlen):
    sentences, labels, source = reviews(np)
    known = Counter(word for sentence in sentences for word in sentence).most_common(WORDS - 2)
    ids = {word: i + 2 for i, (word, _) in enumerate(known)}
    rows = [[ids.get(word, 1) for word in sentence] for sentence in sentences]
    x = keras.utils.pad_sequences(rows, maxlen=maxlen)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], labels[order].astype("float32")
    cut = len(x) * 9 // 10
    return (x[:cut], y[:cut]), (x[cut:], y[cut:]), source


def build(keras, masked):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(WORDS, WIDTH, mask_zero=masked),
            keras.layers.LSTM(UNITS),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return model


def milliseconds_per_step(model, train, steps):
    """Median time of a training step in the middle of `fit`; the first ones compile."""
    import keras

    class Clock(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.times = []

        def on_train_batch_begin(self, batch, logs=None):
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            self.times.append(time.perf_counter() - self.start)

    clock, rows = Clock(), BATCH * steps
    model.fit(train[0][:rows], train[1][:rows], batch_size=BATCH, epochs=1, verbose=0, callbacks=[clock])
    return 1000 * sorted(clock.times[3:])[len(clock.times[3:]) // 2]


def learn(model, train, test, epochs):
    """Seconds and validation accuracy after every epoch."""
    found, start = [], time.perf_counter()
    for _ in range(epochs):
        history = model.fit(*train, batch_size=BATCH, epochs=1, shuffle=False, validation_data=test, verbose=0)
        found.append((time.perf_counter() - start, history.history["val_accuracy"][0]))
    return found


def main():
    options = arguments()
    limit_threads(options.threads)
    import keras
    import numpy as np

    import fastmask
    import fastmask.keras

    fastmask.set_num_threads(options.threads)
    if keras.config.backend() == "torch":
        import torch

        torch.set_num_threads(options.threads)
    train, test, source = dataset(keras, np, options.maxlen)
    valid = (train[0] != 0).mean()
    mask = "not masked" if options.no_mask else f"masked, {valid:.0%} valid"
    print(
        f"Keras {keras.__version__} on {keras.config.backend()}, {source}, {options.maxlen} steps ({mask}), "
        f"{options.threads} thread(s), {platform.machine()}",
        file=sys.stderr,
    )
    steps = options.steps or 30
    outputs, times, curves = [], [], []
    for fast in (False, True):
        model = build(keras, not options.no_mask)
        if fast:
            print(fastmask.keras.accelerate(model), file=sys.stderr)
        outputs.append(model.predict(test[0], batch_size=BATCH, verbose=0))
        times.append(milliseconds_per_step(model, train, steps))
        curves.append([] if options.steps else learn(model, train, test, options.epochs))
    difference = abs(outputs[1] - outputs[0]).max()
    print(
        f"| {keras.config.backend()} | {'no' if options.no_mask else 'yes'} | {options.threads} | {times[0]:.1f} | "
        f"{times[1]:.1f} | {times[0] / times[1]:.1f} | {difference:.0e} |" + learned(curves)
    )


def learned(curves):
    """Columns with the accuracy that both models reach, and when each does for the first time."""
    if not curves[0]:
        return ""
    goal = min(max(accuracy for _, accuracy in curve) for curve in curves)
    first = [next(seconds for seconds, accuracy in curve if accuracy >= goal) for curve in curves]
    return f" {goal:.1%} | {first[0]:.0f} | {first[1]:.0f} |"


if __name__ == "__main__":
    main()
