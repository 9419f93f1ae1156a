"""Weights under PyTorch's names and in its form, against the equations in its reference; PyTorch is not needed."""

import sys

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers
from fastmask.ops.rnn.layouts import GATES

FEATURES, UNITS, STEPS = 4, 3, 5
KINDS = {"lstm": layers.LSTM, "gru": layers.GRU, "simple_rnn": layers.SimpleRNN}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def step(cell, x, h, c, w_ih, w_hh, b_ih, b_hh):
    """One step of the equations of torch.nn.LSTM, GRU and RNN."""
    a, b = w_ih @ x + b_ih, w_hh @ h + b_hh
    if cell == "simple_rnn":
        return np.tanh(a + b), c
    if cell == "lstm":
        i, f, g, o = np.split(a + b, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    (a_r, a_z, a_n), (b_r, b_z, b_n) = np.split(a, 3), np.split(b, 3)
    z = sigmoid(a_z + b_z)
    return (1 - z) * np.tanh(a_n + sigmoid(a_r + b_r) * b_n) + z * h, c


def run(cell, xs, weights):
    h = c = np.zeros(UNITS)
    found = []
    for x in xs:
        h, c = step(cell, x, h, c, *weights)
        found.append(h)
    return np.array(found)


def state_dict(cell, number, directions, bias=True, prefix="", seed=0):
    """Weights as such a module of several layers names them."""
    rng, rows, found = np.random.default_rng(seed), len(GATES["torch"][cell]) * UNITS, {}
    for layer in range(number):
        width = FEATURES if layer == 0 else UNITS * directions
        for end in ("", "_reverse")[:directions]:
            shapes = {"weight_ih": (rows, width), "weight_hh": (rows, UNITS), "bias_ih": (rows,), "bias_hh": (rows,)}
            for name, shape in list(shapes.items())[: 4 if bias else 2]:
                found[f"{prefix}{name}_l{layer}{end}"] = rng.normal(size=shape)
    return found


def expected(cell, x, weights, number, directions):
    """The outputs of such a module for one sequence."""
    for layer in range(number):
        outputs = []
        for end in ("", "_reverse")[:directions]:
            names = [f"{name}_l{layer}{end}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            own = [weights.get(name, 0.0) for name in names]
            outputs.append(run(cell, x[::-1], own)[::-1] if end else run(cell, x, own))
        x = np.concatenate(outputs, axis=1)
    return x


def recurrent(cell, directions, bias=True):
    layer = KINDS[cell](UNITS, use_bias=bias, return_sequences=True, dtype="float64")
    return layers.Bidirectional(layer) if directions == 2 else layer


@pytest.mark.parametrize("cell", KINDS)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_stacks_of_recurrent_layers(cell, directions, bias):
    stack = fm.Sequential([
        fm.Input((None, FEATURES), dtype="float64"), recurrent(cell, directions, bias),
        layers.Dropout(0.2, dtype="float64"), recurrent(cell, directions, bias),
    ])  # fmt: skip
    weights = state_dict(cell, 2, directions, bias, "encoder.")
    weights["encoder_of_others.weight"] = np.zeros(1)
    stack.set_torch_weights(weights, "encoder.")
    own = {name.removeprefix("encoder."): value for name, value in weights.items()}
    x = np.random.default_rng(1).normal(size=(2, STEPS, FEATURES))
    wanted = [expected(cell, row, own, 2, directions) for row in x]
    np.testing.assert_allclose(stack.predict(x), wanted, rtol=0, atol=1e-12)
    # One by one, each knows which layer of the module it is.
    made = [recurrent(cell, directions, bias) for _ in range(2)]
    apart = fm.Sequential([fm.Input((None, FEATURES), dtype="float64"), *made])
    for number, layer in enumerate(apart.layers):
        layer.set_torch_weights(weights, "encoder.", number)
    np.testing.assert_array_equal(apart.predict(x), stack.predict(x))


@pytest.mark.parametrize("cell", KINDS)
@pytest.mark.parametrize("directions", [1, 2])
def test_there_and_back(cell, directions):
    """The same bits, but for two biases that are one here: their sum comes back, and a zero."""
    first, second = recurrent(cell, directions), recurrent(cell, directions)
    for layer in (first, second):
        layer.build((None, None, FEATURES))
    first.set_weights([np.random.default_rng(2).normal(size=weight.shape) for weight in first.weights])
    stored = first.torch_weights("rnn.")
    assert stored.keys() == state_dict(cell, 1, directions, prefix="rnn.").keys()
    assert all(value.flags.c_contiguous and value.flags.writeable for value in stored.values())
    second.set_torch_weights(stored, "rnn.")
    assert [weight.tobytes() for weight in first.get_weights()] == [weight.tobytes() for weight in second.get_weights()]
    given = state_dict(cell, 1, directions)
    first.set_torch_weights(given)
    for name, value in first.torch_weights().items():
        if cell == "gru" or "weight" in name:
            assert value.tobytes() == given[name].tobytes()
        else:
            total = given[name.replace("_hh", "_ih")] + given[name.replace("_ih", "_hh")]
            np.testing.assert_array_equal(value, total if "_ih" in name else 0)
    assert next(iter(first.torch_weights(number=3))) == "weight_ih_l3"


SINGLE = {
    "dense": (lambda: layers.Dense(2), {"weight": (2, 4), "bias": (2,)}),
    "dense without bias": (lambda: layers.Dense(2, use_bias=False), {"weight": (2, 4)}),
    "time distributed": (lambda: layers.TimeDistributed(layers.Dense(2)), {"weight": (2, 4), "bias": (2,)}),
    "embedding": (lambda: layers.Embedding(5, 3), {"weight": (5, 3)}),
    "layer normalization": (layers.LayerNormalization, {"weight": (4,), "bias": (4,)}),
    "no scale": (lambda: layers.LayerNormalization(scale=False), {"bias": (4,)}),
    "batch normalization": (
        layers.BatchNormalization, dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (4,)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SINGLE)
def test_single_layers(kind):
    make, shapes = SINGLE[kind]
    layer = make()
    layer.build((None, 7) if kind == "embedding" else (None, 7, 4))
    given = {f"a.{name}": np.random.default_rng(3).random(shape, np.float32) for name, shape in shapes.items()}
    layer.set_torch_weights({**given, "a.num_batches_tracked": np.int64(7), "a.deeper.weight": np.zeros(1)}, "a.")
    found = layer.torch_weights("a.")
    assert found.keys() == given.keys()
    assert all(found[name].tobytes() == value.tobytes() for name, value in given.items())


def test_models_have_the_names_of_their_layers():
    inner = fm.Sequential([fm.Input((3,)), layers.Dense(2, name="head-0")], name="inner")
    x = fm.Input((None,), dtype="int32")
    y = layers.Embedding(5, 4, name="words")(x)
    y = layers.Dropout(0.1)(layers.GRU(3, return_sequences=True, name="rnn_l0")(y))
    model = fm.Model(x, inner(layers.GRU(3, name="rnn_l1")(y)))
    stored = model.torch_weights("model.")
    assert set(stored) == {
        "model.words.weight", "model.inner.head.0.weight", "model.inner.head.0.bias",
        *state_dict("gru", 2, 1, prefix="model.rnn."),
    }  # fmt: skip
    before = model.get_weights()
    model.set_weights([weight * 0 for weight in before])
    model.set_torch_weights(stored, "model.")
    assert [weight.tobytes() for weight in model.get_weights()] == [weight.tobytes() for weight in before]
    with pytest.raises(ValueError, match=r"expected nothing else for layer .*, got model\.more\.weight"):
        model.set_torch_weights(stored | {"model.more.weight": np.zeros(2)}, "model.")


def built(layer):
    layer.build((None, 7, 4))
    return layer


WRONG = {
    "missing": ({"weight": np.zeros((2, 4))}, ValueError, r"state_dict: expected bias for layer 'dense', got weight"),
    "none": ({}, ValueError, "expected bias, weight for layer 'dense', got no such names"),
    "more": ({"weight": np.zeros((2, 4)), "bias": np.zeros(2), "scale": 1}, ValueError, "nothing else .* got scale"),
    "turned": ({"weight": np.zeros((4, 2)), "bias": np.zeros(2)}, ValueError, r"weight: expected shape \(2, 4\)"),
    "the last": ({"weight": np.ones((2, 4)), "bias": np.zeros(3)}, ValueError, r"bias: expected shape \(2,\), got"),
    "text": ({"weight": [["a"] * 4] * 2, "bias": np.zeros(2)}, TypeError, "weight: expected real numbers"),
    "large": ({"weight": np.full((2, 4), 1e300), "bias": np.zeros(2)}, ValueError, "too large for float32"),
    "a list": ([1, 2], TypeError, "state_dict: expected a mapping of names to arrays, got list"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_does_not_fit_changes_nothing(kind):
    given, error, message = WRONG[kind]
    layer = built(layers.Dense(2, name="dense"))
    before = layer.get_weights()
    with pytest.raises(error, match=message):
        layer.set_torch_weights(given)
    assert all(map(np.array_equal, before, layer.get_weights()))


def test_a_module_of_other_layers_is_refused():
    layer = built(layers.LSTM(UNITS, name="lstm"))
    for directions, number, message in ((2, 1, "got bias_hh_l0_reverse"), (1, 2, "got bias_hh_l1")):
        with pytest.raises(ValueError, match=f"expected nothing else for layer 'lstm', {message}"):
            layer.set_torch_weights(state_dict("lstm", number, directions))
    with pytest.raises(ValueError, match="expected nothing else for layer 'lstm', got bias_hh_l0_reverse"):
        layer.set_torch_weights(state_dict("lstm", 1, 2), number=0)
    with pytest.raises(ValueError, match=r"expected .*bias_ih_l2"):
        layer.set_torch_weights(state_dict("lstm", 2, 1), number=2)
    with pytest.raises(TypeError, match="expected reset_after=True"):
        built(layers.GRU(UNITS, reset_after=False)).torch_weights()
    attention = fm.Sequential([fm.Input((None, 4)), layers.Dense(4), layers.TimeDistributed(Own())])
    with pytest.raises(TypeError, match=r"expected one whose weights a module of torch\.nn has, got a Own"):
        attention.torch_weights()
    with pytest.raises(ValueError, match="expected a built one"):
        layers.Dense(2).torch_weights()


def test_whole_numbers_are_refused():
    """Those of quantised layers mean nothing without their scales."""
    layer = built(layers.Dense(2))
    layer.kernel = layers.Variable(np.ones((4, 2), np.int8), "kernel")
    for call in (layer.torch_weights, lambda: layer.set_torch_weights({"weight": np.ones((2, 4)), "bias": np.ones(2)})):
        with pytest.raises(TypeError, match="expected weights of floating point, got int8"):
            call()


class Own(layers.Layer):
    """A layer of one's own with a weight."""

    def build(self, input_shape):
        self.scale = self.add_weight((input_shape[-1],), name="scale")

    def call(self, x):
        return x * self.scale.value


def test_state_dicts_from_safetensors_without_pytorch(tmp_path, monkeypatch):
    from fastmask.saving import safetensors

    monkeypatch.setitem(sys.modules, "torch", None)
    given = state_dict("gru", 1, 2, prefix="encoder.")
    safetensors.write(tmp_path / "a.safetensors", given, {})
    read = fm.convert.read_state_dict(tmp_path / "a.safetensors")
    assert {name: value.tobytes() for name, value in read.items()} == {n: v.tobytes() for n, v in given.items()}
    layer = recurrent("gru", 2)
    layer.build((None, None, FEATURES))
    layer.set_torch_weights(read, "encoder.")
    (tmp_path / "a.pt").write_bytes(b"PK\3\4 and so on")
    with pytest.raises(ImportError, match=r"fastmask\[torch\]"):
        fm.convert.read_state_dict(tmp_path / "a.pt")
    with pytest.raises(FileNotFoundError):
        fm.convert.read_state_dict(tmp_path / "b.pt")
