"""Models as exporters write them: files with inputs and outputs that stand beside the checkout, where they do."""

import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

import fastmask as fm

FOLDER = Path(__file__).parents[3] / "shared" / "onnx"
MANIFEST = FOLDER / "manifest.json"
FILES = json.loads(MANIFEST.read_text())["files"] if MANIFEST.exists() else []
pytestmark = pytest.mark.skipif(not FILES, reason="there are no files of exporters")

# The layers of files that are layers from end to end, beside the inputs.
WHOLE = {
    "k3jx_gru_ra1_seq_mz1": "Dense GRU WrappingEmbedding", "k3jx_maskx_lstm_last": "Dense LSTM WrappingEmbedding",
    "k3tf_maskx_lstm_last": "Dense LSTM WrappingEmbedding", "k3pt_lstm_last_mz1_T7": "Dense LSTM WrappingEmbedding",
    "tfk2_gru_ra1_mz1": "Dense GRU WrappingEmbedding", "tf2sm_lstm_seq_mz1": "Dense LSTM WrappingEmbedding",
    "k3tf_lstm_seq_mz0": "Dense LSTM WrappingEmbedding", "k3tf_gru_ra1_seq_mz0": "Dense GRU WrappingEmbedding",
    "tfk2_lstm_seq_mz0": "Dense LSTM WrappingEmbedding", "torch_dy_lstm1": "Dense LSTM WrappingEmbedding",
    "torch_ts_rnnrelu": "Dense SimpleRNN WrappingEmbedding",
    "onnxsim_torch_ts_lstm2bi": "Bidirectional Bidirectional Dense WrappingEmbedding",
    "torch_ts_lstm2bi": "Bidirectional Bidirectional Dense WrappingEmbedding",
    "torch_ts_gru_bi": "Bidirectional Dense WrappingEmbedding",
    "torch_ts_lasth": "Bidirectional Dense WrappingEmbedding",
}  # fmt: skip
# Loops that become layers, and what stays a loop: its steps do not have the inputs of a cell, or there is no loop.
LOOPS = {entry["name"] for entry in FILES if entry["needs_loop"]} - {"torch_ts_scriptmanual"}


@cache
def load(name):
    entry = next(entry for entry in FILES if entry["name"] == name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*DynamicQuantizeLSTM")
        return fm.models.load_model(FOLDER / entry["file"])


def names(model):
    return " ".join(sorted(type(layer).__name__ for layer in model.layers if type(layer).__name__ != "InputLayer"))


@pytest.mark.parametrize("entry", FILES, ids=lambda entry: entry["name"])
def test_outputs_are_those_of_the_exporter(entry):
    model, data = load(entry["name"]), np.load(FOLDER / entry["data"])
    cases = ["", *[f"{case}_" for case in entry["agreeing_cases"] if case != entry["main_case"]]]
    compared = 0
    for case in cases:
        inputs = [data[key] for key in (f"{case}in_{i}" for i in range(9)) if key in data]
        if not inputs:
            continue
        outputs = model(inputs if len(inputs) > 1 else inputs[0])
        for i, y in enumerate(outputs if isinstance(outputs, list) else [outputs]):
            for kind in ("ort", "out"):
                np.testing.assert_allclose(y, data[f"{case}{kind}_{i}"], rtol=0, atol=2 * entry["tolerance"])
            compared += 1
    assert compared
    if entry["name"] in WHOLE:
        assert names(model) == WHOLE[entry["name"]]
    if entry["name"] in LOOPS:
        assert {"Recurrence", "GRU", "LSTM"} & set(names(model).split())
        assert "Loop" not in {layer.node.op for layer in model.layers if hasattr(layer, "node")}


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (6, 3), (33, 20)], ids=str)
@pytest.mark.parametrize("entry", FILES, ids=lambda entry: entry["name"])
def test_other_batches_and_lengths_are_those_of_onnx_runtime(entry, size):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(FOLDER / entry["file"]), providers=["CPUExecutionProvider"])
    inputs = made(entry, *size)
    try:
        expected = session.run(None, dict(zip([name for name, *_ in entry["inputs"]], inputs, strict=True)))
    except Exception:
        pytest.skip("the file takes no batch of this size")
    outputs = load(entry["name"])(inputs if len(inputs) > 1 else inputs[0])
    for y, wanted in zip(outputs if isinstance(outputs, list) else [outputs], expected, strict=True):
        assert (y.shape, y.dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_allclose(y, wanted, rtol=0, atol=entry["tolerance"])


def made(entry, rows, steps):
    """Return inputs for a batch: ids with padding in the last row, lengths that fall."""
    random, known, found = np.random.default_rng(rows), {}, []
    data = np.load(FOLDER / entry["data"])
    for i, (_, axes, _) in enumerate(entry["inputs"]):
        like, shape = data[f"in_{i}"], []
        for place, axis in enumerate(axes):
            # tf2onnx gives each axis a name of its own, whatever stands there.
            key = place if "unk" in str(axis) else axis
            size = rows if not known else steps if len(known) == 1 else 4
            shape.append(axis if isinstance(axis, int) else known.setdefault(key, size))
        if like.dtype.kind == "f":
            found.append(random.normal(size=shape).astype(like.dtype))
        elif len(shape) == 1:
            found.append(-np.sort(-np.append(random.integers(1, steps + 1, shape[0] - 1), steps)).astype(like.dtype))
        else:
            ids = random.integers(0, like.max() + 1, shape).astype(like.dtype)
            ids[-1, 1 + shape[1] // 2 :] = 0
            found.append(ids)
    return found
