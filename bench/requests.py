"""Time small requests to a model beside ONNX Runtime: Embedding of 20,000 words, Bidirectional(LSTM(128)), Dense(1).

    python -m bench.requests [--rounds 15] [--threads 1] [--int8]

Both predict the same batches in turn; a line has the median of the rounds in milliseconds, and how many times as fast
fastmask is. ONNX Runtime has ``sequence_lens``. With --int8 both models are quantised, that of ONNX Runtime
dynamically and by columns, and a last line says how far each is from float32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import numpy as np
from onnx import TensorProto, helper

import fastmask as fm
from bench.peers.libraries.onnx_runtime import OnnxRuntime, operator_weights, value

WORDS, WIDTH, UNITS = 20_000, 128, 128
SHAPES = ((1, 5), (1, 30), (1, 100), (32, 100))
CALLS = 20
Predict = Callable[[Any], Any]


def make_model() -> fm.Sequential:
    fm.utils.set_random_seed(1)
    return fm.Sequential([
        fm.Input((None,), dtype="int32"),
        fm.layers.Embedding(WORDS, WIDTH, mask_zero=True),
        fm.layers.Bidirectional(fm.layers.LSTM(UNITS)),
        fm.layers.Dense(1, activation="sigmoid"),
    ])


def onnx_predict(model: fm.Sequential, threads: int, int8: bool = False) -> Predict:
    """The same model, of float32, as a session of ONNX Runtime, as a function of ids (B, T)."""
    table, *halves, kernel, bias = model.get_weights()
    units = halves[1].shape[0]
    both = [operator_weights("LSTM", halves[:3]), operator_weights("LSTM", halves[3:])]
    weights = {name: np.concatenate([half[name] for half in both]) for name in ("W", "R", "B")}
    weights |= {"table": table, "kernel": kernel, "bias": bias, "shape": np.array([-1, 2 * units])}
    options = {"hidden_size": units, "direction": "bidirectional"}
    nodes = [
        helper.make_node("Transpose", ["ids"], ["steps"], perm=[1, 0]),
        helper.make_node("Gather", ["table", "steps"], ["X"]),
        helper.make_node("LSTM", ["X", "W", "R", "B", "lengths"], ["", "h"], **options),
        helper.make_node("Transpose", ["h"], ["rows"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["rows", "shape"], ["last"]),
        helper.make_node("Gemm", ["last", "kernel", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["p"]),
    ]
    inputs = [value("ids", TensorProto.INT64, ["B", "T"]), value("lengths", TensorProto.INT32, ["B"])]
    outputs = [value("p", TensorProto.FLOAT, ["B", 1])]
    session = OnnxRuntime(threads).session(nodes, inputs, outputs, weights, int8)

    def predict(ids: Any) -> Any:
        lengths = np.count_nonzero(ids, axis=1).astype(np.int32)
        return session.run(None, {"ids": ids, "lengths": lengths})[0]

    return predict


def batches(rows: int, steps: int) -> list[Any]:
    rng = np.random.default_rng(rows * steps)
    found = []
    for _ in range(CALLS):
        ids = rng.integers(1, WORDS, (rows, steps))
        lengths = rng.integers(steps // 10, steps + 1, rows) if rows > 1 else np.array([steps])
        ids[np.arange(steps) >= lengths[:, None]] = 0
        found.append(ids)
    return found


def seconds(predict: Predict, data: list[Any]) -> float:
    begin = time.perf_counter()
    for ids in data:
        predict(ids)
    return (time.perf_counter() - begin) / len(data)


def together(model: fm.Sequential, rounds: int) -> None:
    """Print what eight threads take at once, of what one takes for the same calls one after the other."""
    data, found = batches(1, 30), []
    with ThreadPoolExecutor(8) as pool:
        for _ in range(rounds):
            alone = 8 * CALLS * seconds(model, data)
            begin = time.perf_counter()
            list(pool.map(lambda _: seconds(model, data), range(8)))
            found.append(alone / (time.perf_counter() - begin))
    print(f"model(x) from eight threads at once: {median(found):.2f} times as fast as one after the other")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--int8", action="store_true")
    options = parser.parse_args()
    fm.set_num_threads(options.threads)
    model = make_model()
    other = onnx_predict(model, options.threads, options.int8)
    exact = [model.predict_on_batch(data) for data in batches(32, 100)]
    if options.int8:
        model.quantize("int8")
    print("rows  words  fastmask  ONNX Runtime  times as fast")
    for rows, steps in SHAPES:
        data = batches(rows, steps)
        np.testing.assert_allclose(model.predict_on_batch(data[0]), other(data[0]), atol=2e-2 if options.int8 else 1e-5)
        pairs = [(seconds(model.predict_on_batch, data), seconds(other, data)) for _ in range(options.rounds)]
        ours, theirs = (1e3 * median(times) for times in zip(*pairs, strict=True))
        ratio = median(theirs / ours for ours, theirs in pairs)
        print(f"{rows:4}  {steps:5}  {ours:8.3f}  {theirs:12.3f}  {ratio:13.2f}")
    if options.int8:
        print_differences(exact, model.predict_on_batch, other)
    together(model, options.rounds)


def print_differences(exact: list[Any], ours: Predict, theirs: Predict) -> None:
    """Print how far the probabilities of both are from those of float32."""
    for name, predict in (("fastmask", ours), ("ONNX Runtime", theirs)):
        off = np.abs(np.concatenate([predict(ids) - p for ids, p in zip(batches(32, 100), exact, strict=True)]))
        print(f"{name} int8 beside float32: mean difference {off.mean():.2e}, greatest {off.max():.2e}")


if __name__ == "__main__":
    main()
