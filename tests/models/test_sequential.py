"""Sequential: structure, shapes, mask flow, and every way of putting data in."""

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers


def tagger(**embedding):
    """Ids to a vector per token."""
    return fm.Sequential(
        [
            layers.Embedding(11, 4, mask_zero=True, **embedding),
            layers.Bidirectional(layers.LSTM(3, return_sequences=True)),
            layers.GRU(5, return_sequences=True),
            layers.TimeDistributed(layers.Dense(2, activation="softmax")),
        ]
    )


def classifier():
    """Sequences of features to one number per row."""
    return fm.Sequential(
        [layers.Masking(input_shape=(None, 3)), layers.LSTM(4), layers.Dense(1, "sigmoid")]
    )


def ragged_ids(rng, lengths=(5, 1, 7, 0, 3)):
    return [rng.integers(1, 11, size=n) for n in lengths]


def padded_by_hand(model, x):
    """Call the layers one by one on padded arrays and masks."""
    mask = None
    for layer in model.layers:
        next_mask = layer.compute_mask(x, mask)
        x = layer(x, mask=None if layer.makes_mask or x.ndim < 3 else mask)
        mask = next_mask
    return x


def test_first_lines_of_the_readme():
    model = fm.Sequential()
    model.add(layers.Embedding(1000, 64, input_length=10))
    model.compile("rmsprop", "mse")
    assert model.output_shape == (None, 10, 64)
    x = np.random.default_rng(0).integers(1000, size=(32, 10))
    y = model.predict(x)
    assert y.shape == (32, 10, 64)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, model.get_weights()[0][x])


def test_shapes_are_known_when_layers_are_added():
    model = fm.Sequential([layers.Embedding(50, 64)])
    assert (model.input_shape, model.output_shape) == ((None, None), (None, None, 64))
    model.add(layers.LSTM(8, return_sequences=True))
    assert model.output_shape == (None, None, 8)
    model.add(layers.LSTM(5))
    assert model.output_shape == (None, 5)
    assert model.built
    assert model.count_params() == 50 * 64 + 4 * 8 * (64 + 8 + 1) + 4 * 5 * (8 + 5 + 1)


def test_input_at_the_head():
    model = fm.Sequential([fm.Input((None, 6)), layers.LSTM(3), layers.Dense(2)])
    assert model.input_shape == (None, None, 6)
    assert model.output_shape == (None, 2)
    with pytest.raises(ValueError, match="layer: expected an Input only as the first entry"):
        model.add(fm.Input((3,)))
    assert fm.Input([None, 6]).shape == fm.Input((None, 6)).shape
    with pytest.raises(TypeError, match="shape: expected a tuple of int or None, got 6"):
        fm.Input(6)


def test_build_and_building_by_the_first_batch():
    model = fm.Sequential([layers.LSTM(3), layers.Dense(2)])
    assert not model.built
    for name in ("input_shape", "output_shape"):
        with pytest.raises(AttributeError, match="until it is built"):
            getattr(model, name)
    with pytest.raises(ValueError, match=r"not built yet: call build\(input_shape\)"):
        model.set_weights([np.ones(3)])
    model.build((None, None, 6))
    assert model.output_shape == (None, 2)
    by_data = fm.Sequential([layers.LSTM(3), layers.Dense(2)])
    assert by_data.predict(np.ones((4, 5, 6))).shape == (4, 2)
    assert [w.shape for w in by_data.weights] == [w.shape for w in model.weights]


def test_flatten_of_unmasked_sequences():
    model = fm.Sequential(
        [layers.Embedding(10, 3, input_length=4), layers.Flatten(), layers.Dense(2)]
    )
    assert model.output_shape == (None, 2)
    x = np.arange(8).reshape(2, 4)
    table, kernel, bias = model.get_weights()
    expected = table[x].reshape(2, 12) @ kernel + bias
    np.testing.assert_allclose(model.predict(x), expected, rtol=1e-5, atol=1e-6)


def test_flatten_of_sequences_of_any_length_waits_for_the_first_batch():
    model = fm.Sequential([layers.Embedding(10, 3), layers.Flatten(), layers.Dense(2), layers.Dense(1)])
    assert (model.layers[1].output_shape, model.built) == ((None, None), False)
    assert model.predict(np.ones((2, 4), int)).shape == (2, 1)
    assert model.layers[2].kernel.shape == (12, 2)
    with pytest.raises(ValueError, match="x: expected 12 features"):
        model.predict(np.ones((2, 5), int))


def test_axes_must_fit_when_the_layer_is_added():
    model = fm.Sequential([layers.Embedding(10, 3), layers.LSTM(4)])
    message = r"input_shape: expected 3 axes for layer 'top' \(GRU\), got shape \(None, 4\)"
    with pytest.raises(ValueError, match=message):
        model.add(layers.GRU(2, name="top"))
    unbuilt = fm.Sequential([layers.LSTM(4), layers.GRU(2, name="top")])
    with pytest.raises(ValueError, match=message):
        unbuilt.predict(np.ones((2, 3, 4)))


def test_layers_must_have_one_output():
    for layer in (layers.LSTM(4, return_state=True), layers.Bidirectional(layers.GRU(2), merge_mode=None)):
        with pytest.raises(ValueError, match=rf"layer '{layer.name}' .* expected one output in a Sequential"):
            fm.Sequential([layers.Embedding(10, 3), layer])
        unbuilt = fm.Sequential([type(layer).from_config(layer.get_config())])
        with pytest.raises(ValueError, match="expected one output in a Sequential"):
            unbuilt.predict(np.ones((2, 3, 4)))


def test_a_mask_that_cannot_be_taken_is_an_error_when_the_model_is_built():
    model = fm.Sequential([layers.Masking(name="skip"), layers.Dense(2)])
    model.layers.append(layers.Flatten())
    with pytest.raises(TypeError, match=r"'flatten.*' \(Flatten\).*'skip' \(Masking\)"):
        model.build((None, 3, 4))


def test_a_mask_that_cannot_be_taken_is_an_error_when_the_layer_is_added():
    model = fm.Sequential([layers.Embedding(10, 3, mask_zero=True, name="words")])
    model.add(layers.LSTM(4, return_sequences=True))
    with pytest.raises(TypeError, match=r"'flatten.*' \(Flatten\).*'words' \(Embedding\)"):
        model.add(layers.Flatten())
    assert len(model.layers) == 2
    model.add(layers.LSTM(4))
    model.add(layers.Flatten())  # the mask has been used up


def test_mask_sources():
    model = tagger()
    assert model.mask_sources == [model.layers[0]] * 4
    model.add(layers.LSTM(2))
    assert model.mask_sources[-1] is None


def test_summary():
    lines = []
    model = tagger(name="ids")
    model.add(layers.LSTM(2))
    model.summary(lines.append)
    text = lines[0]
    for part in ("ids (Embedding)", "(None, None, 4)", "44", "made", "passed", "used", "Mask"):
        assert part in text
    assert f"Total params: {model.count_params():,}" in text
    assert "Non-trainable params: 0 (0.00 B)" in text
    widths = {len(line) for line in text.splitlines() if line[0] in "┏┃┡│├└"}
    assert len(widths) == 1
    unbuilt = fm.Sequential([layers.Dense(2)])
    unbuilt.summary(lines.append)
    assert "?" in lines[1]


def test_structure():
    model = classifier()
    assert model.get_layer(index=1) is model.layers[1]
    assert model.get_layer(model.layers[2].name) is model.layers[2]
    assert model.pop().name.startswith("dense")
    assert model.output_shape == (None, 4)
    model.layers[1].trainable = False
    assert model.trainable_weights == []
    assert len(model.non_trainable_weights) == 3
    assert model.trainable  # the other layers are
    model.trainable = False
    assert not any(layer.trainable for layer in model.layers)
    assert model.weights[0].path == f"{model.name}/{model.layers[1].name}/lstm_cell/kernel"
    for call, error, message in (
        (lambda: model.get_layer("nobody"), ValueError, "name: expected that of one of the layers"),
        (lambda: model.get_layer(index=7), ValueError, "index: expected that of one of the layers"),
        (lambda: model.get_layer(), ValueError, "name, index: expected exactly one"),
        (lambda: model.add("lstm"), TypeError, "layer: expected a Layer or an Input"),
        (lambda: model.add(model.layers[0]), ValueError, "layers: expected different names"),
        (lambda: fm.Sequential().pop(), IndexError, "no layers to pop"),
        (lambda: fm.Sequential().predict(np.ones((2, 2))), ValueError, "has no layers"),
        (lambda: model.set_weights([]), ValueError, "weights: expected 3 arrays"),
        (
            lambda: fm.Sequential([layers.LSTM(2, return_state=True, input_shape=(None, 3))]),
            ValueError,
            "expected one output",
        ),
    ):
        with pytest.raises(error, match=message):
            call()


def test_weights_go_out_and_in():
    first, second = tagger(), tagger()
    x = fm.utils.pad_sequences(ragged_ids(np.random.default_rng(0)))
    assert not np.array_equal(first.predict(x), second.predict(x))
    second.set_weights(first.get_weights())
    np.testing.assert_array_equal(first.predict(x), second.predict(x))
    before = second.get_weights()
    with pytest.raises(ValueError, match=r"weights\[1\]: expected shape"):
        second.set_weights([before[0] + 1, *before[2:], before[1]])
    np.testing.assert_array_equal(second.get_weights()[0], before[0])


@pytest.mark.parametrize("padding", ["pre", "post"])
def test_predict_equals_the_layers_one_by_one(padding):
    rows = ragged_ids(np.random.default_rng(1))
    x = fm.utils.pad_sequences(rows, maxlen=9, padding=padding)
    x[0, 4] = x[2, 5] = 0  # a mask may have holes
    model = tagger()
    valid, expected = x != 0, padded_by_hand(model, x)
    np.testing.assert_array_equal(model.predict(x, batch_size=2)[valid], expected[valid])
    features = np.random.default_rng(2).normal(size=(4, 6, 3))
    features[1, 2:], features[2] = 0, 0
    model = classifier()
    np.testing.assert_array_equal(model.predict(features), padded_by_hand(model, features))


def test_lists_of_sequences_need_no_padding():
    rng = np.random.default_rng(3)
    rows = ragged_ids(rng)
    model = tagger()
    outputs = model.predict(rows, batch_size=2)
    padded = model.predict(fm.utils.pad_sequences(rows, maxlen=20, padding="post"))
    assert [len(output) for output in outputs] == [5, 1, 7, 0, 3]
    for output, row in zip(outputs, padded, strict=True):
        np.testing.assert_array_equal(output, row[: len(output)])
    objects = np.array([row.tolist() for row in rows], dtype=object)
    for output, again in zip(outputs, model.predict(objects), strict=True):
        np.testing.assert_array_equal(output, again)
    features = [rng.normal(size=(n, 3)) for n in (4, 0, 6)]
    model = classifier()
    x = fm.utils.pad_sequences(features, dtype="float64")
    np.testing.assert_array_equal(model.predict(features), model.predict(x))


def test_zeros_in_lists_are_masked_like_zeros_in_arrays():
    rows = [np.array([3, 0, 5, 0]), np.array([0, 2]), np.array([4, 4, 4])]
    model = tagger()
    padded = model.predict(fm.utils.pad_sequences(rows, padding="post"))
    for output, row in zip(model.predict(rows), padded, strict=True):
        np.testing.assert_array_equal(output, row[: len(output)])
    last = fm.Sequential([*model.layers[:1], layers.GRU(3, return_sequences=True)])
    padded = last.predict(fm.utils.pad_sequences(rows, padding="post"))
    for output, row in zip(last.predict(rows), padded, strict=True):
        np.testing.assert_array_equal(output, row[: len(output)])


def test_lists_for_an_embedding_without_mask_zero():
    rows = [np.array([3, 0, 5]), np.array([2])]
    model = fm.Sequential([layers.Embedding(11, 4), layers.GRU(3)])
    outputs = model.predict(rows)
    for output, row in zip(outputs, rows, strict=True):
        np.testing.assert_array_equal(output, model.predict(row[None])[0])


def test_calls():
    rng = np.random.default_rng(4)
    rows = ragged_ids(rng)
    model = tagger()
    x = fm.utils.pad_sequences(rows, padding="post")
    np.testing.assert_array_equal(model(x), model.predict(x))
    packed = model(fm.PackedSequence.from_list(rows))
    assert isinstance(packed, fm.PackedSequence)
    np.testing.assert_array_equal(packed.pad(), model(x))
    assert [len(row) for row in model(rows)] == [5, 1, 7, 0, 3]
    np.testing.assert_array_equal(model.predict_on_batch(x), model(x))


def test_a_mask_may_be_passed_and_padding_is_not_read():
    rng = np.random.default_rng(5)
    model = fm.Sequential([layers.LSTM(4, return_sequences=True), layers.LSTM(3)])
    x, mask = rng.normal(size=(3, 6, 2)), rng.uniform(size=(3, 6)) < 0.6
    expected = model(x, mask=mask)
    x[~mask] = np.nan
    np.testing.assert_array_equal(model(x, mask=mask), expected)
    rows = [row[keep] for row, keep in zip(x, mask, strict=True)]
    np.testing.assert_array_equal(model.predict(rows), expected)
    with pytest.raises(ValueError, match="mask: expected None for x of shape"):
        fm.Sequential([layers.Dense(2)])(x[:, 0], mask=mask)


def test_reset_states():
    model = fm.Sequential(
        [
            layers.LSTM(3, stateful=True, return_sequences=True, input_shape=(None, 2)),
            layers.Bidirectional(layers.GRU(4, stateful=True, return_sequences=True)),
            layers.SimpleRNN(2),
        ]
    )
    x = np.random.default_rng(0).normal(size=(3, 5, 2))
    first, second = model.predict(x), model.predict(x)
    assert not np.array_equal(first, second)
    model.reset_states()
    np.testing.assert_array_equal(model.predict(x), first)


def test_plain_rows():
    model = fm.Sequential([layers.Dense(2, input_shape=(3,))])
    x = np.random.default_rng(6).normal(size=(5, 3))
    np.testing.assert_array_equal(model.predict(x.tolist()), model.predict(x))


def test_dropout_acts_in_training_calls_only():
    model = fm.Sequential([layers.Dropout(0.5, seed=1), layers.Dense(2, input_shape=(100,))])
    x = np.ones((3, 100))
    np.testing.assert_array_equal(model(x), model(x))
    assert not np.array_equal(model(x, training=True), model(x))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([np.ones((2, 3)), np.ones((2, 4))], ValueError, "x"),
        ([[1.0, 2.0], [1.0]], ValueError, "x: expected sequences of shape"),
        (3.0, ValueError, "x: expected an axis of rows"),
    ],
)
def test_bad_features(x, error, message):
    with pytest.raises(error, match=message):
        classifier().predict(x)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([np.ones((2, 3, 1), int)], ValueError, r"x\[0\]: expected shape \(t,\) of ids"),
        ([[1, 2], [11]], IndexError, "11"),
        (np.array([[1.5, 2.0]]), TypeError, "x: expected integer ids"),
    ],
)
def test_bad_ids(x, error, message):
    with pytest.raises(error, match=message):
        tagger().predict(x)


def test_the_graph_of_a_stack_that_was_built():
    model = fm.Sequential([layers.LSTM(3, return_sequences=True), layers.Dense(2)])
    for name in ("inputs", "outputs", "input", "output"):
        with pytest.raises(AttributeError):
            getattr(model, name)
    model.build((None, 5, 4))
    x = np.ones((2, 5, 4), np.float32)
    assert [tensor.shape for tensor in (*model.inputs, *model.outputs)] == [(None, 5, 4), (None, 5, 2)]
    part = fm.Model(model.inputs, model.layers[0].output)
    np.testing.assert_array_equal(part.predict(x), model.layers[0](x))
    model.pop()
    assert model.outputs == [model.layers[0].output]


def test_building_again_only_checks():
    model = fm.Sequential([layers.LSTM(3, return_sequences=True), layers.Dense(2)])
    model.build((None, 5, 4))
    graph, output = model.graph, model.layers[0].output
    model.build((None, 5, 4))
    model.build((None, None, 4))
    assert (model.graph, model.layers[0].output, model.input_shape) == (graph, output, (None, 5, 4))
    with pytest.raises(ValueError, match=r"input_shape: expected shape \(None, None, 4\) .*, got \(None, 5, 3\)"):
        model.build((None, 5, 3))


def test_calls_on_too_little_of_a_shape_are_made_again():
    model = fm.Sequential([layers.Embedding(10, 3), layers.Flatten(), layers.Dense(2)])
    model.build((None, 4))
    assert fm.Model(model.inputs, model.layers[0].output).predict(np.ones((2, 4), int)).shape == (2, 4, 3)
