"""Operators that together are a layer, in the ways in which exporters write them, and what is no layer."""

import numpy as np
import pytest
from helpers.onnx_graphs import INT, F, graph, kinds, model, random, recurrent_weights

from fastmask import layers, models, optimizers
from fastmask.convert.onnx.running import run_graph
from fastmask.core.errors import FileFormatError

IDS = ("ids", INT, ("batch", "time"))
TABLE = random(10, 3)
DENSE = {"kernel": random(4, 2, seed=4), "bias": random(2, seed=5)}


def ids(rows=3, steps=5, low=0):
    return np.random.default_rng(0).integers(low, 10, (rows, steps))


def assert_as_operators(arguments, x, wanted, sizes=((3, 5), (1, 1), (2, 9))):
    """Compare a model with the operators of its graph, on batches of several sizes, and its layers with their names."""
    found = model(*arguments)
    assert kinds(found) == sorted(wanted)
    for size in sizes:
        given = x(*size)
        expected = run_graph(graph(*arguments), [given], {})[0]
        np.testing.assert_allclose(found(given), expected, rtol=1e-5, atol=1e-6)
    return found


def lstm(directions=1, states=True):
    """Return the nodes of an LSTM with zero states on ``e``, as PyTorch's exporter writes them."""
    state = "h h" if states else ""
    nodes = [
        ("Shape", "ids", "shape"), ("Gather", "shape zero", "rows", {"axis": 0}),
        ("Unsqueeze", "rows axes", "rows1"), ("Concat", "directions rows1 units", "hshape", {"axis": 0}),
        ("ConstantOfShape", "hshape", "h"), ("Transpose", "e", "x", {"perm": [1, 0, 2]}),
        ("LSTM", f"x W R B _ {state}", "y h_n c_n",
         {"hidden_size": 4, "direction": "bidirectional" if directions == 2 else "forward"}),
    ]  # fmt: skip
    constants = {
        "zero": np.array(0), "axes": np.array([0]), "directions": np.array([directions]), "units": np.array([4]),
        "table": TABLE, **recurrent_weights(4, directions),
    }  # fmt: skip
    return nodes, constants


def test_lstm_of_torch_is_a_chain_of_layers_with_its_weights():
    nodes, constants = lstm()
    nodes = [
        ("Gather", "table ids", "e"), *nodes, ("Squeeze", "y one", "s"), ("Transpose", "s", "t", {"perm": [1, 0, 2]}),
        ("MatMul", "t kernel", "m"), ("Add", "bias m", "z"), ("Softmax", "z", "p", {"axis": -1}),
    ]  # fmt: skip
    arguments = [IDS], "p", nodes, constants | DENSE | {"one": np.array([1])}
    found = assert_as_operators(arguments, ids, ["WrappingEmbedding", "LSTM", "Dense"])
    assert found.layers[-1].activation == "softmax"
    listed = [np.array([3, 1, 4]), np.array([1, 5, 9, 2, 6])]
    for row, alone in zip(found.predict(listed), listed, strict=True):
        np.testing.assert_array_equal(row, found(alone[None])[0])


def test_last_outputs_of_both_directions_are_a_bidirectional():
    nodes, constants = lstm(2)
    nodes = [
        ("Gather", "table ids", "e"), *nodes, ("Gather", "h_n zero", "a"), ("Gather", "h_n one", "b"),
        ("Concat", "a b", "z", {"axis": 1}),
    ]  # fmt: skip
    arguments = [IDS], "z", nodes, constants | {"one": np.array(1)}
    found = assert_as_operators(arguments, ids, ["WrappingEmbedding", "Bidirectional"])
    x = ids()
    found(x)
    np.testing.assert_allclose(found(x), found.predict(x), rtol=1e-6)
    np.testing.assert_allclose(found(x - 10), found(x), rtol=1e-6)


def test_stacked_layers_hand_sequences_on():
    nodes, constants = lstm(2, states=False)
    second = {name: random(*array.shape[:2], 8, seed=9, scale=0.3) if name == "W" else array
              for name, array in recurrent_weights(4, 2).items()}  # fmt: skip
    nodes = [
        ("Gather", "table ids", "e"), *nodes[-2:], ("Transpose", "y", "t", {"perm": [0, 2, 1, 3]}),
        ("Reshape", "t flat", "x2"), ("LSTM", "x2 W2 R2 B2", "y2", {"hidden_size": 4, "direction": "bidirectional"}),
        ("Transpose", "y2", "t2", {"perm": [0, 2, 1, 3]}), ("Reshape", "t2 flat", "z2"),
        ("Transpose", "z2", "z", {"perm": [1, 0, 2]}),
    ]  # fmt: skip
    more = {f"{name}2": array for name, array in second.items()} | {"flat": np.array([0, 0, -1])}
    assert_as_operators(([IDS], "z", nodes, constants | more), ids, ["WrappingEmbedding", *["Bidirectional"] * 2])


def test_wrapped_negative_ids_are_those_from_the_end_of_the_table():
    nodes = [
        ("Less", "ids zero", "l"), ("Not", "l", "n"), ("Cast", "n", "nf", {"to": 7}), ("Cast", "l", "lf", {"to": 7}),
        ("Add", "ids count", "w"), ("Mul", "w lf", "a"), ("Mul", "ids nf", "b"), ("Add", "a b", "i"),
        ("Gather", "table i", "y"),
    ]  # fmt: skip
    arguments = [IDS], "y", nodes, {"zero": np.array(0), "count": np.array(10), "table": TABLE}
    assert_as_operators(arguments, lambda rows, steps: ids(rows, steps, -10), ["WrappingEmbedding"])


def test_ids_that_are_changed_otherwise_stay_operators():
    nodes = [("Add", "ids one", "i"), ("Gather", "table i", "y")]
    arguments = [IDS], "y", nodes, {"one": np.array(-1), "table": TABLE}
    assert_as_operators(arguments, ids, ["Add", "WrappingEmbedding"])


def test_dense_with_reshapes_around_it():
    nodes = [
        ("Shape", "x", "shape"), ("Gather", "shape lead", "front", {"axis": 0}),
        ("Concat", "front units", "back", {"axis": 0}), ("Reshape", "x flat", "r"), ("MatMul", "r kernel", "m"),
        ("Reshape", "m back", "z"), ("Add", "z bias", "y"), ("Tanh", "y", "t"),
    ]  # fmt: skip
    constants = DENSE | {"lead": np.array([0, 1]), "units": np.array([2]), "flat": np.array([-1, 4])}
    arguments = [("x", F, (None, None, 4))], "t", nodes, constants
    found = assert_as_operators(arguments, lambda rows, steps: random(rows, steps, 4), ["Dense"])
    assert (found.layers[-1].activation, found.layers[-1].units) == ("tanh", 2)


def test_gemm_with_turned_weights_is_dense():
    arguments = (
        [("x", F, (None, 4))], "y", [("Gemm", "x turned bias", "y", {"transB": 1})],
        {"turned": DENSE["kernel"].T.copy(), "bias": DENSE["bias"]},
    )  # fmt: skip
    assert_as_operators(arguments, lambda rows, steps: random(rows, 4), ["Dense"])


def test_scaled_gemm_is_an_operator():
    arguments = [("x", F, (None, 4))], "y", [("Gemm", "x kernel bias", "y", {"alpha": 0.5})], DENSE
    assert_as_operators(arguments, lambda rows, steps: random(rows, 4), ["Gemm"])


def test_operators_train_with_the_layers():
    nodes = [
        ("Gather", "table ids", "e"), ("MatMul", "e kernel", "m"), ("Tanh", "m", "t"), ("Mul", "t scale", "s"),
        ("ReduceMean", "s", "p", {"axes": [1], "keepdims": 0}), ("Sigmoid", "p", "y"),
    ]  # fmt: skip
    constants = {"table": TABLE, "kernel": random(3, 2, seed=4), "scale": random(2, seed=6)}
    found = model([IDS], "y", nodes, constants)
    assert {variable.name for variable in found.trainable_weights} == {"embeddings", "kernel", "scale"}
    found.compile(optimizers.Adam(0.1), "mse")
    x = ids(32, 6)
    y = (x[:, :2] > 4).astype(np.float32)
    before = found.evaluate(x, y)
    history = found.fit(x, y, epochs=40, batch_size=8, shuffle=False, verbose=0).history["loss"]
    assert history[-1] < before * 0.6


def test_training_through_an_operator_without_gradient_names_the_node():
    nodes = [("MatMul", "x kernel", "m"), ("CumSum", "m axis", "y")]
    found = model([("x", F, (None, 4))], "y", nodes, DENSE | {"axis": np.array(1)})
    found.compile("sgd", "mse")
    with pytest.raises(NotImplementedError, match=r"node 'node1' \(CumSum\): expected an operator with a gradient"):
        found.train_on_batch(random(2, 4), random(2, 2))


def test_a_weight_of_two_operators_is_one_variable():
    nodes = [("Mul", "x scale", "a"), ("Add", "a scale", "y")]
    found = model([("x", F, (None, 3))], "y", nodes, {"scale": random(3)})
    assert len({id(variable) for variable in found.trainable_weights}) == 1
    x = random(5, 3, seed=2)
    found.compile("sgd", "mse")
    _, gradients = found.loss_and_gradients(x, np.zeros((5, 3), np.float32))
    scale = random(3)
    expected = (2 * (x * scale + scale) * (x + 1)).sum(axis=0) / x.size
    np.testing.assert_allclose(gradients[0], expected, rtol=1e-4)


def test_time_first_takes_one_batch_as_a_whole():
    nodes = [("RNN", "x W R B", "y h", {"hidden_size": 4}), ("Squeeze", "y one", "s")]
    arguments = ([("x", F, ("time", "batch", 3))], "s h", nodes, recurrent_weights(1) | {"one": np.array([1])})
    found = model(*arguments)
    x = random(50, 2, 3)
    for actual, expected in zip(found.predict(x, batch_size=8), run_graph(graph(*arguments), [x], {}), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    found.compile("sgd", "mse")
    with pytest.raises(NotImplementedError, match="expected the batch as the first axis"):
        found.fit(x, x)


def test_unknown_operators_are_an_error_that_names_the_node():
    with pytest.raises(FileFormatError, match=r"node 'node0' \(Frobnicate\): expected an operator that fastmask knows"):
        model([IDS], "y", [("Frobnicate", "ids", "y")])


def test_a_model_with_operators_is_not_saved_and_says_so(tmp_path):
    found = model([("x", F, (None, 3))], "y", [("Sign", "x", "y")])
    with pytest.raises(NotImplementedError, match="expected layers of Keras to save, got 'node0' of an ONNX file"):
        found.save(tmp_path / "m.keras")


def test_a_model_of_layers_is_saved(tmp_path):
    nodes, constants = lstm()
    nodes = [("Gather", "table ids", "e"), *nodes, ("Squeeze", "h_n one", "z")]
    found = model([IDS], "z", nodes, constants | {"one": np.array([0])})
    assert kinds(found) == ["LSTM", "WrappingEmbedding"]
    found.save(tmp_path / "m.keras")
    x = ids()
    np.testing.assert_array_equal(models.load_model(tmp_path / "m.keras")(x), found(x))


def test_weights_go_through_files(tmp_path):
    nodes = [("Mul", "x scale", "a"), ("MatMul", "a kernel", "y")]
    arguments = [("x", F, (None, 4))], "y", nodes, DENSE | {"scale": random(4)}
    first, second = model(*arguments), model(*arguments)
    first.set_weights([weight + 1 for weight in first.get_weights()])
    first.save_weights(tmp_path / "w.weights.h5")
    second.load_weights(tmp_path / "w.weights.h5")
    x = random(2, 4)
    np.testing.assert_array_equal(first(x), second(x))


def test_masked_input_of_an_operator_is_refused():
    inner = model([("x", F, (None, None, 3))], "y", [("Sign", "x", "y")])
    with pytest.raises(TypeError, match="does not support masking"):
        inner(layers.Masking()(random(2, 4, 3)), mask=np.array([[True, False, True, True]] * 2))
