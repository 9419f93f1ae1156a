"""Arguments of another kind than an operation takes: the error names them, and no kernel runs."""

import inspect

import numpy as np
import pytest

from fastmask import PackedSequence, ops

X = np.ones((2, 3, 4), np.float32)
WRONG = {"array": X, "None": None, "text": "relu", "number": 3, "list": [1, 2], "object": object()}


def takes_packed(name):
    """The names of the arguments of an operation, if it takes a packed batch and nothing else first."""
    parameters = inspect.signature(getattr(ops, name)).parameters.values()
    needed = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return [p.name for p in needed] if needed and needed[0].annotation == "PackedSequence" else []


PACKED = [name for name in ops.__all__ if inspect.isfunction(getattr(ops, name)) and takes_packed(name)]


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", PACKED)
def test_what_is_no_packed_batch(name, kind):
    first, *others = takes_packed(name)
    packed = PackedSequence.from_padded(X)
    rest = {other: packed if other == "backward" else np.zeros(1, np.int64) for other in others}
    with pytest.raises(TypeError, match=f"^{first}: expected a PackedSequence, got {type(WRONG[kind]).__name__}$"):
        getattr(ops, name)(WRONG[kind], **rest)


def test_gather_is_among_them():
    assert {"gather", "gather_vjp", "unpack_vjp", "time_order"} & {*ops.__all__} <= {*PACKED}


@pytest.mark.parametrize("kind", WRONG)
def test_a_program_of_no_spec(kind):
    with pytest.raises(TypeError, match=r"^spec: expected an RNNSpec, got"):
        ops.RNNProgram(WRONG[kind], X, X)


@pytest.mark.parametrize("wrong", [X, object(), [1, 2]])
@pytest.mark.parametrize(
    "call",
    [
        lambda wrong: ops.activation(X, wrong),
        lambda wrong: ops.dense(X, np.ones((4, 4), np.float32), None, wrong),
        lambda wrong: ops.merge([X, X], wrong),
        lambda wrong: ops.RNNSpec("lstm", 3, 4, activation=wrong),
    ],
)
def test_names_that_are_no_names(call, wrong):
    with pytest.raises(ValueError, match=r"^(name|activation|mode): expected one of .*tanh|add"):
        call(wrong)


@pytest.mark.parametrize("wrong", [X, "a", None, object(), (1.5,)])
def test_numbers_that_are_none(wrong):
    for function in (ops.layer_normalization, ops.layer_normalization_vjp):
        with pytest.raises(TypeError, match=r"^epsilon: expected a number"):
            function(X, epsilon=wrong)
        with pytest.raises(TypeError, match=r"^axis: expected a whole number or several"):
            function(X, axis=wrong)
    with pytest.raises(TypeError, match=r"^guard: expected a number"):
        ops.batch_moments(X[0], guard=wrong)
    with pytest.raises(ValueError, match=r"^axis: expected an axis of an array"):
        ops.activation(X, "softmax", wrong)
