"""Operators of ONNX: their gradients, and what the operators of old sets take as attributes."""

import numpy as np
import pytest
from helpers.onnx_graphs import random

from fastmask.convert.onnx.graph import Node
from fastmask.convert.onnx.operators import OPERATORS
from fastmask.convert.onnx.running import run_node

X = random(2, 3, 4).astype("f8")
POSITIVE = np.abs(X) + 0.5
Y = random(3, 4, seed=1).astype("f8")
INDEX = np.array([[0, 2], [-1, 0]])
CASES = {
    "Add": [X, Y], "Sub": [X, Y], "Mul": [X, Y], "Div": [X, np.abs(Y) + 0.5], "Pow": [POSITIVE, np.array(1.5)],
    "Max": [X, Y], "Min": [X, Y], "Sum": [X, Y, Y], "Mean": [X, Y],
    "Abs": [X], "Neg": [X], "Sqrt": [POSITIVE], "Reciprocal": [POSITIVE], "Exp": [X], "Log": [POSITIVE], "Sin": [X],
    "Cos": [X], "Erf": [X], "Tanh": [X], "Sigmoid": [X], "Relu": [X], "Softplus": [X], "Softsign": [X],
    "HardSigmoid": [X], "LeakyRelu": [X], "Elu": [X], "Clip": [X, np.array(-0.5), np.array(0.5)],
    "Where": [X > 0, X, Y], "Transpose": [X], "Reshape": [X, np.array([0, -1])], "Squeeze": [X[:, :1], np.array([1])],
    "Unsqueeze": [X, np.array([0, -1])], "Flatten": [X], "Concat": [X, X], "Split": [X, np.array([1, 1])],
    "Slice": [X, np.array([2, 0]), np.array([-5, 9]), np.array([1, 2]), np.array([-1, 2])],
    "Expand": [Y[:, :1], np.array([2, 3, 4])], "Tile": [Y, np.array([2, 1])], "Identity": [X], "Dropout": [X],
    "ReverseSequence": [X, np.array([1, 2, 2])], "Gather": [X, INDEX],
    "GatherElements": [X, np.array([[[0, 1, 1, 0]]])], "TopK": [X, np.array([2])], "ReduceSum": [X, np.array([1])],
    "ReduceMean": [X], "ReduceMax": [X], "ReduceMin": [X], "ReduceSumSquare": [X], "ReduceL1": [X], "ReduceL2": [X],
    "ReduceLogSumExp": [X], "Softmax": [X], "LogSoftmax": [X], "MatMul": [X, Y.T], "Gemm": [Y, X[0].T, X[0][:, 0]],
    "Cast": [X], "CastLike": [X, X],
}  # fmt: skip
ATTRIBUTES = {
    "Concat": {"axis": 1}, "Cast": {"to": 11}, "Transpose": {"perm": [1, 2, 0]}, "Gather": {"axis": 1},
    "GatherElements": {"axis": 0}, "ReduceMax": {"axes": [2], "keepdims": 0}, "ReduceMean": {"axes": [-1, 0]},
}  # fmt: skip


def test_all_gradients_are_in_the_cases():
    assert {name for name, operator in OPERATORS.items() if operator.gradient} == set(CASES)


@pytest.mark.parametrize("op", CASES)
def test_gradient_is_that_of_central_differences(op):
    inputs = CASES[op]
    outputs = ["y", "z"] if op in ("Split", "TopK") else ["y"]
    node = Node(op, ["x"] * len(inputs), outputs, ATTRIBUTES.get(op, {}), 17)
    found = run_node(node, inputs, {})
    factors = [random(*np.shape(y), seed=5).astype("f8") if y.dtype.kind == "f" else None for y in found]

    def weighted(changed):
        pairs = zip(run_node(node, changed, {}), factors, strict=True)
        return sum((y * f).sum() for y, f in pairs if f is not None)

    gradients = OPERATORS[op].gradient(node, inputs, found, factors)
    for i, x in enumerate(inputs):
        if np.asarray(x).dtype.kind != "f" or gradients[i] is None:
            continue
        assert np.shape(gradients[i]) == np.shape(x)
        for place in list(np.ndindex(np.shape(x)))[:12]:
            step = np.zeros(np.shape(x))
            step[place] = 1e-6
            high, low = ([*inputs[:i], x + sign * step, *inputs[i + 1 :]] for sign in (1, -1))
            np.testing.assert_allclose(
                np.asarray(gradients[i])[place], (weighted(high) - weighted(low)) / 2e-6, rtol=1e-5, atol=1e-7
            )


@pytest.mark.parametrize(("op", "attributes", "inputs"), [
    ("Squeeze", {"axes": [1]}, [np.array([1])]), ("Unsqueeze", {"axes": [1]}, [np.array([1])]),
    ("ReduceSum", {"axes": [1]}, [np.array([1])]), ("Split", {"split": [1, 1]}, [np.array([1, 1])]),
    ("Slice", {"starts": [1], "ends": [2]}, [np.array([1]), np.array([2])]),
    ("Clip", {"min": -0.5, "max": 0.5}, [np.array(-0.5), np.array(0.5)]), ("TopK", {"k": 1}, [np.array([1])]),
    ("Pad", {"pads": [0, 0, 1, 0, 0, 0]}, [np.array([0, 0, 1, 0, 0, 0])]),
])  # fmt: skip
def test_old_sets_give_as_attributes_what_new_ones_give_as_inputs(op, attributes, inputs):
    x = X[:, :1]
    old = run_node(Node(op, ["x"], ["y", "z"][: 1 + (op in ("Split", "TopK"))], attributes, 9), [x], {})
    new = run_node(Node(op, ["x"], ["y"], {}, 18), [x, *inputs], {})
    for first, second in zip(old, new, strict=True):
        np.testing.assert_array_equal(first, second)


def test_softmax_of_old_sets_takes_all_axes_behind_one_as_one():
    old = run_node(Node("Softmax", ["x"], ["y"], {}, 11), [X], {})[0]
    np.testing.assert_allclose(old.sum(axis=(1, 2)), 1)
    new = run_node(Node("Softmax", ["x"], ["y"], {}, 13), [X], {})[0]
    np.testing.assert_allclose(new.sum(axis=-1), 1)


def test_quotients_of_integers_are_cut_off_towards_zero():
    found = run_node(Node("Div", ["x", "y"], ["z"], {}, 14), [np.array([-7, 7, -6]), np.array([2, -2, 3])], {})[0]
    np.testing.assert_array_equal(found, [-3, -3, -2])


def test_indices_outside_are_an_error_that_names_the_node():
    with pytest.raises(IndexError, match=r"node 'lookup' \(Gather\): indices: expected numbers from -2 to 1, got 5"):
        run_node(Node("Gather", ["x", "i"], ["y"], {}, 13, "lookup"), [X, np.array(5)], {})
