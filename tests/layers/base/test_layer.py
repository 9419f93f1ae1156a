"""What all layers share: names, weights, dtypes, configs, errors; and the settings they read."""

import json
import warnings

import numpy as np
import pytest

from fastmask import PackedSequence, config, layers

ALL = {
    "embedding": lambda **o: layers.Embedding(5, 3, mask_zero=True, **o),
    "masking": lambda **o: layers.Masking(1.5, **o),
    "dense": lambda **o: layers.Dense(2, "relu", use_bias=False, **o),
    "activation": lambda **o: layers.Activation("softmax", **o),
    "dropout": lambda **o: layers.Dropout(0.25, (None, 1, None), seed=3, **o),
    "flatten": lambda **o: layers.Flatten(**o),
    "identity": lambda **o: layers.Identity(**o),
    "spatial_dropout1d": lambda **o: layers.SpatialDropout1D(0.25, seed=3, **o),
    "layer_normalization": lambda **o: layers.LayerNormalization(epsilon=0.5, scale=False, **o),
    "batch_normalization": lambda **o: layers.BatchNormalization(momentum=0.5, center=False, **o),
    "global_average_pooling1d": lambda **o: layers.GlobalAveragePooling1D(**o),
    "global_max_pooling1d": lambda **o: layers.GlobalMaxPooling1D(**o),
    "reshape": lambda **o: layers.Reshape((-1,), **o),
    "drop_mask": lambda **o: layers.DropMask(**o),
    "simple_rnn": lambda **o: layers.SimpleRNN(2, return_sequences=True, **o),
    "lstm": lambda **o: layers.LSTM(2, dropout=0.2, seed=4, unit_forget_bias=False, **o),
    "gru": lambda **o: layers.GRU(2, reset_after=False, zero_output_for_mask=True, **o),
    "time_distributed": lambda **o: layers.TimeDistributed(layers.Dense(4, name="d", dtype=o.get("dtype")), **o),
    "bidirectional": lambda **o: layers.Bidirectional(layers.GRU(2, name="g", dtype=o.get("dtype")), "sum", **o),
}


def batch_for(layer):
    ids = np.array([[1, 2, 0], [3, 3, 4]])
    return ids if isinstance(layer, layers.Embedding) else np.linspace(-1, 1, 24).reshape(2, 3, 4)


@pytest.fixture
def fresh_names():
    layers.reset_names()


@pytest.mark.usefixtures("fresh_names")
class TestNames:
    def test_made_from_the_class(self):
        made = [make().name for name, make in ALL.items() if name not in ("time_distributed", "bidirectional")]
        assert made == [name for name in ALL if name not in ("time_distributed", "bidirectional")]

    def test_numbered(self):
        assert [layers.LSTM(2).name for _ in range(3)] == ["lstm", "lstm_1", "lstm_2"]
        assert layers.SimpleRNN(2).name == "simple_rnn"
        assert layers.Bidirectional(layers.LSTM(2)).forward_layer.name == "forward_lstm_3"

    def test_given(self):
        assert layers.LSTM(2, name="encoder").name == "encoder"
        assert layers.LSTM(2).name == "lstm"

    def test_of_classes_by_users(self):
        class GlobalPooling1D(layers.Layer):
            pass

        assert GlobalPooling1D().name == "global_pooling1d"


@pytest.mark.parametrize("name", ALL)
class TestEveryLayer:
    def test_config_round_trip(self, name):
        layer = ALL[name](name="x", dtype="float64")
        config = layer.get_config()
        again = type(layer).from_config(json.loads(json.dumps(config)))
        assert json.dumps(again.get_config()) == json.dumps(config)
        assert again.name == "x"
        assert again.dtype == np.float64

    def test_serialize_round_trip(self, name):
        layer = ALL[name]()
        again = layers.deserialize(layers.serialize(layer))
        assert type(again) is type(layer)
        assert again.get_config() == layer.get_config()

    def test_same_weights_same_outputs(self, name):
        layer = ALL[name]()
        x = batch_for(layer)
        y = layer(x)
        again = type(layer).from_config(layer.get_config())
        again.build((None, *x.shape[1:]))
        again.set_weights(layer.get_weights())
        np.testing.assert_array_equal(again(x), y)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_dtype(self, name, dtype):
        layer = ALL[name](dtype=dtype)
        y, pullback = layer.vjp(batch_for(layer))
        assert y.dtype == dtype
        gradients = pullback(np.ones_like(y))
        for variable, gradient in zip(layer.weights, gradients.weights, strict=True):
            assert variable.dtype == dtype
            assert getattr(gradient, "rows", gradient).dtype == dtype
        if gradients.inputs is not None:
            assert gradients.inputs.dtype == dtype

    def test_output_shape(self, name):
        layer = ALL[name]()
        y = layer(batch_for(layer))
        assert layer.output_shape == (None, *y.shape[1:])

    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize("masked", [False, True])
    def test_no_rows(self, name, masked, training):
        layer, x = ALL[name](), batch_for(ALL[name]())
        if masked and not layer.supports_masking:
            return
        mask = np.zeros((0, 3), bool) if masked else None
        y, pullback = layer.vjp(x[:0], mask=mask, training=training)
        assert y.shape == layer(x[:0], mask=mask).shape == (0, *ALL[name]()(x).shape[1:])
        assert layer(PackedSequence.from_padded(x[:0], mask)).shape[0] == 0
        gradients = pullback(y)
        assert gradients.inputs is None or gradients.inputs.shape == x[:0].shape
        for weight, gradient in zip(layer.weights, gradients.weights, strict=True):
            assert gradient is None or not np.any(getattr(gradient, "rows", gradient))
            assert np.isfinite(weight.value).all()

    def test_wrong_cotangent(self, name):
        layer = ALL[name]()
        y, pullback = layer.vjp(batch_for(layer))
        for dy in (np.zeros((7, *y.shape[1:])), None):
            with pytest.raises(ValueError, match="dy: expected"):
                pullback(dy)

    def test_state_without_use(self, name):
        layer = ALL[name]()
        if layer.takes_state:
            return
        with pytest.raises(TypeError, match="initial_state: expected None"):
            layer(batch_for(layer), initial_state=(np.zeros((2, 2)),))

    def test_unknown_argument(self, name):
        with pytest.raises(TypeError, match="got unknown arguments: colour"):
            ALL[name](colour=1)

    def test_ragged_lists(self, name):
        layer = ALL[name]()
        with pytest.raises(ValueError, match=r"x: expected an array, got sequences of .* PackedSequence.from_list"):
            layer([[[1.0] * 4] * 3, [[1.0] * 4] * 2])

    def test_packed_in_packed_out(self, name):
        layer = ALL[name]()
        x = PackedSequence.from_padded(batch_for(layer))
        y = layer(x)
        keeps_time = len(layer.compute_output_shape((2, 3, 4))) == 3 or name == "embedding"
        assert isinstance(y, PackedSequence) == keeps_time


class TestWeights:
    def layer(self):
        layer = layers.Dense(2)
        layer.build((None, 3))
        return layer

    def test_set_and_get(self):
        layer = self.layer()
        kernel = layer.kernel.value
        layer.set_weights([np.ones((3, 2), int), [0.5, 0.25]])
        assert layer.kernel.value is kernel
        np.testing.assert_array_equal(layer.get_weights()[0], 1)
        layer.get_weights()[0][:] = 7
        np.testing.assert_array_equal(layer.kernel, np.ones((3, 2), np.float32))

    @pytest.mark.parametrize(
        ("weights", "error", "words"),
        [
            ([np.ones((3, 2))], ValueError, "weights: expected 2 arrays for layer .*, got 1"),
            ([np.ones((3, 2)), np.ones(3)], ValueError, r"weights\[1\]: expected shape \(2,\) for dense.*got \(3,\)"),
            ([np.ones((3, 2)), np.ones(2) * 1j], TypeError, r"weights\[1\]: expected real numbers, got dtype comp"),
            ([np.ones((3, 2)), np.array([None, 1])], TypeError, r"weights\[1\]: expected an array of numbers"),
            ([np.ones((3, 2)), ["a", "b"]], TypeError, r"weights\[1\]"),
            ([np.ones((3, 2)), np.full(2, 1e39)], ValueError, r"weights\[1\] holds numbers too large for float32"),
            (None, TypeError, "weights: expected a list of arrays, got NoneType"),
        ],
    )
    def test_bad_weights_change_nothing(self, weights, error, words):
        layer = self.layer()
        before = layer.get_weights()
        with pytest.raises(error, match=words):
            layer.set_weights(weights)
        for left, right in zip(before, layer.get_weights(), strict=True):
            np.testing.assert_array_equal(left, right)

    @pytest.mark.parametrize("units", [10**9, 10**30])
    def test_too_large(self, units):
        with pytest.raises(MemoryError, match=r"kernel of layer 'big' \(Dense\) with shape .* takes .* GiB"):
            layers.Dense(units, name="big").build((None, 10**6))

    def test_unbuilt(self):
        assert layers.Dense(2).get_weights() == []
        with pytest.raises(ValueError, match="not built yet"):
            layers.Dense(2).set_weights([np.ones((3, 2)), np.ones(2)])

    def test_trainable(self):
        layer = layers.Dense(2, trainable=False)
        layer.build((None, 3))
        assert layer.trainable_weights == []
        assert len(layer.non_trainable_weights) == 2
        layer.trainable = True
        assert len(layer.trainable_weights) == 2

    def test_variable(self):
        variable = layers.Variable([[1, 2]], "w", dtype="float32")
        assert (variable.shape, variable.dtype, variable.path) == ((1, 2), np.float32, "w")
        variable.assign([[3.5, 4]])
        np.testing.assert_array_equal(np.asarray(variable, "float64"), [[3.5, 4]])
        assert variable.numpy() is not variable.value
        assert "path=w" in repr(variable)
        with pytest.raises(ValueError, match=r"value: expected shape \(1, 2\) for w"):
            variable.assign([1, 2])

    def test_bad_initializer_result(self):
        layer = layers.Dense(2, bias_initializer=lambda shape, dtype: np.zeros(5))
        with pytest.raises(ValueError, match=r"bias_initializer: expected values of shape \(2,\), got \(5,\)"):
            layer.build((None, 3))


class TestBuild:
    def test_again_with_other_features(self):
        layer = layers.Dense(2)
        layer.build((None, 3))
        with pytest.raises(ValueError, match="x: expected 3 features"):
            layer.build((None, 4))

    def test_calls_do_not_change_the_shapes(self):
        layer = layers.Dense(2)
        layer.build((None, None, 3))
        layer(np.zeros((2, 5, 3)))
        assert layer.output_shape == (None, None, 2)

    def test_repr(self):
        assert repr(layers.Dense(2, name="d")) == "<Dense name=d, built=False>"

    @pytest.mark.parametrize(
        ("options", "shape"),
        [
            ({}, None),
            ({"input_shape": (7, 3)}, (None, 7, 3)),
            ({"input_shape": 3}, (None, 3)),
            ({"batch_input_shape": (4, 7, 3)}, (4, 7, 3)),
            ({"batch_shape": (4, None, 3)}, (4, None, 3)),
            ({"input_dim": 3}, (None, None, 3)),
            ({"input_dim": 3, "input_length": 7}, (None, 7, 3)),
        ],
    )
    def test_declared_shape(self, options, shape):
        assert layers.GRU(2, **options).declared_shape == shape

    def test_input_dim_of_dense(self):
        assert layers.Dense(2, input_dim=3).declared_shape == (None, 3)


class TestConfig:
    def test_floatx(self):
        try:
            config.set_floatx("float64")
            assert layers.Dense(2).dtype == np.float64
        finally:
            config.set_floatx("float32")
        assert layers.Dense(2).dtype == np.float32
        with pytest.raises(ValueError, match="value: expected one of"):
            config.set_floatx("float16")

    def test_epsilon(self):
        assert config.epsilon() == 1e-7
        try:
            config.set_epsilon(1e-5)
            assert config.epsilon() == 1e-5
        finally:
            config.set_epsilon(1e-7)
        with pytest.raises(ValueError, match="value"):
            config.set_epsilon(0)

    def test_dtype_policies_of_keras(self):
        policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float64"}}
        assert layers.Dense(2, dtype=policy).dtype == np.float64

    def test_old_arguments_of_recurrent_layers(self):
        layer = layers.LSTM(2, implementation=1, time_major=False, unroll=True, use_cudnn=False)
        assert layer.unroll

    def test_unknown_class(self):
        with pytest.raises(ValueError, match="class_name: expected that of a layer, got 'Conv9D'"):
            layers.deserialize({"class_name": "Conv9D", "config": {}})

    def test_own_classes(self):
        class Mine(layers.Dense):
            pass

        found = layers.deserialize(layers.serialize(Mine(3)), {"Mine": Mine})
        assert type(found) is Mine


def test_layers_of_users():
    class Scale(layers.Layer):
        def create_weights(self, input_shape):
            self.scale = self.add_weight((input_shape[-1],), "ones", "scale")

        def forward(self, x, call):
            def pullback(dy):
                return layers.Gradients(dy * self.scale.value, [(dy * x).sum(axis=(0, 1))])

            return x * self.scale.value, pullback

    layer = Scale()
    x = np.ones((2, 3, 4), np.float32)
    y, pullback = layer.vjp(x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(pullback(x).weights[0], 6)


def test_no_warnings_on_empty_batches():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for steps, rows in ((0, 2), (3, 0)):
            layer = layers.Bidirectional(layers.LSTM(2, return_sequences=True))
            y, pullback = layer.vjp(np.zeros((rows, steps, 3)))
            assert y.shape == (rows, steps, 4)
            for gradient in pullback(y).weights:
                np.testing.assert_array_equal(gradient, 0)
