"""TimeDistributed and Bidirectional against the layers that they wrap."""

import numpy as np
import pytest
from helpers.layers import BATCH, FEATURES, TIME, UNITS, normal, randomize
from helpers.masks import MASK_KINDS, make_mask

from fastmask import PackedSequence, layers

KINDS = {"simple_rnn": layers.SimpleRNN, "lstm": layers.LSTM, "gru": layers.GRU}
MERGES = {
    "concat": lambda a, b: np.concatenate([a, b], axis=-1),
    "sum": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "ave": lambda a, b: (a + b) / 2,
    None: lambda a, b: (a, b),
}


def make(kind, mode="concat", **options):
    """A Bidirectional layer and its two directions as layers of their own."""
    cls = KINDS[kind]
    layer = layers.Bidirectional(cls(UNITS, dtype="float64", **options), mode)
    layer.build((None, None, FEATURES))
    weights = randomize(layer).get_weights()
    zeros = options.get("return_sequences", False)
    single = [
        cls(UNITS, dtype="float64", go_backwards=backwards, zero_output_for_mask=zeros, **options)
        for backwards in (False, True)
    ]
    for part, own in zip(single, (weights[: len(weights) // 2], weights[len(weights) // 2 :]), strict=True):
        part.build((None, None, FEATURES))
        part.set_weights(own)
    return layer, *single


def inputs(mask="holes"):
    return normal(BATCH, TIME, FEATURES), make_mask(mask, BATCH, TIME)


def as_tuple(y):
    return y if isinstance(y, tuple) else (y,)


def padded(y):
    return [part.pad() if isinstance(part, PackedSequence) else part for part in as_tuple(y)]


def assert_all_close(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("mask", MASK_KINDS)
@pytest.mark.parametrize("mode", MERGES)
@pytest.mark.parametrize("kind", KINDS)
class TestBidirectional:
    def test_last_outputs(self, kind, mode, mask):
        x, mask = inputs(mask)
        layer, forward, backward = make(kind, mode)
        expected = as_tuple(MERGES[mode](forward(x, mask), backward(x, mask)))
        assert_all_close(as_tuple(layer(x, mask)), expected)
        assert_all_close(as_tuple(layer(PackedSequence.from_padded(x, mask))), expected)

    def test_sequences(self, kind, mode, mask):
        x, mask = inputs(mask)
        layer, forward, backward = make(kind, mode, return_sequences=True)
        expected = as_tuple(MERGES[mode](forward(x, mask), backward(x, mask)[:, ::-1]))
        assert_all_close(padded(layer(x, mask)), expected)
        assert_all_close(padded(layer(PackedSequence.from_padded(x, mask))), expected)


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("mode", MERGES)
@pytest.mark.parametrize("kind", KINDS)
def test_states_and_gradients(kind, mode, return_sequences):
    x, mask = inputs()
    options = {"return_sequences": return_sequences, "return_state": True}
    layer, forward, backward = make(kind, mode, **options)
    count = len(forward.state_names)
    states = tuple(normal(BATCH, UNITS, seed=i) for i in range(2 * count))
    y, pullback = layer.vjp(x, mask, states)
    (y_forward, *s_forward), pull_forward = forward.vjp(x, mask, states[:count])
    (y_backward, *s_backward), pull_backward = backward.vjp(x, mask, states[count:])
    turned = y_backward[:, ::-1] if return_sequences else y_backward
    outputs = as_tuple(MERGES[mode](y_forward, turned))
    assert_all_close(y, (*outputs, *s_forward, *s_backward))

    dy = [normal(*part.shape, seed=20 + i) for i, part in enumerate(outputs)]
    d_states = [normal(BATCH, UNITS, seed=30 + i) for i in range(2 * count)]
    d_forward, d_turned = merge_gradients(mode, dy, y_forward, turned)
    d_backward = d_turned[:, ::-1] if return_sequences else d_turned
    first = pull_forward((d_forward, *d_states[:count]))
    second = pull_backward((d_backward, *d_states[count:]))
    found = pullback((*dy, *d_states))
    np.testing.assert_allclose(found.inputs, first.inputs + second.inputs, atol=1e-12)
    assert_all_close(found.weights, first.weights + second.weights)
    assert_all_close(found.initial_state, first.initial_state + second.initial_state)


def merge_gradients(mode, dy, a, b):
    """Gradients by the two halves of a merged output."""
    return {
        "concat": lambda: (dy[0][..., :UNITS], dy[0][..., UNITS:]),
        "sum": lambda: (dy[0], dy[0]),
        "mul": lambda: (dy[0] * b, dy[0] * a),
        "ave": lambda: (dy[0] / 2, dy[0] / 2),
        None: lambda: tuple(dy),
    }[mode]()


class TestBidirectionalAsALayer:
    def test_directions_are_copies_with_their_own_names_and_weights(self):
        inner = layers.LSTM(UNITS, name="lstm")
        layer = layers.Bidirectional(inner, name="both")
        layer.build((None, None, FEATURES))
        assert [w.path for w in layer.weights] == [
            f"both/{direction}_lstm/lstm_cell/{name}"
            for direction in ("forward", "backward")
            for name in ("kernel", "recurrent_kernel", "bias")
        ]
        assert not inner.built
        assert not np.array_equal(layer.forward_layer.kernel, layer.backward_layer.kernel)
        assert layer.backward_layer.go_backwards
        assert layer.count_params() == 2 * 4 * UNITS * (FEATURES + UNITS + 1)

    def test_backward_layer(self):
        backward = layers.LSTM(UNITS + 1, activation="relu", go_backwards=True, return_sequences=True)
        layer = layers.Bidirectional(layers.LSTM(UNITS, return_sequences=True), backward_layer=backward)
        assert layer.backward_layer is backward
        assert layer(inputs()[0]).shape == (BATCH, TIME, 2 * UNITS + 1)
        assert layer.output_shape == (None, TIME, 2 * UNITS + 1)

    def test_weights_to_start_from(self):
        weights = make("gru")[0].get_weights()
        layer = layers.Bidirectional(layers.GRU(UNITS, dtype="float64"), weights=weights)
        layer.build((None, None, FEATURES))
        for found, wanted in zip(layer.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(found, wanted)

    @pytest.mark.parametrize("mode", MERGES)
    @pytest.mark.parametrize("return_sequences", [False, True])
    @pytest.mark.parametrize("return_state", [False, True])
    def test_output_shapes_and_masks(self, mode, return_sequences, return_state):
        options = {"return_sequences": return_sequences, "return_state": return_state}
        layer, *_ = make("lstm", mode, **options)
        x, mask = inputs()
        y = layer(x, mask)
        shapes = layer.compute_output_shape(x.shape)
        found = tuple(part.shape for part in y) if isinstance(y, tuple) else y.shape
        assert shapes == found
        masks = layer.compute_mask(x, mask)
        first = mask if return_sequences else None
        if isinstance(y, tuple):
            halves = 2 if mode is None else 1
            assert len(masks) == len(y)
            assert all(m is first for m in masks[:halves])
            assert all(m is None for m in masks[halves:])
        else:
            assert masks is first
        assert layer.passes_mask == return_sequences

    def test_trainable_reaches_both_directions(self):
        layer, *_ = make("gru")
        assert len(layer.trainable_weights) == 6
        layer.forward_layer.trainable = False
        assert len(layer.trainable_weights) == 3
        assert len(layer.non_trainable_weights) == 3
        layer.trainable = False
        assert layer.trainable_weights == []

    @pytest.mark.parametrize(
        ("make_layer", "error", "words"),
        [
            (lambda: layers.Bidirectional(layers.Dense(2)), TypeError, "layer: expected a SimpleRNN, LSTM or GRU"),
            (lambda: layers.Bidirectional(layers.GRU(2), "add"), ValueError, "merge_mode: expected one of"),
            (lambda: layers.Bidirectional(layers.GRU(2, go_backwards=True)), ValueError, "layer: expected go_back"),
            (
                lambda: layers.Bidirectional(layers.GRU(2), backward_layer=layers.GRU(2)),
                ValueError,
                "backward_layer: expected go_backwards=True",
            ),
            (
                lambda: layers.Bidirectional(
                    layers.GRU(2), backward_layer=layers.GRU(2, go_backwards=True, stateful=True)
                ),
                ValueError,
                "backward_layer: expected stateful=False like layer, got True",
            ),
            (
                lambda: layers.Bidirectional(layers.GRU(2), "sum", backward_layer=layers.GRU(3, go_backwards=True)),
                ValueError,
                "backward_layer: expected units=2",
            ),
            (
                lambda: layers.Bidirectional(layers.GRU(2), backward_layer="gru"),
                TypeError,
                "backward_layer: expected",
            ),
        ],
    )
    def test_bad_arguments(self, make_layer, error, words):
        with pytest.raises(error, match=words):
            make_layer()

    def test_bad_initial_state(self):
        layer, *_ = make("lstm")
        state = np.zeros((BATCH, UNITS))
        with pytest.raises(ValueError, match=r"initial_state: expected 4 arrays .* got 2"):
            layer(inputs()[0], initial_state=(state, state))


class TestTimeDistributed:
    @pytest.mark.parametrize("mask", MASK_KINDS)
    def test_dense(self, mask):
        x, mask = inputs(mask)
        layer = layers.TimeDistributed(layers.Dense(UNITS, "tanh", dtype="float64"))
        y = layer(x, mask)
        np.testing.assert_array_equal(y, layer.layer(x, mask))
        np.testing.assert_array_equal(layer(PackedSequence.from_padded(x, mask)).pad(), y)
        assert layer.compute_mask(x, mask) is mask

    def test_layers_that_see_each_step_as_a_batch(self):
        x = normal(BATCH, TIME, 5, FEATURES)
        for inner in (layers.LSTM(UNITS, dtype="float64"), layers.Flatten(dtype="float64")):
            layer = layers.TimeDistributed(inner)
            y = layer(x)
            for t in range(TIME):
                np.testing.assert_array_equal(y[:, t], inner(x[:, t]))
            assert layer.output_shape == (None, *y.shape[1:])

    def test_embedding_of_ids_within_steps(self):
        ids = np.random.default_rng(0).integers(0, 5, (BATCH, TIME, 3))
        layer = layers.TimeDistributed(layers.Embedding(5, UNITS))
        mask = make_mask("holes", BATCH, TIME)
        ids[~mask] = 0
        y, pullback = layer.vjp(np.where(mask[..., None], ids, -1), mask)
        np.testing.assert_array_equal(y, layer.get_weights()[0][ids])
        counts = np.bincount(ids.reshape(-1), minlength=5)
        gradient = pullback(np.ones_like(y))
        np.testing.assert_array_equal(gradient.weights[0].dense(), np.repeat(counts[:, None], UNITS, axis=1))
        assert gradient.inputs is None
        np.testing.assert_array_equal(layer(PackedSequence.from_padded(ids)).pad(), y)

    def test_repeated_tokens_are_mapped_once(self):
        plan = PackedSequence.from_padded(np.zeros((2, 2))).packing
        x = PackedSequence(normal(1, FEATURES), plan, np.zeros(4, np.int64))
        layer = layers.TimeDistributed(layers.Dense(2, dtype="float64"))
        assert layer(x).values.shape == (1, 2)

    def test_tokens_without_numbers(self):
        dense = layers.TimeDistributed(layers.Dense(2))
        dense(np.zeros((3, 4, 5)))
        with pytest.raises(ValueError, match="x: expected 5 features"):
            dense(np.zeros((3, 4, 0)))
        assert layers.TimeDistributed(layers.Flatten())(np.zeros((3, 4, 2, 0))).shape == (3, 4, 0)

    def test_weight_paths(self):
        layer = layers.TimeDistributed(layers.Dense(2, name="dense"), name="steps")
        layer.build((None, None, 3))
        assert [w.path for w in layer.weights] == ["steps/dense/kernel", "steps/dense/bias"]

    @pytest.mark.parametrize(
        ("make_layer", "error", "words"),
        [
            (lambda: layers.TimeDistributed("dense"), TypeError, "layer: expected a Layer"),
            (
                lambda: layers.TimeDistributed(layers.Dense(2), dtype="float64"),
                ValueError,
                "dtype: expected float32, like",
            ),
            (lambda: layers.TimeDistributed(layers.Masking())(np.zeros((2, 3))), ValueError, "expected at least 3"),
            (lambda: layers.TimeDistributed(layers.GRU(2, stateful=True)), ValueError, "stateful"),
            (lambda: layers.TimeDistributed(layers.GRU(2, return_state=True)), ValueError, "return_state"),
            (lambda: layers.TimeDistributed(layers.Dense(2))(np.zeros(3)), ValueError, "x: expected at least"),
        ],
    )
    def test_bad_arguments(self, make_layer, error, words):
        with pytest.raises(error, match=words):
            make_layer()
