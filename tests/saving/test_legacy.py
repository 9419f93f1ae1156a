"""Legacy HDF5 files as Keras 1 and 2 wrote them, made by hand."""

import numpy as np
import pytest
from helpers.legacy import random, write

import fastmask as fm
from fastmask import layers
from fastmask.saving import FileFormatError

h5py = pytest.importorskip("h5py")

IDS = np.array([[1, 2, 3, 0, 0], [4, 5, 1, 2, 3], [2, 0, 0, 0, 0]])


def expected(layer, weights, table, x=IDS):
    """The output of an embedding with a mask and one layer."""
    model = fm.Sequential([layers.Embedding(*table.shape, mask_zero=True), layer])
    model.set_weights([table, *weights])
    return model.predict(x, verbose=0)


def keras1(cls, **more):
    """The config of a Sequential of Keras 1."""
    common = {
        "name": "rnn", "trainable": True, "output_dim": 3, "init": "glorot_uniform", "inner_init": "orthogonal",
        "activation": "tanh", "W_regularizer": None, "U_regularizer": None, "b_regularizer": None,
        "dropout_W": 0.0, "dropout_U": 0.0, "return_sequences": False, "go_backwards": False, "stateful": False,
        "unroll": False, "consume_less": "cpu", "input_dim": 4, "input_length": None,
    }  # fmt: skip
    embedding = {
        "name": "embedding_1", "trainable": True, "batch_input_shape": [None, None], "input_dtype": "int32",
        "input_dim": 6, "output_dim": 4, "init": "uniform", "input_length": None, "mask_zero": True,
        "activity_regularizer": None, "W_regularizer": None, "W_constraint": None, "dropout": 0.0,
    }  # fmt: skip
    stack = [
        {"class_name": "Embedding", "config": embedding},
        {"class_name": cls, "config": common | {"inner_activation": "sigmoid"} | more},
    ]
    if cls == "SimpleRNN":
        del stack[1]["config"]["inner_activation"]
    return {"class_name": "Sequential", "config": stack}


def test_keras1_lstm(tmp_path):
    table, gates = random(6, 4), {gate: (random(4, 3), random(3, 3), random(3)) for gate in "icfo"}
    write(tmp_path / "a.h5", keras1("LSTM", forget_bias_init="one"), {
        "embedding_1": [table], "rnn": [array for gate in "icfo" for array in gates[gate]],
    })  # fmt: skip
    model = fm.models.load_model(tmp_path / "a.h5")
    joined = [np.concatenate([gates[gate][part] for gate in "ifco"], axis=-1) for part in range(3)]
    np.testing.assert_array_equal(model.predict(IDS, verbose=0), expected(layers.LSTM(3), joined, table))
    assert model.layers[1].unit_forget_bias


def test_keras1_gru_both_ways(tmp_path):
    table, gates = random(6, 4), [[(random(4, 3), random(3, 3), random(3)) for _ in "zrh"] for _ in range(2)]
    config = keras1("GRU")
    inner = config["config"][1]
    inner["config"]["return_sequences"] = True
    config["config"][1] = {
        "class_name": "Bidirectional",
        "config": {"name": "both", "trainable": True, "merge_mode": "sum", "layer": inner},
    }
    arrays = [array for way in gates for gate in way for array in gate]
    write(tmp_path / "a.h5", config, {"embedding_1": [table], "both": arrays}, "1.2.2")
    model = fm.models.load_model(tmp_path / "a.h5")
    joined = [np.concatenate([gate[part] for gate in way], axis=-1) for way in gates for part in range(3)]
    layer = layers.Bidirectional(
        layers.GRU(3, return_sequences=True, reset_after=False), merge_mode="sum", zero_output_for_mask=False
    )
    np.testing.assert_array_equal(model.predict(IDS, verbose=0), expected(layer, joined, table))


def test_keras1_simple_rnn_and_dense(tmp_path):
    table, weights, dense = random(6, 4), [random(4, 3), random(3, 3), random(3)], [random(3, 2), random(2)]
    config = keras1("SimpleRNN")
    out = {
        "name": "out", "trainable": True, "output_dim": 2, "init": "glorot_uniform", "activation": "softmax",
        "W_regularizer": {"name": "WeightRegularizer", "l1": 0.0, "l2": 0.5}, "b_regularizer": None,
        "activity_regularizer": None, "W_constraint": None, "b_constraint": None, "bias": True, "input_dim": 3,
    }  # fmt: skip
    config["config"] += [
        {"class_name": "Dropout", "config": {"name": "drop", "trainable": True, "p": 0.25}},
        {"class_name": "Dense", "config": out},
    ]
    write(tmp_path / "a.h5", config, {"embedding_1": [table], "rnn": weights, "drop": [], "out": dense}, "1.2.2")
    model = fm.models.load_model(tmp_path / "a.h5")
    assert model.layers[2].rate == 0.25
    assert model.layers[3].kernel_regularizer.l2 == 0.5
    for found, wanted in zip(model.get_weights(), [table, *weights, *dense], strict=True):
        np.testing.assert_array_equal(found, wanted)


def keras2(*stack, names=None):
    """The config of a Sequential of Keras 2 after an embedding."""
    embedding = {
        "name": "embedding_1", "trainable": True, "batch_input_shape": [None, None], "dtype": "float32",
        "input_dim": 6, "output_dim": 4, "embeddings_initializer": {
            "class_name": "RandomUniform", "config": {"minval": -0.05, "maxval": 0.05, "seed": None}},
        "embeddings_regularizer": None, "activity_regularizer": None, "embeddings_constraint": None,
        "mask_zero": True, "input_length": None,
    }  # fmt: skip
    made = [{"class_name": name, "config": config} for name, config in stack]
    return {"class_name": "Sequential", "config": {"name": "sequential_1", "layers": [
        {"class_name": "Embedding", "config": embedding}, *made]}}  # fmt: skip


def recurrent2(**more):
    """The config of a recurrent layer of Keras 2."""
    glorot = {"class_name": "VarianceScaling", "config": {
        "scale": 1.0, "mode": "fan_avg", "distribution": "uniform", "seed": None}}  # fmt: skip
    return {
        "name": "rnn", "trainable": True, "return_sequences": False, "return_state": False, "go_backwards": False,
        "stateful": False, "unroll": False, "units": 3, "activation": "tanh", "recurrent_activation": "sigmoid",
        "use_bias": True, "kernel_initializer": glorot,
        "recurrent_initializer": {"class_name": "Orthogonal", "config": {"gain": 1.0, "seed": None}},
        "bias_initializer": {"class_name": "Zeros", "config": {}}, "kernel_regularizer": None,
        "recurrent_regularizer": None, "bias_regularizer": None, "activity_regularizer": None,
        "kernel_constraint": None, "recurrent_constraint": None, "bias_constraint": None, "dropout": 0.0,
        "recurrent_dropout": 0.0, "implementation": 1,
    } | more  # fmt: skip


def test_a_gru_that_does_not_say_resets_before(tmp_path):
    table, weights = random(6, 4), [random(4, 9), random(3, 9), random(9)]
    write(tmp_path / "a.h5", keras2(("GRU", recurrent2())), {"embedding_1": [table], "rnn": weights}, "2.1.6")
    model = fm.models.load_model(tmp_path / "a.h5")
    assert not model.layers[1].reset_after
    found = model.predict(IDS, verbose=0)
    np.testing.assert_array_equal(found, expected(layers.GRU(3, reset_after=False), weights, table))


def old_hard_sigmoid(x):
    return np.clip(0.2 * x + 0.5, 0, 1)


@pytest.mark.parametrize("version", [None, "1.2.2", "2.2.4", "2.15.0"])
def test_the_hard_sigmoid_of_old_files(version, tmp_path):
    table, (w, u, b) = random(6, 4), (random(4, 9) * 3, random(3, 9), random(9))
    config = keras2(("GRU", recurrent2(recurrent_activation="hard_sigmoid")))
    if version in (None, "1.2.2"):
        config = keras1("GRU", inner_activation="hard_sigmoid")
    write(tmp_path / "a.h5", config, {"embedding_1": [table], "rnn": [w, u, b]}, version)
    h = np.zeros((1, 3))
    for token in IDS[1]:
        x = table[[token]]
        z, r = np.split(old_hard_sigmoid(x @ w[:, :6] + h @ u[:, :6] + b[:6]), 2, axis=1)
        h = z * h + (1 - z) * np.tanh(x @ w[:, 6:] + (r * h) @ u[:, 6:] + b[6:])
    model = fm.models.load_model(tmp_path / "a.h5")
    assert model.layers[1].recurrent_activation == "hard_sigmoid_keras2"
    np.testing.assert_allclose(model.predict(IDS, verbose=0)[1], h[0], rtol=1e-5, atol=1e-6)


def test_the_hard_sigmoid_of_new_files(tmp_path):
    table, weights = random(6, 4), [random(4, 9), random(3, 9), random(2, 9)]
    config = keras2(("GRU", recurrent2(recurrent_activation="hard_sigmoid", reset_after=True)))
    write(tmp_path / "a.h5", config, {"embedding_1": [table], "rnn": weights}, "3.4.0")
    model = fm.models.load_model(tmp_path / "a.h5")
    assert model.layers[1].recurrent_activation == "hard_sigmoid"


def cudnn_config():
    """The config of a CuDNNLSTM or CuDNNGRU: no activations."""
    missing = {"activation", "recurrent_activation", "use_bias", "unroll", "dropout", "recurrent_dropout"}
    return {key: value for key, value in recurrent2().items() if key not in {*missing, "implementation"}}


@pytest.mark.parametrize(("cls", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_cudnn(cls, gates, tmp_path):
    table, kernels = random(6, 4), [random(4, 3) for _ in range(gates)]
    recurrent, bias = [random(3, 3) for _ in range(gates)], random(2, gates * 3)
    # cuDNN holds each kernel (units, features), row by row, in an array of the shape (features, units).
    stored = [
        np.hstack([k.T.reshape(4, 3) for k in kernels]),
        np.hstack([r.T for r in recurrent]),
        bias.reshape(-1),
    ]
    config = keras2((f"CuDNN{cls}", cudnn_config()))
    write(tmp_path / "a.h5", config, {"embedding_1": [table], "rnn": stored}, "2.2.4")
    model = fm.models.load_model(tmp_path / "a.h5")
    weights = [np.hstack(kernels), np.hstack(recurrent), bias if cls == "GRU" else bias.sum(axis=0)]
    found = model.predict(IDS, verbose=0)
    np.testing.assert_allclose(found, expected(getattr(layers, cls)(3), weights, table), rtol=1e-6)


def adam2():
    """The training_config of Keras 2 with Adam."""
    config = {"lr": 0.01, "beta_1": 0.9, "beta_2": 0.999, "decay": 0.0, "epsilon": 1e-07, "amsgrad": False}
    return {
        "optimizer_config": {"class_name": "Adam", "config": config},
        "loss": "mse", "metrics": ["mae"], "loss_weights": None, "sample_weight_mode": None,
    }  # fmt: skip


def test_old_optimizers_have_their_state_kind_by_kind(tmp_path):
    table, weights = random(6, 4), [random(4, 9), random(3, 9), random(9)]
    model = fm.Sequential([layers.Embedding(6, 4, mask_zero=True), layers.GRU(3, reset_after=False)])
    model.set_weights([table, *weights])
    model.compile(fm.optimizers.Adam(0.01), "mse")
    y = random(3, 3)
    for _ in range(2):
        model.train_on_batch(IDS, y)
    states = [model.optimizer._state(variable) for variable in model.trainable_weights]
    slots = [state[kind] for kind in range(2) for state in states] + [np.zeros(1, np.float32)] * 4
    optimizer = [
        ("Adam/iterations:0", np.int64(2)),
        *[(f"training/Adam/Variable_{i}:0", a) for i, a in enumerate(slots)],
    ]
    saved = {"embedding_1": model.layers[0].get_weights(), "rnn": model.layers[1].get_weights()}
    write(tmp_path / "a.h5", keras2(("GRU", recurrent2())), saved, "2.3.1", optimizer, adam2())
    loaded = fm.models.load_model(tmp_path / "a.h5")
    for one in (model, loaded):
        one.train_on_batch(IDS, y)
    assert loaded.metrics_names[-1] == "mae"
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_functional_graph_of_keras2(tmp_path):
    """Nodes as lists, states as further inputs, one output in a list, long lists of names in parts."""

    def entry(cls, config, *nodes):
        return {"class_name": cls, "name": config["name"], "config": config, "inbound_nodes": list(nodes)}

    ids = {"name": "ids", "batch_input_shape": [None, None], "dtype": "int32", "sparse": False}
    embedding = keras2()["config"]["layers"][0]["config"] | {"name": "emb"}
    encoder = recurrent2(name="encoder", return_state=True, unit_forget_bias=True)
    decoder = recurrent2(name="decoder", unit_forget_bias=True)
    config = {"class_name": "Model", "config": {"name": "model_1", "layers": [
        entry("InputLayer", ids),
        entry("Embedding", embedding, [["ids", 0, 0, {}]]),
        entry("LSTM", encoder, [["emb", 0, 0, {}]]),
        entry("LSTM", decoder, [["emb", 0, 0, {}], ["encoder", 0, 1, {}], ["encoder", 0, 2, {}]]),
        entry("Add", {"name": "sum", "trainable": True}, [["encoder", 0, 0, {}], ["decoder", 0, 0, {}]]),
    ], "input_layers": [["ids", 0, 0]], "output_layers": [["sum", 0, 0]]}}  # fmt: skip
    table, one, two = (
        random(6, 4),
        [random(4, 12), random(3, 12), random(12)],
        [random(4, 12), random(3, 12), random(12)],
    )
    path = tmp_path / "a.h5"
    write(path, config, {"ids": [], "emb": [table], "encoder": one, "decoder": two, "sum": []}, "2.2.4-tf")
    with h5py.File(path, "a") as root:
        group = root["model_weights"]
        names = list(group.attrs["layer_names"])
        del group.attrs["layer_names"]
        group.attrs["layer_names0"], group.attrs["layer_names1"] = names[:2], names[2:]
    model = fm.models.load_model(path)
    x = fm.Input((None,), dtype="int32")
    emb = layers.Embedding(6, 4, mask_zero=True)(x)
    y, h, c = layers.LSTM(3, return_state=True)(emb)
    other = fm.Model(x, layers.Add()([y, layers.LSTM(3)(emb, initial_state=[h, c])]))
    other.set_weights([table, *one, *two])
    found = model.predict(IDS, verbose=0)
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, other.predict(IDS, verbose=0))


def test_weights_alone(tmp_path):
    table, weights = random(6, 4), [random(4, 9), random(3, 9), random(2, 9)]
    write(tmp_path / "a.h5", None, {"embedding_1": [table], "x": [], "rnn": weights}, "2.9.0")
    model = fm.Sequential([layers.Embedding(6, 4, mask_zero=True), layers.GRU(3)])
    model.load_weights(tmp_path / "a.h5")
    for found, wanted in zip(model.get_weights(), [table, *weights], strict=True):
        np.testing.assert_array_equal(found, wanted)
    with pytest.raises(FileFormatError, match="no model_config"):
        fm.models.load_model(tmp_path / "a.h5")


WRONG = {
    "fewer layers": ({"embedding_1": [random(6, 4)]}, "weights of 2 layers"),
    "fewer arrays": ({"embedding_1": [random(6, 4)], "rnn": [random(4, 9), random(3, 9)]}, "expected 3 arrays"),
    "shapes": ({"embedding_1": [random(6, 4)], "rnn": [random(4, 9), random(3, 9), random(5)]}, "expected shape"),
    "larger": ({"embedding_1": [random(60, 40)], "rnn": [random(1)]}, "larger than"),
}


@pytest.mark.parametrize("name", WRONG)
def test_weights_that_do_not_fit(name, tmp_path):
    weights, message = WRONG[name]
    write(tmp_path / "a.h5", None, weights, "2.9.0")
    model = fm.Sequential([layers.Embedding(6, 4, mask_zero=True), layers.GRU(3)])
    model.build((None, None))
    before = model.get_weights()
    with pytest.raises(FileFormatError, match=message):
        model.load_weights(tmp_path / "a.h5")
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
