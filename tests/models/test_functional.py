"""Functional models: graphs, gradients, plans, masks, data by name, nesting, summary, errors."""

import json

import numpy as np
import pytest
from helpers.numeric import assert_gradient, assert_weight_gradient

import fastmask as fm
from fastmask import layers
from fastmask.batch import packing
from fastmask.core.structure import flatten

F64 = {"dtype": "float64"}
WORDS = np.array([[1, 2, 0, 3], [4, 0, 0, 0], [0, 5, 6, 2], [0, 0, 0, 0]])
OTHERS = np.array([[2, 2], [3, 0], [0, 0], [1, 6]])


def embedded(name, size=3):
    ids = fm.Input((None,), name=name)
    return ids, layers.Embedding(7, size, mask_zero=True, **F64)(ids)


def residual():
    ids, x = embedded("words")
    y = layers.Add(**F64)([x, layers.LSTM(3, return_sequences=True, **F64)(x)])
    y = layers.Add(**F64)([y, layers.Dense(3, "tanh", **F64)(y)])
    return fm.Model(ids, layers.Dense(2, **F64)(y)), WORDS, np.linspace(-1, 1, 32).reshape(4, 4, 2)


def shared():
    (first, a), (second, b) = embedded("first"), embedded("second")
    gru, dense = layers.GRU(2, **F64), layers.Dense(2, "tanh", **F64)
    y = layers.Multiply(**F64)([dense(gru(a)), dense(dense(gru(b)))])
    return fm.Model([first, second], y), [WORDS, OTHERS], np.linspace(-1, 1, 8).reshape(4, 2)


def encoder_decoder():
    (source, x), (target, y) = embedded("source"), embedded("target", 2)
    _, *states = layers.LSTM(3, return_state=True, **F64)(x)
    y = layers.LSTM(3, return_sequences=True, **F64)(y, initial_state=states)
    targets = np.array([[0, 1], [1, 1], [0, 0], [1, 0]])
    return fm.Model([source, target], layers.Dense(2, "softmax", **F64)(y)), [WORDS, OTHERS], targets


def two_outputs():
    ids, x = embedded("words")
    vector = fm.Input((2,), name="vector")
    steps, last = layers.GRU(3, return_sequences=True, return_state=True, **F64)(x)
    inner = fm.Sequential([layers.Dense(3, "tanh", input_shape=(2,), **F64)], name="inner")
    row = layers.Dense(1, name="row", **F64)(layers.Average(**F64)([inner(vector), last]))
    model = fm.Model([ids, vector], [layers.Dense(2, name="step", **F64)(steps), row])
    y = [np.linspace(-1, 1, 32).reshape(4, 4, 2), np.linspace(0, 1, 4)[:, None]]
    return model, [WORDS, np.linspace(-1, 1, 8).reshape(4, 2)], y


def nested():
    inner_in = fm.Input((None, 3), name="inner_in")
    y = layers.Masking(**F64)(inner_in)
    encode = fm.Model(inner_in, layers.SimpleRNN(2, return_sequences=True, **F64)(y), name="encode")
    one, two = fm.Input((None, 3), name="one"), fm.Input((None, 3), name="two")
    a, b = layers.LSTM(2, **F64)(encode(one)), layers.LSTM(2, **F64)(encode(two))
    x = np.random.default_rng(0).normal(size=(4, 3, 3)) * (OTHERS[:, :1, None] != 3)
    return fm.Model([one, two], layers.Subtract(**F64)([a, b])), [x, x[::-1].copy()], np.ones((4, 2))


def explicit():
    ids, valid = fm.Input((None,), name="words"), fm.Input((None,), dtype="bool", name="valid")
    embedding = layers.Embedding(7, 3, mask_zero=True, **F64)
    x = embedding(ids)
    y = layers.LSTM(3, return_sequences=True, **F64)(x, mask=valid & embedding.compute_mask(ids))
    z = layers.Bidirectional(layers.GRU(3, return_sequences=True, **F64), merge_mode="sum")(x, mask=valid)
    inner = fm.Input((None, 3))
    encode = fm.Model(inner, layers.SimpleRNN(3, return_sequences=True, **F64)(inner), name="encode")
    y = layers.Add(**F64)([y, z, encode(layers.Dense(3, **F64)(x), mask=~valid)])
    model = fm.Model([ids, valid], layers.Dense(2, **F64)(y))
    return model, [WORDS, WORDS % 3 != 1], np.linspace(-1, 1, 32).reshape(4, 4, 2)


CASES = [residual, shared, encoder_decoder, two_outputs, nested, explicit]


@pytest.mark.parametrize("case", CASES)
def test_gradients(case):
    fm.utils.set_random_seed(3)
    model, x, y = case()
    model.compile("sgd", "sparse_categorical_crossentropy" if case is encoder_decoder else "mse")
    loss, grads = model.loss_and_gradients(x, y)
    assert loss == pytest.approx(np.atleast_1d(model.evaluate(x, y, verbose=0))[0], rel=1e-12)
    for grad, variable in zip(grads, model.trainable_weights, strict=True):
        dense = grad.dense() if isinstance(grad, fm.ops.SparseRows) else grad
        assert_weight_gradient(dense, lambda: np.atleast_1d(model.test_on_batch(x, y))[0], variable)


@pytest.mark.parametrize("case", CASES)
def test_a_config_and_the_weights_make_the_same_model(case):
    model, x, _ = case()
    again = fm.Model.from_config(json.loads(json.dumps(model.get_config())))
    again.set_weights(model.get_weights())
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
    for a, b in zip(flatten(again.predict(x)), flatten(model.predict(x)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_gradients_by_the_inputs_of_a_model_used_as_a_layer():
    inputs = fm.Input((None, 3))
    model = fm.Model(inputs, layers.Add(**F64)([inputs, layers.GRU(3, return_sequences=True, **F64)(inputs)]))
    x, dy = np.random.default_rng(1).normal(size=(2, 4, 3)), np.linspace(-1, 1, 24).reshape(2, 4, 3)
    y, pullback = model.vjp(x)
    assert y.shape == dy.shape
    assert_gradient(pullback(dy).inputs, lambda: (model.vjp(x)[0] * dy).sum(), x)
    wrapped = layers.TimeDistributed(fm.Sequential([layers.Dense(2, **F64), layers.Activation("tanh", **F64)]), **F64)
    dy = np.ones((2, 4, 2))
    assert_gradient(wrapped.vjp(x)[1](dy).inputs, lambda: wrapped(x).sum(), x)


@pytest.fixture
def plans(monkeypatch):
    made = []
    plain = packing.Packing._laid_out
    monkeypatch.setattr(packing.Packing, "_laid_out", lambda *a, **k: (made.append(a), plain(*a, **k))[1])
    return made


def test_the_plan_of_an_input_is_made_once(plans):
    ids = fm.Input((None,))
    branches = []
    for _ in range(3):
        x = layers.Embedding(7, 3, mask_zero=True)(ids)
        branches.append(layers.Dense(3)(layers.LSTM(3, return_sequences=True)(x)))
    model = fm.Model(ids, layers.Dense(1)(layers.Add()(branches)))
    model.predict(WORDS)
    assert len(plans) == 1
    assert len({id(y.packing) for y in model.run([WORDS])[0]}) == 1


def test_branches_with_and_without_a_mask_have_their_own_plans(plans):
    ids = fm.Input((None,))
    masked = layers.LSTM(2)(layers.Embedding(7, 3, mask_zero=True)(ids))
    plain = layers.LSTM(2)(layers.Embedding(7, 3)(ids))
    model = fm.Model(ids, [masked, plain])
    apart = [fm.Model(ids, output).predict(WORDS) for output in (masked, plain)]
    plans.clear()
    for actual, expected in zip(model.predict(WORDS), apart, strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert len(plans) == 2


def test_a_mask_is_never_dropped_silently():
    ids, x = embedded("words")
    assert x.mask_source.name.startswith("embedding")
    with pytest.raises(TypeError, match=r"'flat' \(Flatten\) does not support masking, but the output of layer"):
        layers.Flatten(name="flat")(x)
    inner = fm.Input((4, 3))
    model = fm.Model(inner, layers.Flatten(name="inside", **F64)(inner))
    with pytest.raises(TypeError, match="'inside'"):
        model(x)
    free = layers.DropMask(**F64)(x)
    assert free.mask_source is None
    assert fm.Model(ids, layers.Dense(1, **F64)(free)).predict(WORDS).shape == (4, 4, 1)


def test_a_mask_passed_to_a_call_counts_in_place_of_the_inputs():
    ids, x = embedded("words")
    valid = fm.Input((None,), dtype="bool")
    lstm = layers.LSTM(3, return_sequences=True, **F64)
    model = fm.Model([ids, valid], lstm(x, mask=valid))
    mask = WORDS % 3 != 1
    expected = lstm(fm.Model(ids, x).predict(WORDS), mask=mask)
    np.testing.assert_array_equal(model.predict([WORDS, mask]), expected)
    np.testing.assert_array_equal(model.predict([WORDS, mask.astype("int32")]), expected)
    lengths = [4, 2, 3, 1]
    listed = [[row[:n] for row, n in zip(data, lengths, strict=True)] for data in (WORDS, mask)]
    for row, whole, n in zip(model.predict(listed), expected, lengths, strict=True):
        np.testing.assert_array_equal(row, whole[:n])
    assert model.outputs[0].mask_source is valid.history.layer


def test_a_mask_of_another_layer():
    class Early(layers.Layer):
        def call(self, x):
            return np.cumsum(x > 0, axis=1) < 2

        def compute_output_shape(self, input_shape):
            return tuple(input_shape)

    inputs = fm.Input((4,))
    x = layers.Reshape((4, 1), **F64)(inputs)
    gru = layers.GRU(2, **F64)
    data = np.array([[1.0, -1, 2, 3], [-1, -2, -3, -4], [0, 0, 1, 1]])
    model = fm.Model(inputs, gru(x, mask=Early(**F64)(inputs)))
    expected = gru(data[..., None], mask=np.cumsum(data > 0, axis=1) < 2)
    np.testing.assert_array_equal(model.predict(data), expected)


def test_the_mask_that_the_input_has_anyway_costs_no_plan(plans):
    ids = fm.Input((None,))
    embedding = layers.Embedding(7, 3, mask_zero=True)
    model = fm.Model(ids, layers.LSTM(2)(embedding(ids), mask=embedding.compute_mask(ids)))
    model.predict(WORDS)
    assert len(plans) == 1


def test_masks_that_do_not_fit():
    ids, x = embedded("words")
    lstm = layers.LSTM(2, **F64)
    with pytest.raises(ValueError, match=r"mask: expected shape \(B, T\) = \(None, None\), got \(None, None, 3\)"):
        lstm(x, mask=x)
    with pytest.raises(TypeError, match="mask: expected a symbolic tensor where x is one, got ndarray"):
        lstm(x, mask=WORDS != 0)
    with pytest.raises(TypeError, match=r"'flat' \(Flatten\) does not support masking"):
        layers.Flatten(name="flat")(fm.Input((4, 3)), mask=fm.Input((4,)))
    with pytest.raises(ValueError, match="one mask or None for each of 2 inputs, got 1"):
        layers.Attention(**F64)([x, x], mask=[ids != 0])
    with pytest.raises(ValueError, match="mask: expected one for each input that carries one"):
        layers.Attention(**F64)([x, x], mask=[None, ids != 0])
    with pytest.raises(ValueError, match="masks of one shape"):
        fm.Input((3,)) & fm.Input((4,))
    valid = fm.Input((None,), dtype="bool")
    model = fm.Model([ids, valid], lstm(x, mask=valid))
    with pytest.raises(ValueError, match=r"mask: expected shape \(B, T\) = \(4, 4\), got \(4, 3\)"):
        model.predict([WORDS, WORDS[:, :3] > 0])


def test_parts_of_a_model():
    model, x, _ = residual()
    first = model.layers[2]
    part = fm.Model(model.input, first.output)
    assert part.predict(x).shape == (4, 4, 3)
    values = np.random.default_rng(0).normal(size=(2, 3, 3))
    with pytest.raises(ValueError, match="inputs: expected all inputs of the outputs"):
        fm.Model(first.output, model.output)
    tail = fm.Model(model.layers[-2].output, model.output)
    kernel, bias = model.layers[-1].get_weights()
    np.testing.assert_allclose(tail.predict(values), values @ kernel + bias)


def test_summary_shows_connections_and_the_way_of_the_mask():
    model, _, _ = encoder_decoder()
    lines = []
    model.summary(lines.append)
    rows = {line.split()[1]: line for line in lines[0].splitlines() if line.startswith("│")}
    decoder = next(line for name, line in rows.items() if "[0][2]" in line)
    assert "passed" in decoder
    assert "used" in next(line for line in rows.values() if "[(None, 3), (None, 3), (None, 3)]" in line)
    assert sum("made" in line for line in rows.values()) == 2
    assert "Connected to" in lines[0]
    ids, x = embedded("ids")
    chain = fm.Model(ids, layers.LSTM(2, **F64)(x))
    chain.summary(lines.append)
    assert "Connected to" not in lines[1]


@pytest.mark.parametrize("inner", [False, True])
def test_training_argument_of_a_call_holds_for_that_call(inner):
    x = fm.Input((50,))
    y = layers.Activation("linear")(x) if inner else x
    outputs = [layers.Dropout(0.5)(y, training=training) for training in (True, False, None)]
    model, ones = fm.Model(x, outputs), np.ones((1, 50))
    for found, trains in ((model.predict(ones), False), (model(ones, training=True), True)):
        for value, drops in zip(found, (True, False, trains), strict=True):
            assert (value == 0).any() == drops
            assert (value == 1).all() != drops


def test_states_of_bidirectional_and_stateful_layers():
    (source, x), (target, y) = embedded("source"), embedded("target")
    states = layers.Bidirectional(layers.GRU(2, return_state=True, **F64), **F64)(x)[1:]
    y = layers.Bidirectional(layers.GRU(2, **F64), **F64)(y, initial_state=states)
    model = fm.Model([source, target], y)
    model.compile("sgd", "mse")
    data, goal = [WORDS, OTHERS], np.ones((4, 4))
    _, grads = model.loss_and_gradients(data, goal)
    kernel, grad = next(pair for pair in zip(model.trainable_weights, grads, strict=True) if pair[0].name == "kernel")
    assert_weight_gradient(grad, lambda: model.loss_and_gradients(data, goal)[0], kernel)
    stateful = fm.Sequential([fm.Input(batch_shape=(4, None, 1)), layers.LSTM(2, stateful=True)])
    outer = fm.Sequential([stateful])
    first, second = outer.predict(np.ones((4, 3, 1))), outer.predict(np.ones((4, 3, 1)))
    assert not np.array_equal(first, second)
    outer.reset_states()
    np.testing.assert_array_equal(outer.predict(np.ones((4, 3, 1))), first)


def test_regularizers_and_constraints():
    x = fm.Input((2,))
    dense = layers.Dense(1, kernel_regularizer="l2", kernel_constraint="non_neg", dtype="float64")
    model = fm.Model(x, dense(x))
    model.set_weights([np.array([[0.5], [1e-3]]), np.zeros(1)])
    model.compile(fm.optimizers.SGD(1.0), "mse")
    data, target = np.zeros((2, 2)), np.zeros((2, 1))
    assert model.losses == pytest.approx([0.01 * (0.25 + 1e-6)])
    loss, grads = model.loss_and_gradients(data, target)
    assert loss == pytest.approx(sum(model.losses)) == model.evaluate(data, target, verbose=0)
    np.testing.assert_allclose(grads[0], 0.02 * dense.kernel.value)
    model.train_on_batch(np.ones((2, 2)), -np.ones((2, 1)))
    assert (dense.kernel.value >= 0).all()


X, Y = fm.Input((2,), name="same"), fm.Input((2,), name="same")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fm.Model(np.ones(3), X), TypeError, "inputs: expected results of Input"),
        (lambda: fm.Model(X, []), ValueError, "outputs: expected at least one tensor"),
        (lambda: fm.Model(X, layers.Add()([X, Y])), ValueError, "inputs: expected all inputs of the outputs"),
        (lambda: fm.Model([X, Y], layers.Add()([X, Y])), ValueError, "layers: expected different names, got 'same'"),
        (lambda: layers.Dense(2)([X, Y]), ValueError, "x: expected one tensor"),
        (lambda: layers.Dense(2)(X, initial_state=[Y]), TypeError, "has no state"),
        (lambda: layers.Add()([X, np.ones(2)]), TypeError, "x: expected symbolic tensors only"),
        (lambda: layers.Dense(2)(X, extra=1), TypeError, "unknown arguments of a call: extra"),
        (lambda: two_outputs()[0].predict(WORDS), ValueError, "x: expected an entry for each of words"),
        (lambda: two_outputs()[0].predict({"words": WORDS}), ValueError, "words.* got the keys words"),
        (lambda: two_outputs()[0].compile("sgd", ["mse"]), ValueError, "loss: .* got 1 entries"),
        (lambda: two_outputs()[0].compile("sgd", {"no": "mse"}), ValueError, "loss: .* the keys no"),
        (lambda: two_outputs()[0].compile("sgd", "mse", metrics=["mae"]), ValueError, "metrics: expected an"),
        (lambda: fm.Input((2,), batch_shape=(None, 2)), ValueError, "shape, batch_shape: expected exactly one"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("base", [fm.Model, fm.Sequential])
def test_a_model_of_ones_own_with_a_call_is_refused(base):
    class Own(base):
        def call(self, x):
            return x

    with pytest.raises(NotImplementedError, match="Own must not define call: a model is made of inputs and outputs"):
        Own()
