"""Print what 8-bit integers gain over float32 on one core, and with sentences of your own what they cost in accuracy.

    python -m bench.precision [--repeats 15] [--sentences praise.txt blame.txt]

The first table has forward passes of LSTM layers over valid tokens, float32 and int8 in turn, the best of each, and
the shares of the machine's peaks. For the second, a model of Embedding, Bidirectional(LSTM) and Dense is trained on
sentences of two classes, one a line, words apart by spaces, and tested on every fifth of them in float32, in int8, and
in the int8 of ONNX Runtime if that is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import fastmask as fm
from bench.lstm_table import SHAPES, best, lengths, seconds
from fastmask import Packing, kernels, ops

WIDTH, UNITS, EPOCHS = 64, 64, 3


def measure(shape: tuple[int, int, int, int, float], repeats: int) -> str:
    batch, steps, features, units, share = shape
    rng = np.random.default_rng(0)
    plan = Packing.from_lengths(lengths(batch, steps, share, rng), steps)
    tokens = ops.Tokens(rng.standard_normal((plan.tokens, features)).astype(np.float32), plan)
    kernel, recurrent_kernel, bias = (
        (rng.standard_normal(s) / np.sqrt(units)).astype(np.float32)
        for s in ((features, 4 * units), (units, 4 * units), (4 * units,))
    )
    floats = ops.RNNProgram(ops.RNNSpec("lstm", features, units), kernel, recurrent_kernel, bias)
    spec = ops.RNNSpec("lstm", features, units, "int8")
    matrices = [ops.Quantized(*ops.abs_max_quantize(matrix)) for matrix in (kernel, recurrent_kernel)]
    integers = ops.RNNProgram(spec, *matrices, bias)
    slow, fast, float_peak, integer_peak = best(
        [
            lambda: seconds(lambda: floats.run(tokens)),
            lambda: seconds(lambda: integers.run(tokens)),
            lambda: 1 / kernels.peak_gflops(np.float32, tries=1),
            lambda: 1 / kernels.peak_gflops(np.int8, tries=1),
        ],
        repeats,
    )
    operations = 2e-9 * plan.tokens * (features + units) * 4 * units
    return (
        f"| LSTM B{batch} T{steps} D{features} H{units} ({100 * plan.tokens / (batch * steps):.0f} % valid) "
        f"| {1e3 * slow:.2f} | {operations / slow:.0f} ({100 * operations / slow * float_peak:.0f} %) "
        f"| {1e3 * fast:.2f} | {operations / fast:.0f} ({100 * operations / fast * integer_peak:.0f} %) "
        f"| {slow / fast:.2f} |"
    )


def read(paths: list[str]) -> tuple[list[Any], Any, int]:
    """Rows of ids, labels, and the number of ids; words that occur once share an id."""
    lines = [Path(path).read_text(encoding="latin-1").splitlines() for path in paths]
    words = Counter(word for file in lines for line in file for word in line.split())
    known = {word: n for n, (word, count) in enumerate(words.most_common(), 2) if count > 1}
    rows = [np.array([known.get(word, 1) for word in line.split()]) for file in lines for line in file if line.split()]
    labels = np.repeat([0, 1], [sum(bool(line.split()) for line in file) for file in lines])
    return rows, labels, len(known) + 2


def accuracies(paths: list[str]) -> None:
    """Train, quantise, and print accuracies and differences."""
    rows, labels, vocabulary = read(paths)
    fm.utils.set_random_seed(1)
    model = fm.Sequential([
        fm.Input((None,), dtype="int32"),
        fm.layers.Embedding(vocabulary, WIDTH, mask_zero=True),
        fm.layers.Bidirectional(fm.layers.LSTM(UNITS)),
        fm.layers.Dense(1, activation="sigmoid"),
    ])
    model.compile("adam", "binary_crossentropy")
    held = np.arange(len(rows)) % 5 == 0
    train = [row for row, out in zip(rows, held, strict=True) if not out]
    model.fit(train, labels[~held][:, None].astype(np.float32), epochs=EPOCHS, verbose=0)
    ids = fm.utils.pad_sequences([row for row, out in zip(rows, held, strict=True) if out], padding="post")
    exact = model.predict_on_batch(ids)
    found = {"float32": exact}
    if importlib.util.find_spec("onnxruntime") is not None:
        from bench.requests import onnx_predict

        found["int8 of ONNX Runtime"] = onnx_predict(model, 1, int8=True)(ids.astype(np.int64))
    model.quantize("int8")
    found["int8"] = model.predict_on_batch(ids)
    print(f"\n| {held.sum():,} sentences | accuracy | mean difference | greatest difference |\n|---|---|---|---|")
    for name, p in sorted(found.items()):
        off = np.abs(p - exact)
        right = ((p[:, 0] > 0.5) == labels[held]).mean()
        print(f"| {name} | {right:.4f} | {off.mean():.1e} | {off.max():.1e} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--sentences", nargs=2, default=None)
    options = parser.parse_args()
    fm.set_num_threads(1)
    print("| layer | float32, ms | GFLOP/s | int8, ms | GOP/s | times as fast |\n|---|---|---|---|---|---|")
    for shape in SHAPES:
        print(measure(shape, options.repeats), flush=True)
    if options.sentences is not None:
        accuracies(options.sentences)


if __name__ == "__main__":
    main()
