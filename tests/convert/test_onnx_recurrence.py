"""RNN, LSTM and GRU of ONNX as layers, beside the same equations step by step."""

import numpy as np
import pytest
from helpers.numeric import assert_gradient, assert_weight_gradient
from helpers.onnx_graphs import INT, F, graph, kinds, model, random, recurrent_weights

from fastmask.convert.onnx.operators.recurrent import GATES
from fastmask.convert.onnx.running import run_graph

ROWS, STEPS, FEATURES, UNITS = 3, 5, 3, 4
LENGTHS = np.array([5, 2, 3])
FORMS = [(direction, layout) for direction in ("forward", "reverse", "bidirectional") for layout in (0, 1)]


def parts(op, direction, layout, lengths=True, states=True, **attributes):
    """Return the arguments of a graph that is one node, and its inputs."""
    directions = 2 if direction == "bidirectional" else 1
    x = (None, None, FEATURES)
    state = (None, directions, UNITS) if layout else (directions, None, UNITS)
    inputs, given = [("x", F, x)], "x W R B"
    arrays = [random(ROWS, STEPS, FEATURES) if layout else random(STEPS, ROWS, FEATURES)]
    if lengths:
        inputs.append(("n", INT, (None,)))
        arrays.append(LENGTHS)
    given += " n" if lengths else " _"
    for name in ("h", "c")[: 1 + (op == "LSTM")] if states else ():
        inputs.append((name, F, state))
        arrays.append(random(*[n or ROWS for n in state], seed=7))
        given += f" {name}"
    options = {"direction": direction, "layout": layout, "hidden_size": UNITS, **attributes}
    outputs = "y h_n c_n" if op == "LSTM" else "y h_n"
    node = (op, given, outputs, options)
    return (inputs, outputs, [node], recurrent_weights(GATES[op], directions, FEATURES, UNITS)), arrays


def assert_as_step_by_step(arguments, arrays, wanted=None):
    found = model(*arguments)
    outputs = found(arrays if len(arrays) > 1 else arrays[0])
    if wanted is not None:
        assert kinds(found) == wanted
    for actual, expected in zip(outputs, run_graph(graph(*arguments), arrays, {}), strict=True):
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("given", [(False, False), (True, False), (False, True), (True, True)], ids=str)
@pytest.mark.parametrize(("direction", "layout"), FORMS, ids=str)
@pytest.mark.parametrize(("op", "after"), [("RNN", 0), ("GRU", 0), ("GRU", 1), ("LSTM", 0)])
def test_all_forms_are_layers_with_the_same_numbers(op, after, direction, layout, given):
    arguments, arrays = parts(op, direction, layout, *given, linear_before_reset=after)
    assert_as_step_by_step(arguments, arrays, ["Recurrence"])


@pytest.mark.parametrize(("op", "names", "layer"), [
    ("RNN", ["Relu"], True), ("RNN", ["Softsign"], True), ("RNN", ["Affine"], True), ("RNN", ["Softplus"], False),
    ("GRU", ["HardSigmoid", "Tanh"], True), ("GRU", ["Sigmoid", "LeakyRelu"], False),
    ("LSTM", ["Sigmoid", "Relu", "Relu"], True), ("LSTM", ["Sigmoid", "Tanh", "Relu"], False),
    ("LSTM", ["HardSigmoid", "Elu", "Elu"], True), ("LSTM", ["Sigmoid", "ScaledTanh", "Tanh"], False),
])  # fmt: skip
def test_activations_are_those_of_the_kernels_or_run_step_by_step(op, names, layer):
    arguments, arrays = parts(op, "forward", 0, activations=names)
    assert_as_step_by_step(arguments, arrays, ["Recurrence" if layer else op])


@pytest.mark.parametrize("attributes", [{"clip": 0.2}, {"input_forget": 1}, {"activation_alpha": [0.3],
                                        "activations": ["HardSigmoid", "Tanh", "Tanh"]}], ids=str)  # fmt: skip
def test_what_no_kernel_computes_runs_step_by_step(attributes):
    arguments, arrays = parts("LSTM", "forward", 0, **attributes)
    assert_as_step_by_step(arguments, arrays, ["LSTM"])
    plain = model(*parts("LSTM", "forward", 0)[0])(arrays)
    assert not np.allclose(model(*arguments)(arrays)[0], plain[0], atol=1e-3)


def test_peepholes_run_step_by_step():
    inputs, outputs, [(op, given, found, options)], weights = parts("LSTM", "forward", 0)[0]
    weights["P"] = random(1, 3 * UNITS, seed=9)
    arguments = (inputs, outputs, [(op, f"{given} P", found, options)], weights)
    assert_as_step_by_step(arguments, parts("LSTM", "forward", 0)[1], ["LSTM"])


@pytest.mark.parametrize(("direction", "layout"), FORMS, ids=str)
@pytest.mark.parametrize("op", GATES)
def test_gradients_are_those_of_central_differences(op, direction, layout):
    arguments, arrays = parts(op, direction, layout)
    weights = {name: array.astype("f8") for name, array in arguments[3].items()}
    inputs = [(name, np.dtype("f8") if dtype == F else dtype, axes) for name, dtype, axes in arguments[0]]
    found = model(inputs, *arguments[1:3], weights)
    layer = next(layer for layer in found.layers if type(layer).__name__ == "Recurrence")
    x = [array.astype("f8") if array.dtype == F else array for array in arrays]
    outputs, pullback = layer.vjp(x)
    factors = tuple(random(*y.shape, seed=11).astype("f8") for y in outputs)
    gradients = pullback(factors)

    def weighted_sum():
        return sum((y * d).sum() for y, d in zip(layer(x), factors, strict=True))

    for array, gradient in zip(x, gradients.inputs, strict=True):
        assert (gradient is None) == (array.dtype.kind != "f")
        if gradient is not None:
            assert_gradient(gradient, weighted_sum, array, "input")
    for variable, gradient in zip(layer.weights, gradients.weights, strict=True):
        assert_weight_gradient(gradient, weighted_sum, variable)


def test_ids_that_repeat_share_the_gradient_of_their_row():
    _, _, [node], weights = parts("GRU", "bidirectional", 0, states=False)[0]
    nodes = [("Gather", "table ids", "e"), ("Transpose", "e", "x", {"perm": [1, 0, 2]}), node]
    nodes.append(("ReduceSum", "y axes", "z", {"keepdims": 0}))
    constants = {name: array.astype("f8") for name, array in weights.items()} | {"axes": np.array([0, 1])}
    constants["table"] = random(4, FEATURES, seed=5).astype("f8")
    ids = np.random.default_rng(0).integers(0, 4, (ROWS, STEPS))
    arguments = [("ids", INT, ("b", "t")), ("n", INT, ("b",))], "z", nodes, constants
    found = model(*arguments)
    assert kinds(found) == ["Recurrence", "ReduceSum", "WrappingEmbedding"]
    expected = run_graph(graph(*arguments), [ids, LENGTHS], {})[0]
    np.testing.assert_allclose(found([ids, LENGTHS]), expected, rtol=1e-10)
    found.compile("sgd", "mse")
    loss = [[ids, LENGTHS], np.zeros((ROWS, UNITS))]
    gradients = found.loss_and_gradients(*loss)[1]
    for variable, gradient in zip(found.trainable_weights, gradients, strict=True):
        dense = gradient if isinstance(gradient, np.ndarray) else gradient.dense()
        assert_weight_gradient(dense, lambda: found.loss_and_gradients(*loss)[0], variable)


def test_padding_behind_lengths_is_not_read():
    arguments, (x, lengths) = parts("LSTM", "bidirectional", 0, states=False)
    found = model(*arguments)
    whole = found([x, lengths])
    for row, length in enumerate(lengths):
        x[length:, row] = np.nan
    for first, second in zip(whole, found([x, lengths]), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("lengths", [[6, 2, 3], [-1, 2, 3], [1, 2]], ids=str)
def test_wrong_lengths_are_an_error(lengths):
    arguments, (x, _) = parts("GRU", "forward", 0, states=False)
    with pytest.raises(ValueError, match="sequence_lens: expected"):
        model(*arguments)([x, np.array(lengths)])


def test_wrong_features_and_states_are_an_error():
    arguments, (x, lengths, h) = parts("GRU", "forward", 0)
    found = model(*arguments)
    with pytest.raises(ValueError, match="x: expected 3 features"):
        found([x[..., :2], lengths, h])
    with pytest.raises(ValueError, match="initial_h: expected shape"):
        found([x, lengths, h[:, :2]])


def test_weights_that_are_computed_run_step_by_step():
    arguments, arrays = parts("RNN", "forward", 0, False, False)
    inputs, outputs, [(op, given, found, options)], weights = arguments
    nodes = [("Mul", "W s", "V"), (op, given.replace("W", "V"), found, options)]
    given = [*inputs, ("s", F, (1, 1, 1))]
    arrays = [*arrays, np.ones((1, 1, 1), F)]
    assert_as_step_by_step((given, outputs, nodes, weights), arrays, ["Mul", "RNN"])
