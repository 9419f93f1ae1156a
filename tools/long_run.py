"""Train and predict with changing shapes for a long time; watch memory, results and speed.

    python tools/long_run.py --minutes 60

Every round takes a model, a number of threads and shapes at random and does one of these:

- train a model that lives as long as the run, on new rows of new lengths;
- predict fixed sequences in another batch, padded on another side, with rubbish in the padding: the bits must be those
  of each sequence alone, computed at the start;
- train a new model from a fixed seed: the weights must have the bits that they had at the start;
- save and load: predictions and further training must have the same bits (needs h5py).

A line a minute tells rounds, failures, resident memory (before and after the C library gives back what is free),
threads, open files, objects and the time of a fixed training. The status is 1 if anything failed, or if the memory in
use grew by more than 5 % after the first tenth of the run.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np

import fastmask as fm
from fastmask import layers

WORDS, FEATURES, CLASSES, SEQUENCES, LONGEST = 200, 6, 5, 48, 120
GROWTH = 1.05


def tagger():
    """Ids to a class per step."""
    return fm.Sequential([
        layers.Embedding(WORDS, 16, mask_zero=True, input_shape=(None,)),
        layers.Bidirectional(layers.LSTM(24, return_sequences=True)),
        layers.Dropout(0.1),
        layers.Dense(CLASSES, activation="softmax"),
    ])  # fmt: skip


def classifier():
    """Ids to a class."""
    return fm.Sequential([
        layers.Embedding(WORDS, 12, mask_zero=True, input_shape=(None,)),
        layers.GRU(40, return_sequences=True, recurrent_dropout=0.1),
        layers.LSTM(33),
        layers.Dense(CLASSES, activation="softmax"),
    ])  # fmt: skip


def graph():
    """Ids to a class, through two branches of a graph."""
    ids = fm.Input((None,), dtype="int32")
    embedded = layers.Embedding(WORDS, 10, mask_zero=True)(ids)
    first = layers.SimpleRNN(20, return_sequences=True)(embedded)
    second = layers.Bidirectional(layers.GRU(10, return_sequences=True))(embedded)
    last = layers.LSTM(17, go_backwards=True)(layers.Concatenate()([first, second]))
    return fm.Model(ids, layers.Dense(CLASSES, activation="softmax")(last))


MAKERS = {"tagger": tagger, "classifier": classifier, "graph": graph}


def make(name):
    """A compiled model, the same in every call."""
    fm.utils.set_random_seed(11)
    model = MAKERS[name]()
    model.compile(fm.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def rows(name, rng, count, longest):
    """Sequences of ids, and their classes."""
    x = [rng.integers(1, WORDS, rng.integers(1, longest + 1)) for _ in range(count)]
    y = [row % CLASSES for row in x] if name == "tagger" else np.array([row[0] % CLASSES for row in x])
    return x, y


def fixed_training(name):
    """Train a new model on fixed rows; return it."""
    model, (x, y) = make(name), rows(name, np.random.default_rng(5), 40, 30)
    model.fit(x, y, batch_size=16, epochs=2, verbose=0)
    return model


class Subject:
    """A model under test: one that trains on, and what is known of a fixed one."""

    def __init__(self, name):
        self.name, self.model, self.fixed = name, make(name), fixed_training(name)
        self.weights = self.fixed.get_weights()
        self.x = rows(name, np.random.default_rng(6), SEQUENCES, LONGEST)[0]
        self.alone = [self.fixed.predict([row], verbose=0)[0] for row in self.x]

    def train(self, rng):
        count = int(rng.integers(1, 97))
        x, y = rows(self.name, rng, count, int(rng.integers(1, 2 * LONGEST)))
        history = self.model.fit(x, y, batch_size=int(rng.integers(1, 65)), verbose=0).history
        require(np.isfinite(history["loss"]).all(), f"loss {history['loss']}")

    def predict(self, rng):
        chosen = rng.permutation(SEQUENCES)[: rng.integers(1, SEQUENCES + 1)]
        size = int(rng.integers(1, SEQUENCES + 1))
        if rng.integers(2):
            found = self.fixed.predict([self.x[i] for i in chosen], batch_size=size, verbose=0)
        else:
            found = self.padded(rng, chosen, size)
        for i, value in zip(chosen, found, strict=True):
            require(np.array_equal(value, self.alone[i]), f"sequence {i} has other bits in a batch of {size}")

    def padded(self, rng, chosen, size):
        """Predict rows of an array, and take the valid steps."""
        steps, left = LONGEST + int(rng.integers(0, 40)), bool(rng.integers(2))
        x = fm.utils.pad_sequences([self.x[i] for i in chosen], steps, padding="pre" if left else "post")
        found = self.fixed.predict(x, batch_size=size, verbose=0)
        if self.name != "tagger":
            return found
        lengths = [len(self.x[i]) for i in chosen]
        return [row[-n:] if left else row[:n] for row, n in zip(found, lengths, strict=True)]

    def train_anew(self, rng):
        self.same_weights(fixed_training(self.name), self.weights)

    def save_and_load(self, rng):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.keras")
            self.fixed.save(path)
            loaded = fm.models.load_model(path)
        self.same_weights(loaded, self.weights)
        found = loaded.predict(self.x[:4], verbose=0)
        require(all(map(np.array_equal, found, self.alone)), "a loaded model predicts other bits")

    def same_weights(self, model, expected):
        same = all(map(np.array_equal, model.get_weights(), expected))
        require(same, "weights have other bits than at the start")


def require(condition, message):
    if not condition:
        raise RuntimeError(message)


def resident():
    """Resident memory in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def fixed_seconds():
    """The time of a fixed training on one thread, the best of three."""
    fm.set_num_threads(1)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        fixed_training("tagger")
        times.append(time.perf_counter() - start)
    return min(times)


def report(start, counts, failures):
    """Print a line; return the memory in use."""
    gc.collect()
    before = resident()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    memory = resident()
    files = len(os.listdir("/proc/self/fd"))
    print(
        f"{(time.monotonic() - start) / 60:6.1f} min  {counts.total():7d} rounds  {failures} failures  "
        f"{before:7.1f} MiB, {memory:7.1f} in use  {threading.active_count()} threads  {files} files  "
        f"{len(gc.get_objects())} objects  {1000 * fixed_seconds():6.1f} ms",
        flush=True,
    )
    return memory


def one_round(subjects, actions, rng, counts):
    """Do something at random; return whether it failed."""
    fm.set_num_threads(int(rng.integers(1, 5)))
    subject = subjects[rng.integers(len(subjects))]
    action = actions[rng.integers(len(actions))]
    counts[action] += 1
    try:
        getattr(subject, action)(rng)
    except Exception:
        print(f"{subject.name}: {action} failed\n{traceback.format_exc()}", flush=True)
        return 1
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    actions = ["train", "train", "predict", "predict", "train_anew"]
    try:
        import h5py  # noqa: F401

        actions.append("save_and_load")
    except ImportError:
        print("without h5py nothing is saved")
    rng, subjects = np.random.default_rng(options.seed), [Subject(name) for name in MAKERS]
    counts, failures, memory = Counter(), 0, []
    start = time.monotonic()
    seconds = 60 * options.minutes
    while (passed := time.monotonic() - start) < seconds:
        if passed >= len(memory) * min(60.0, seconds / 20):
            memory.append(report(start, counts, failures))
        failures += one_round(subjects, actions, rng, counts)
    memory.append(report(start, counts, failures))
    settled = max(memory[: max(2, len(memory) // 10 + 1)])
    print(f"{dict(counts)}; in use {settled:.1f} MiB in the first tenth, {max(memory):.1f} MiB at most")
    sys.exit(failures > 0 or max(memory) > GROWTH * settled)


if __name__ == "__main__":
    main()
