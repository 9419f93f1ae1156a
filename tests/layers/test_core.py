"""Dense, Activation, Dropout, Flatten, Embedding and Masking: values, masked places, arguments."""

import numpy as np
import pytest
from helpers.layers import BATCH, FEATURES, TIME, UNITS, normal, randomize
from helpers.masks import MASK_KINDS, full_mask, make_mask

from fastmask import PackedSequence, layers, ops, reference


def built(layer, *shape):
    layer.build((None, *shape))
    return randomize(layer)


def dense(activation=None, **options):
    return built(layers.Dense(UNITS, activation, dtype="float64", **options), FEATURES)


def with_fill(packed, fill, repeat):
    return PackedSequence(packed.values, packed.packing, None, fill, repeat)


class TestDense:
    @pytest.mark.parametrize("shape", [(5, 3), (2, 4, 3), (2, 4, 2, 3), (0, 4, 3)])
    @pytest.mark.parametrize("activation", [None, "relu", "softmax"])
    def test_values(self, shape, activation):
        layer, x = dense(activation), normal(*shape)
        kernel, bias = layer.get_weights()
        expected = reference.activation(x @ kernel + bias, activation or "linear")
        np.testing.assert_allclose(layer(x), expected, atol=1e-12)

    @pytest.mark.parametrize("repeat", [False, True])
    def test_masked_places_are_mapped(self, repeat):
        layer, mask = dense("tanh"), make_mask("holes", BATCH, TIME)
        packed = PackedSequence.from_padded(normal(BATCH, TIME, FEATURES), mask)
        for fill in (None, normal(FEATURES)):
            source = with_fill(packed, fill, repeat)
            np.testing.assert_allclose(layer(source).pad(), layer(source.pad()), atol=1e-12)

    @pytest.mark.parametrize("mask", MASK_KINDS)
    def test_padding_is_not_read(self, mask):
        layer, x = dense("tanh"), normal(BATCH, TIME, FEATURES)
        mask = make_mask(mask, BATCH, TIME)
        valid = full_mask(mask, BATCH, TIME)[..., None]
        y, pullback = layer.vjp(np.where(valid, x, np.nan), mask)
        expected, other = layer.vjp(np.where(valid, x, 0))
        np.testing.assert_array_equal(y, expected)
        dy = normal(BATCH, TIME, UNITS)
        gradients, wanted = pullback(dy), other(dy)
        np.testing.assert_array_equal(gradients.inputs, np.where(valid, wanted.inputs, 0))
        for gradient, full in zip(gradients.weights, wanted.weights, strict=True):
            np.testing.assert_allclose(gradient, full, atol=1e-12)

    def test_equal_tokens_are_mapped_once(self):
        plan = PackedSequence.from_padded(np.zeros((2, 4))).packing
        index = np.array([0, 1, 1, 0, 0, 1, 0, 1])
        y = dense()(PackedSequence(normal(2, FEATURES), plan, index))
        assert y.values.shape == (2, UNITS)
        assert y.index is not None

    def test_weights(self):
        assert [w.path for w in dense(name="d").weights] == ["d/kernel", "d/bias"]
        assert [w.shape for w in dense(use_bias=False).weights] == [(FEATURES, UNITS)]
        assert dense().count_params() == FEATURES * UNITS + UNITS

    @pytest.mark.parametrize("shape", [(FEATURES,), (4, 5), ()])
    def test_bad_input_shapes(self, shape):
        with pytest.raises(ValueError, match="x: expected 3 features on its last axis"):
            dense()(np.zeros(shape))

    @pytest.mark.parametrize("shape", [(3,), (None, None), ()])
    def test_build_needs_known_features(self, shape):
        with pytest.raises(ValueError, match="input_shape: expected a batch axis and a known last axis"):
            layers.Dense(2).build(shape)

    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"units": -1}, ValueError, "units"),
            ({"units": "3"}, ValueError, "units"),
            ({"activation": "swishh"}, ValueError, "activation: expected None or one of .*'softmax'"),
            ({"activation": abs}, ValueError, "activation"),
            ({"bias_constraint": "positive"}, ValueError, "constraint"),
            ({"lora_rank": 4}, NotImplementedError, "lora_rank"),
            ({"dtype": "float16"}, ValueError, "dtype: expected 'float32' or 'float64', got 'float16'"),
            ({"dtype": "real"}, ValueError, "dtype"),
        ],
    )
    def test_bad_arguments(self, options, error, words):
        with pytest.raises(error, match=words):
            layers.Dense(**{"units": 2, **options})

    def test_activation_may_be_a_function_of_keras_only(self):
        def tanh(x):
            return x

        with pytest.raises(ValueError, match=r"\bactivation\b"):
            layers.Dense(2, activation=tanh)
        tanh.__module__ = "keras.src.activations.activations"
        assert layers.Dense(2, activation=tanh).activation == "tanh"


class TestActivation:
    @pytest.mark.parametrize("name", ops.ACTIVATIONS)
    def test_values(self, name):
        x = 3 * normal(BATCH, TIME, FEATURES)
        y = layers.Activation(name, dtype="float64")(x)
        np.testing.assert_allclose(y, reference.activation(x, name), rtol=1e-12, atol=1e-12)

    def test_masked_places_are_mapped(self):
        packed = PackedSequence.from_padded(normal(BATCH, TIME, FEATURES), make_mask("holes", BATCH, TIME))
        y = layers.Activation("softmax", dtype="float64")(packed).pad()
        np.testing.assert_allclose(y[~packed.packing.mask], 1 / FEATURES)


class TestDropout:
    X = np.ones((50, 20, 10))

    @pytest.mark.parametrize("rate", [0.2, 0.5])
    def test_statistics(self, rate):
        y = layers.Dropout(rate, seed=1, dtype="float64")(self.X, training=True)
        np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - rate)])
        assert abs((y == 0).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / y.size)

    def test_inference_and_rate_zero_change_nothing(self):
        assert layers.Dropout(0.5, dtype="float64")(self.X) is self.X
        assert layers.Dropout(0.0, dtype="float64")(self.X, training=True) is self.X

    def test_rate_one(self):
        np.testing.assert_array_equal(layers.Dropout(1.0)(self.X, training=True), 0)

    @pytest.mark.parametrize("packed", [False, True])
    def test_noise_shape(self, packed):
        mask = make_mask("holes", 50, 20)
        x = PackedSequence.from_padded(self.X, mask) if packed else self.X
        y = layers.Dropout(0.5, (None, 1, None), seed=2)(x, training=True)
        y = y.pad() if packed else y * mask[..., None]
        largest = y.max(axis=1, keepdims=True)
        np.testing.assert_array_equal(y, np.where(mask[..., None], largest, 0))
        assert set(np.unique(largest)) == {0, 2}

    @pytest.mark.parametrize("noise_shape", [(1, None, 1), (50, 20, 1), (1, 1, 1)])
    def test_other_noise_shapes(self, noise_shape):
        packed = PackedSequence.from_padded(self.X)
        for x in (self.X, packed):
            y = layers.Dropout(0.5, noise_shape, seed=2)(x, training=True)
            y = y.pad() if x is packed else y
            for axis, size in enumerate(noise_shape):
                if size == 1:
                    assert (np.ptp(y, axis=axis) == 0).all()

    def test_repeated_tokens_drop_apart(self):
        plan = PackedSequence.from_padded(np.zeros((5, 40))).packing
        x = PackedSequence(np.ones((1, 1)), plan, np.zeros(200, np.int64))
        y = layers.Dropout(0.5, seed=1)(x, training=True)
        assert set(np.unique(y.data)) == {0, 2}

    def test_seed(self):
        first, second = layers.Dropout(0.5, seed=4), layers.Dropout(0.5, seed=4)
        y = first(self.X, training=True)
        np.testing.assert_array_equal(y, second(self.X, training=True))
        assert not np.array_equal(y, first(self.X, training=True))

    @pytest.mark.parametrize("rate", [-0.1, 1.1, "x", None, True])
    def test_bad_rate(self, rate):
        with pytest.raises(ValueError, match="rate: expected a number from 0 to 1"):
            layers.Dropout(rate)

    @pytest.mark.parametrize("noise_shape", [(None, 1), (None, 3, 1)])
    def test_bad_noise_shape(self, noise_shape):
        with pytest.raises(ValueError, match="noise_shape"):
            layers.Dropout(0.5, noise_shape)(self.X, training=True)


class TestFlatten:
    def test_values(self):
        x = normal(BATCH, TIME, FEATURES)
        layer = layers.Flatten(dtype="float64")
        for source in (x, PackedSequence.from_padded(x)):
            np.testing.assert_array_equal(layer(source), x.reshape(BATCH, -1))

    def test_output_shape(self):
        assert layers.Flatten().compute_output_shape((None, 3, 4)) == (None, 12)
        assert layers.Flatten().compute_output_shape((2, None, 4)) == (2, None)
        assert layers.Flatten().compute_output_shape((2,)) == (2, 1)

    def test_a_scalar_is_refused(self):
        with pytest.raises(ValueError, match=r"x: expected at least the axis \(B,\).*Flatten"):
            layers.Flatten()(3.0)

    def test_takes_no_mask(self):
        x, mask = normal(BATCH, TIME, FEATURES), make_mask("holes", BATCH, TIME)
        words = "layer 'flat' .Flatten. does not support masking"
        with pytest.raises(TypeError, match=words):
            layers.Flatten(name="flat")(x, mask)
        with pytest.raises(TypeError, match=words):
            layers.Flatten(name="flat")(PackedSequence.from_padded(x, mask))

    def test_message_names_both_layers_and_what_to_do(self):
        source = layers.Embedding(3, 2, mask_zero=True, name="words")
        with pytest.raises(TypeError) as caught:
            layers.require_mask_support(layers.Flatten(name="flat"), source)
        for words in ("'flat'", "'words' (Embedding)", "return_sequences=False", "mask_zero=False"):
            assert words in str(caught.value)
        layers.require_mask_support(layers.Dense(2), source)


class TestEmbedding:
    IDS = np.array([[3, 1, 0, 0], [0, 0, 0, 0], [2, 0, 1, 3]])

    def layer(self, **options):
        return built(layers.Embedding(4, UNITS, dtype="float64", **options), None)

    @pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
    def test_values(self, dtype):
        layer = self.layer()
        np.testing.assert_array_equal(layer(self.IDS.astype(dtype)), layer.get_weights()[0][self.IDS])

    @pytest.mark.parametrize("mask_zero", [False, True])
    def test_packed_is_padded(self, mask_zero):
        layer = self.layer(mask_zero=mask_zero)
        packed = layer.pack_input(self.IDS)
        assert packed.packing.masked == mask_zero
        np.testing.assert_array_equal(layer(packed).pad(), layer(self.IDS))

    def test_zeros_in_a_packed_batch_are_masked(self):
        layer = self.layer(mask_zero=True)
        y = layer(PackedSequence.from_padded(self.IDS))
        np.testing.assert_array_equal(y.packing.mask, self.IDS != 0)
        np.testing.assert_array_equal(y.pad(), layer(self.IDS))

    def test_packed_lists_need_no_mask_zero(self):
        layer = self.layer()
        packed = PackedSequence.from_list([np.array([1, 2]), np.array([0])])
        np.testing.assert_array_equal(layer(packed).data, layer.get_weights()[0][packed.data])

    def test_ids_under_a_mask_are_not_read(self):
        layer, mask = self.layer(), make_mask("holes", *self.IDS.shape)
        poisoned, zeroed = np.where(mask, self.IDS, -7), np.where(mask, self.IDS, 0)
        y, pullback = layer.vjp(poisoned, mask)
        np.testing.assert_array_equal(y, layer(zeroed))
        np.testing.assert_array_equal(y, layer(PackedSequence.from_padded(poisoned, mask)).pad())
        dy = normal(*y.shape)
        expected = layer.vjp(zeroed)[1](dy).weights[0].dense()
        np.testing.assert_array_equal(pullback(dy).weights[0].dense(), expected)

    def test_masks(self):
        given = np.ones((3, 4), bool)
        np.testing.assert_array_equal(self.layer(mask_zero=True).compute_mask(self.IDS, given), self.IDS != 0)
        assert self.layer().compute_mask(self.IDS) is None
        assert self.layer(mask_zero=True).makes_mask
        assert not self.layer().makes_mask

    def test_gradient_is_sparse(self):
        y, pullback = self.layer().vjp(self.IDS)
        gradient = pullback(np.ones_like(y)).weights[0]
        assert isinstance(gradient, ops.SparseRows)
        np.testing.assert_array_equal(gradient.dense(), np.repeat([[7], [2], [1], [2]], UNITS, axis=1))

    def test_weights_are_taken_at_once(self):
        table = normal(4, UNITS)
        for weights in (table, [table]):
            layer = layers.Embedding(4, UNITS, weights=weights, dtype="float64")
            assert layer.built
            np.testing.assert_array_equal(layer.embeddings, table)
        with pytest.raises(ValueError, match=r"weights\[0\]: expected shape"):
            layers.Embedding(5, UNITS, weights=table)

    def test_input_length_fixes_the_output_shape(self):
        assert layers.Embedding(4, 2, input_length=7).compute_output_shape((None, None)) == (None, 7, 2)
        assert layers.Embedding(4, 2).compute_output_shape((None, None)) == (None, None, 2)

    @pytest.mark.parametrize("ids", [np.array([[4]]), np.array([[-1]]), np.array([[2**40]])])
    @pytest.mark.parametrize("packed", [False, True])
    def test_ids_out_of_range(self, ids, packed):
        with pytest.raises(IndexError, match=r"ids.* from 0 to 3"):
            self.layer()(PackedSequence.from_padded(ids) if packed else ids)

    @pytest.mark.parametrize("dtype", ["bool", "complex64", "object"])
    def test_ids_must_be_integers(self, dtype):
        ids = self.IDS.astype(dtype)
        with pytest.raises(TypeError, match="x: expected integer ids, got dtype"):
            self.layer()(ids)
        with pytest.raises(TypeError, match="x: expected integer ids"):
            self.layer(mask_zero=True).pack_input(ids)

    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"input_dim": 0}, ValueError, "input_dim"),
            ({"output_dim": 2.0}, ValueError, "output_dim"),
            ({"input_length": -1}, ValueError, "input_length"),
            ({"embeddings_regularizer": "l3"}, ValueError, "regularizer: expected one of"),
        ],
    )
    def test_bad_arguments(self, options, error, words):
        with pytest.raises(error, match=words):
            layers.Embedding(**{"input_dim": 4, "output_dim": 2, **options})


class TestMasking:
    def batch(self, value):
        x = normal(BATCH, TIME, FEATURES)
        x[~make_mask("empty_row", BATCH, TIME)] = value
        x[0, 0, 0] = value
        return x, make_mask("empty_row", BATCH, TIME)

    @pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
    def test_values_and_mask(self, value):
        x, mask = self.batch(value)
        layer = layers.Masking(value, dtype="float64")
        np.testing.assert_array_equal(layer.compute_mask(x), mask)
        expected = np.where(mask[..., None], x, 0)
        np.testing.assert_array_equal(layer(x), expected)
        for packed in (layer.pack_input(x), PackedSequence.from_padded(x)):
            y = layer(packed)
            np.testing.assert_array_equal(y.packing.mask, mask)
            np.testing.assert_array_equal(y.pad(), expected)

    @pytest.mark.parametrize("repeat", [False, True])
    @pytest.mark.parametrize("fill", [None, np.ones(FEATURES)])
    def test_mask_that_came_in_is_forgotten(self, repeat, fill):
        x, mask = self.batch(0.0)
        layer = layers.Masking(dtype="float64")
        source = with_fill(PackedSequence.from_padded(x, mask), fill, repeat)
        y = layer(source)
        np.testing.assert_array_equal(y.packing.mask, layer.compute_mask(source.pad()))
        np.testing.assert_array_equal(y.pad(), layer(source.pad()))

    def test_plan_is_kept_if_the_mask_stays(self):
        x, _ = self.batch(2.0)
        layer = layers.Masking(2.0)
        packed = layer.pack_input(x)
        assert layer(packed).packing is packed.packing

    def test_needs_three_axes(self):
        with pytest.raises(ValueError, match="x: expected at least 3 axes"):
            layers.Masking()(np.zeros((2, 3)))


def test_swish_is_silu():
    assert layers.Dense(2, activation="swish").activation == "silu"
