"""Files of Keras 1, 2 and early 3 give the numbers of the Keras that wrote them, masked steps included."""

import json
import zipfile

import numpy as np
import pytest
from helpers.layers import normal
from helpers.legacy import random, write
from helpers.merging import assert_gradients

import fastmask as fm
from fastmask import PackedSequence, layers
from fastmask.saving import FileFormatError, versions

pytest.importorskip("h5py")

IDS = np.array([[3, 4, 0, 5, 0], [0, 1, 0, 2, 0], [0, 0, 0, 0, 0], [1, 2, 3, 4, 5]])
NUMBERS = np.random.default_rng(1).normal(size=(4, 5, 3)).astype(np.float32)
NUMBERS[[0, 1, 1, 2, 3], [1, 1, 4, 2, 4]] = 0
TABLE = random(6, 3)
LSTM = [random(3, 8), random(2, 8), random(8)]
WIDE = [random(6, 8), random(2, 8), random(8)]
MERGES = ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"]
AND = ["2.0.8", "2.2.4", "2.3.1", "2.2.4-tf", "2.4.0", "2.11.0", "2.21.0"]
VALID_IDS, VALID_NUMBERS = IDS != 0, (NUMBERS != 0).any(axis=-1)


def entry(name, class_name, config, *inputs, call=None):
    """A layer of a graph, called once."""
    nodes = [[[source, 0, 0, call or {}] for source in inputs]] if inputs else []
    return {"class_name": class_name, "name": name, "inbound_nodes": nodes} | {
        "config": {"name": name, "trainable": True, **config}
    }


def recurrent(units=2, **more):
    return {"units": units, "activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True, **more}


SOURCES = [
    entry("ids", "InputLayer", {"batch_input_shape": [None, 5], "dtype": "int32"}),
    entry("numbers", "InputLayer", {"batch_input_shape": [None, 5, 3], "dtype": "float32"}),
    entry("table", "Embedding", {"input_dim": 6, "output_dim": 3, "mask_zero": True}, "ids"),
    entry("masking", "Masking", {"mask_value": 0.0}, "numbers"),
]


def load(path, version, entries, outputs, weights):
    """Write a graph of the sources and these layers, and load it."""
    ends = [[name, 0, 0] for name in outputs]
    config = {"name": "model", "layers": SOURCES + entries, "output_layers": ends}
    config["input_layers"] = [["ids", 0, 0], ["numbers", 0, 0]]
    write(path, {"class_name": "Functional", "config": config}, {"table": [TABLE], **weights}, version)
    return fm.models.load_model(path)


def predicted(model):
    found = model.predict([IDS, NUMBERS], verbose=0)
    return found if isinstance(found, list) else [found]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_steps(x, valid, weights):
    """What an LSTM shows at each step of a row: at a masked one what it showed before, zeros at first."""
    kernel, recurrent_kernel, bias = (w.astype(np.float64) for w in weights)
    h, c, y = np.zeros((3, len(recurrent_kernel)))
    shown = []
    for step, counts in zip(x.astype(np.float64), valid, strict=True):
        if counts:
            i, f, g, o = np.split(step @ kernel + h @ recurrent_kernel + bias, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            y = h = sigmoid(o) * np.tanh(c)
        shown.append(y)
    return np.array(shown)


def lstm(x, valid, weights):
    return np.stack([lstm_steps(row, mask, weights)[-1] for row, mask in zip(x, valid, strict=True)])


def plain(name, a, b):
    """The arithmetic of a merge, whatever the masks say."""
    return {
        "Add": lambda: a + b, "Subtract": lambda: a - b, "Multiply": lambda: a * b, "Average": lambda: (a + b) / 2,
        "Maximum": lambda: np.maximum(a, b), "Minimum": lambda: np.minimum(a, b),
        "Concatenate": lambda: np.concatenate([a, b], axis=-1),
    }[name]()  # fmt: skip


def merging(path, version, name, second):
    """A merge of the embedded ids and another sequence, and an LSTM on it."""
    weights = WIDE if name == "Concatenate" else LSTM
    entries = [entry("merged", name, {}, "table", second), entry("lstm", "LSTM", recurrent(), "merged")]
    return load(path, version, entries, ["merged", "lstm"], {"lstm": weights}), weights


@pytest.mark.parametrize("version", AND)
@pytest.mark.parametrize("second", ["masking", "numbers"])
@pytest.mark.parametrize("name", MERGES)
def test_keras_2_joins_masks_by_and(name, second, version, tmp_path):
    model, weights = merging(tmp_path / "a.h5", version, name, second)
    merged, last = predicted(model)
    expected = plain(name, TABLE[IDS], NUMBERS)
    np.testing.assert_allclose(merged, expected, rtol=1e-6, atol=1e-6)
    valid = VALID_IDS & VALID_NUMBERS if second == "masking" else VALID_IDS
    np.testing.assert_allclose(last, lstm(expected, valid, weights), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("version", ["3.0.5", "3.3.3"])
@pytest.mark.parametrize("second", ["masking", "numbers"])
@pytest.mark.parametrize("name", MERGES)
def test_keras_before_3_4_lets_masks_go(name, second, version, tmp_path):
    model, weights = merging(tmp_path / "a.h5", version, name, second)
    merged, last = predicted(model)
    expected = plain(name, TABLE[IDS], NUMBERS)
    np.testing.assert_allclose(merged, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(last, lstm(expected, np.ones_like(VALID_IDS), weights), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("version", ["3.4.0", "3.15.1"])
def test_keras_3_4_joins_masks_by_or(version, tmp_path):
    model, weights = merging(tmp_path / "a.h5", version, "Add", "masking")
    expected = lstm(TABLE[IDS] + NUMBERS, VALID_IDS | VALID_NUMBERS, weights)
    np.testing.assert_allclose(predicted(model)[1], expected, rtol=1e-5, atol=1e-6)
    assert "mask_mode" not in model.get_layer("merged").get_config()


@pytest.mark.parametrize(("version", "joined"), [("2.3.1", True), ("2.11.0", True), ("3.3.3", False)])
def test_concatenate_in_time(version, joined, tmp_path):
    entries = [entry("merged", "Concatenate", {"axis": 1}, "table", "masking"),
               entry("lstm", "LSTM", recurrent(), "merged")]  # fmt: skip
    model = load(tmp_path / "a.h5", version, entries, ["lstm"], {"lstm": LSTM})
    x, valid = np.concatenate([TABLE[IDS], NUMBERS], axis=1), np.concatenate([VALID_IDS, VALID_NUMBERS], axis=1)
    expected = lstm(x, valid | (not joined), LSTM)
    np.testing.assert_allclose(predicted(model)[0], expected, rtol=1e-5, atol=1e-6)


def test_what_an_old_merge_shows_is_seen_by_dot(tmp_path):
    """Masked steps hold what they held, step by step, for a layer that looks at them."""
    entries = [entry("merged", "Maximum", {}, "table", "numbers"), entry("dot", "Dot", {"axes": 2}, "merged", "table")]
    model = load(tmp_path / "a.h5", "2.2.4", entries, ["dot"], {})
    expected = np.maximum(TABLE[IDS], NUMBERS) @ TABLE[IDS].swapaxes(1, 2)
    np.testing.assert_allclose(predicted(model)[0], expected, rtol=1e-5, atol=1e-6)


def both_ways(version, merge_mode):
    ahead, back = [[random(3, 8), random(2, 8), random(8)] for _ in range(2)]
    inner = {"class_name": "LSTM", "config": recurrent(name="inner", return_sequences=True)}
    if version is None or version.startswith("1"):
        ahead, back = [_keras1(weights) for weights in (ahead, back)]
        inner["config"] = {"name": "inner", "output_dim": 2, "inner_activation": "sigmoid", "return_sequences": True}
        inner["config"] |= {"activation": "tanh"}
    return entry("both", "Bidirectional", {"merge_mode": merge_mode, "layer": inner}, "table"), ahead, back


def _keras1(weights):
    """The arrays of an LSTM gate by gate, i c f o."""
    parts = [np.split(array, 4, axis=-1) for array in weights]
    return [part[gate] for gate in (0, 2, 1, 3) for part in parts]


def _joined(arrays):
    return arrays if len(arrays) == 3 else [np.concatenate([arrays[g + p] for g in (0, 6, 3, 9)], -1) for p in range(3)]


VERSIONS = [(None, False), ("1.2.2", False), ("2.1.6", False), ("2.1.6-tf", False), ("2.2.4", False), ("2.3.1", False),
            ("2.2.4-tf", True), ("2.3.0-tf", True), ("2.4.0", True), ("2.15.0", True), ("3.3.3", True)]  # fmt: skip


@pytest.mark.parametrize("merge_mode", ["concat", "sum", "mul", "ave"])
@pytest.mark.parametrize(("version", "zeros"), VERSIONS)
def test_masked_steps_of_bidirectional(version, zeros, merge_mode, tmp_path):
    layer, ahead, back = both_ways(version, merge_mode)
    model = load(tmp_path / "a.h5", version, [layer], ["both"], {"both": ahead + back})
    expected = []
    for ids in IDS:
        first = lstm_steps(TABLE[ids], ids != 0, _joined(ahead))
        second = lstm_steps(TABLE[ids[::-1]], ids[::-1] != 0, _joined(back))[::-1]
        if zeros:
            first, second = first * (ids != 0)[:, None], second * (ids != 0)[:, None]
        expected.append({
            "concat": np.hstack([first, second]), "sum": first + second, "mul": first * second,
            "ave": (first + second) / 2,
        }[merge_mode])  # fmt: skip
    np.testing.assert_allclose(predicted(model)[0], expected, rtol=1e-5, atol=1e-6)
    model.save(tmp_path / "b.keras")
    np.testing.assert_array_equal(predicted(fm.models.load_model(tmp_path / "b.keras"))[0], predicted(model)[0])


@pytest.mark.parametrize("merge_mode", ["concat", "sum", "mul", "ave", None])
def test_gradients_of_halves_that_repeat(merge_mode):
    inner = layers.LSTM(2, return_sequences=True, dtype="float64")
    layer = layers.Bidirectional(inner, merge_mode=merge_mode, zero_output_for_mask=False)
    x = normal(*NUMBERS.shape)
    assert_gradients(layer, x, VALID_IDS)
    assert_gradients(layer, PackedSequence.from_padded(x, VALID_IDS))
    poisoned = np.where(VALID_IDS[..., None], x, np.nan)
    y, _ = layer.vjp(poisoned, VALID_IDS)
    assert all(np.isfinite(found).all() for found in (y if merge_mode is None else [y]))
    again = type(layer).from_config(layer.get_config())
    assert not again.zero_output_for_mask


@pytest.mark.parametrize("version", ["2.2.4-tf", "2.6.0", "2.21.0"])
def test_layers_of_tensorflow_let_masks_go(version, tmp_path):
    dense = [random(15, 2), random(2)]
    entries = [
        entry("sequence", "LSTM", recurrent(return_sequences=True), "table"),
        entry("largest", "GlobalMaxPooling1D", {}, "table"),
        entry("largest_state", "GlobalMaxPooling1D", {}, "sequence"),
        entry("flat", "Flatten", {}, "table"),
        entry("shaped", "Reshape", {"target_shape": [3, 5]}, "table"),
        entry("dense", "Dense", {"units": 2, "activation": "linear", "use_bias": True}, "flat"),
        entry("mean", "GlobalAveragePooling1D", {}, "masking"),
    ]
    outputs = ["largest", "largest_state", "shaped", "dense", "mean"]
    model = load(tmp_path / "a.h5", version, entries, outputs, {"sequence": LSTM, "dense": dense})
    x, states = TABLE[IDS], np.stack([lstm_steps(TABLE[ids], ids != 0, LSTM) for ids in IDS])
    counts = VALID_NUMBERS.sum(axis=1, keepdims=True)
    mean = (NUMBERS * VALID_NUMBERS[..., None]).sum(axis=1) / counts
    expected = [x.max(axis=1), states.max(axis=1), x.reshape(4, 3, 5), x.reshape(4, 15) @ dense[0] + dense[1], mean]
    for found, wanted in zip(predicted(model), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    model.save(tmp_path / "b.keras")
    for found, wanted in zip(predicted(fm.models.load_model(tmp_path / "b.keras")), predicted(model), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_mean_of_early_tensorflow_takes_all_steps(tmp_path):
    entries = [entry("mean", "GlobalAveragePooling1D", {}, "table")]
    model = load(tmp_path / "a.h5", "2.1.6-tf", entries, ["mean"], {})
    np.testing.assert_allclose(predicted(model)[0], TABLE[IDS].mean(axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("version", ["2.2.4-tf", "2.15.0"])
def test_a_stack_of_tensorflow_lets_masks_go(version, tmp_path):
    table = {"name": "table", "batch_input_shape": [None, 5], "input_dim": 6, "output_dim": 3, "mask_zero": True}
    stack = [("Embedding", table), ("LSTM", recurrent(name="lstm", return_sequences=True)),
             ("GlobalMaxPooling1D", {"name": "largest"}), ("Flatten", {"name": "flat"})]  # fmt: skip
    config = {"name": "stack", "layers": [{"class_name": name, "config": inner} for name, inner in stack]}
    path = tmp_path / "a.h5"
    write(path, {"class_name": "Sequential", "config": config}, {"table": [TABLE], "lstm": LSTM}, version)
    model = fm.models.load_model(path)
    states = np.stack([lstm_steps(TABLE[ids], ids != 0, LSTM) for ids in IDS])
    np.testing.assert_allclose(model.predict(IDS, verbose=0), states.max(axis=1), rtol=1e-5, atol=1e-6)
    assert [type(layer).__name__ for layer in model.layers] == [
        "Embedding", "LSTM", "DropMask", "GlobalMaxPooling1D", "Flatten",
    ]  # fmt: skip


@pytest.mark.parametrize("version", ["2.2.4", "2.3.1", "2.2.4-tf", "2.11.0"])
def test_keras_2_masks_calls_with_states(version, tmp_path):
    entries = [
        entry("first", "LSTM", recurrent(return_state=True), "masking"),
        entry("second", "LSTM", recurrent(return_sequences=True), "table"),
    ]
    entries[1]["inbound_nodes"] = [[["table", 0, 0, {}], ["first", 0, 1, {}], ["first", 0, 2, {}]]]
    model = load(tmp_path / "a.h5", version, entries, ["second"], {"first": LSTM, "second": LSTM})
    rows = []
    for ids, numbers in zip(IDS, NUMBERS, strict=True):
        both = np.concatenate([numbers, TABLE[ids]])
        valid = np.concatenate([(numbers != 0).any(axis=-1), ids != 0])
        rows.append(lstm_steps(both, valid, LSTM)[5:])
    shown = np.maximum.accumulate(VALID_IDS, axis=1)
    np.testing.assert_allclose(predicted(model)[0][shown], np.array(rows)[shown], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_tensorflow_until_2_9(causal, tmp_path):
    """That it hides later values was an argument of the layer, which fastmask takes in calls alone."""
    config = {"use_scale": False, "causal": causal, "dropout": 0.0}
    entries = [entry("attention", "Attention", config, "table", "table")]
    if causal:
        with pytest.raises(FileFormatError, match="causal"):
            load(tmp_path / "a.h5", "2.9.0", entries, ["attention"], {})
        return
    found = predicted(load(tmp_path / "a.h5", "2.9.0", entries, ["attention"], {}))[0]
    x = TABLE[IDS]
    scores = np.where(VALID_IDS[:, None], x @ x.swapaxes(1, 2), -1e9)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    expected = weights / weights.sum(axis=-1, keepdims=True) @ x * VALID_IDS[..., None]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [True, False])
def test_attention_of_early_keras_3(masked, tmp_path):
    """It let the mask of the query go, which has no counterpart."""
    entries = [entry("attention", "Attention", {}, "table" if masked else "numbers", "masking")]
    if masked:
        with pytest.raises(FileFormatError, match="query of layer 'attention': expected no mask"):
            load(tmp_path / "a.h5", "3.3.3", entries, ["attention"], {})
        return
    found = predicted(load(tmp_path / "a.h5", "3.3.3", entries, ["attention", "table"], {}))[0]
    scores = np.where(VALID_NUMBERS[:, None], NUMBERS @ NUMBERS.swapaxes(1, 2), -1e9)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(found, weights @ NUMBERS, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("version", ["2.2.4", "2.11.0", "3.3.3"])
@pytest.mark.parametrize("second", ["masking", "numbers"])
@pytest.mark.parametrize("name", MERGES)
def test_saved_again(name, second, version, tmp_path):
    """The rule stays with copies and in files, which Keras 3 refuses to open."""
    model, _ = merging(tmp_path / "a.h5", version, name, second)
    model.save(tmp_path / "b.keras")
    again = fm.models.load_model(tmp_path / "b.keras")
    copied = type(model).from_config(model.get_config())
    copied.set_weights(model.get_weights())
    for other in (again, copied):
        assert len(other.layers) == len(other.operations) == len(model.layers)
        for found, wanted in zip(predicted(other), predicted(model), strict=True):
            np.testing.assert_array_equal(found, wanted)
    assert "mask_mode" in _configs(tmp_path / "b.keras")["merged"]


def _configs(path):
    """The configs of a file's layers by name."""
    with zipfile.ZipFile(path) as archive:
        entries = json.loads(archive.read("config.json"))["config"]["layers"]
    return {item["config"]["name"]: item["config"] for item in entries}


@pytest.mark.parametrize("merge", [("Add", {}), ("Concatenate", {}), ("Concatenate", {"axis": 1})])
@pytest.mark.parametrize("sources", [("table", "again"), ("numbers", "numbers")])
def test_rules_that_change_nothing_are_not_saved(sources, merge, tmp_path):
    """So that Keras 3 opens what does the same there: merges under one mask or none."""
    entries = [
        entry("again", "LSTM", recurrent(3, return_sequences=True), "table"),
        entry("merged", merge[0], merge[1], *sources),
        entry("inner", "Bidirectional", {"layer": {"class_name": "LSTM", "config": recurrent()}}, "merged"),
    ]
    size = 6 if merge == ("Concatenate", {}) else 3
    both = [random(size, 8), random(2, 8), random(8)] * 2
    weights = {"again": [random(3, 12), random(3, 12), random(12)], "inner": both}
    model = load(tmp_path / "a.h5", "2.2.4", entries, ["inner", "again"], weights)
    assert model.get_layer("merged").mask_mode == "and"
    model.save(tmp_path / "b.keras")
    configs = _configs(tmp_path / "b.keras")
    assert "mask_mode" not in configs["merged"]
    assert "zero_output_for_mask" not in configs["inner"]
    again = fm.models.load_model(tmp_path / "b.keras")
    assert len(again.operations) == len(model.layers)
    for found, wanted in zip(predicted(again), predicted(model), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_models_within_models_keep_the_rule(tmp_path):
    inner = [entry(name, "InputLayer", {"batch_input_shape": [None, 5, 3], "dtype": "float32"}) for name in "ab"]
    inner.append(entry("merged", "Add", {}, "a", "b"))
    config = {"name": "inner", "layers": inner, "output_layers": [["merged", 0, 0]]}
    config["input_layers"] = [["a", 0, 0], ["b", 0, 0]]
    entries = [entry("inner", "Functional", config, "table", "numbers"), entry("lstm", "LSTM", recurrent(), "inner")]
    model = load(tmp_path / "a.h5", "2.11.0", entries, ["lstm"], {"lstm": LSTM})
    expected = lstm(TABLE[IDS] + NUMBERS, VALID_IDS, LSTM)
    np.testing.assert_allclose(predicted(model)[0], expected, rtol=1e-5, atol=1e-6)
    model.save(tmp_path / "b.keras")
    again = fm.models.load_model(tmp_path / "b.keras")
    np.testing.assert_array_equal(predicted(again)[0], predicted(model)[0])


def test_merge_of_keras_1_is_refused(tmp_path):
    """Its one class for all merges joined masks by AND, and has no counterpart."""
    entries = [entry("merged", "Merge", {"mode": "sum"}, "table", "masking")]
    with pytest.raises(FileFormatError, match="no layer class 'Merge'"):
        load(tmp_path / "a.h5", "1.2.2", entries, ["merged"], {})


def test_versions():
    assert [versions.mask_mode(v) for v in ("1.0", "2.3.0-tf", "3.0.0", "3.3.3", "3.4.0", "3.15.1")] == [
        "and", "and", "drop", "drop", "or", "or",
    ]  # fmt: skip
    assert versions.mask_mode("nightly") == "and"


def test_mask_modes_by_hand():
    with pytest.raises(ValueError, match="mask_mode: expected"):
        layers.Add(mask_mode="xor")
    for name in MERGES:
        cls = getattr(layers, name)
        assert "mask_mode" not in cls().get_config()
        assert cls.from_config(cls(mask_mode="and").get_config()).mask_mode == "and"
    a, b = np.array([[True, True, False]]), np.array([[True, False, False]])
    xs = [np.zeros((1, 3, 1))] * 2
    assert layers.Add(mask_mode="drop").compute_mask(xs, [a, b]) is None
    np.testing.assert_array_equal(layers.Add(mask_mode="and").compute_mask(xs, [a, b]), a & b)
    np.testing.assert_array_equal(layers.Concatenate(mask_mode="and").compute_mask(xs, [a, None]), a)
