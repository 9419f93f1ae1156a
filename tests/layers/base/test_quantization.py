"""Layers and models in 8-bit integers: what is quantised, its results, files, and what is refused."""

import copy
import pickle

import numpy as np
import pytest
from helpers.numeric import assert_same_bits

import fastmask as fm
from fastmask import layers, ops
from fastmask.core.errors import FileFormatError

IDS = np.array([[4, 7, 2, 9, 1], [3, 3, 8, 0, 0], [5, 0, 0, 0, 0]])


def tagger(kind="LSTM", **options):
    recurrent = getattr(layers, kind)
    return fm.Sequential([
        fm.Input((None,), dtype="int32"), layers.Embedding(12, 10, mask_zero=True),
        layers.Bidirectional(recurrent(7, return_sequences=True)), layers.Dropout(0.5), recurrent(9, **options),
        layers.Dense(3, activation="softmax"),
    ])


def features(layer, shape=(3, 5, 6), seed=0):
    layer.build(shape)
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.standard_normal(w.shape).astype(np.float32) * 0.4 for w in layer.weights])
    return rng.standard_normal(shape).astype(np.float32)


class TestResults:
    @pytest.mark.parametrize("kind", ["SimpleRNN", "LSTM", "GRU"])
    def test_layers_run_the_operations(self, kind):
        layer = getattr(layers, kind)(7, return_sequences=True)
        x, mask = features(layer), np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 0, 0, 0, 0]], bool)
        kernel, recurrent_kernel = (ops.Quantized(*ops.abs_max_quantize(w)) for w in layer.get_weights()[:2])
        layer.quantize("int8")
        packed = fm.PackedSequence.from_padded(x, mask)
        sequence, _ = getattr(ops, layer.op)(packed, kernel, recurrent_kernel, layer.get_weights()[2])
        assert_same_bits(layer(x, mask), sequence.pad())

    def test_dense(self):
        layer = layers.Dense(4, activation="relu")
        x = features(layer)
        kernel, bias = layer.get_weights()
        layer.quantize()
        values, scale = layer.get_weights()[0], layer.get_weights()[2]
        largest = np.abs(x).max(axis=-1, keepdims=True) + np.float32(1e-7)
        integers = np.rint(x * (127 / largest)) @ values.astype(np.float64)
        np.testing.assert_allclose(layer(x), np.maximum(integers * largest / 127 / scale + bias, 0), atol=1e-5)
        np.testing.assert_allclose(values / scale, kernel, atol=np.abs(kernel).max() / 127)

    def test_embedding(self):
        layer = layers.Embedding(12, 10)
        layer.build((None, None))
        (table,) = layer.get_weights()
        layer.quantize("int8")
        values, scale = layer.get_weights()
        assert_same_bits(layer(IDS), values[IDS] / scale[IDS][..., None])
        assert np.abs(layer(IDS) - table[IDS]).max() <= np.abs(table).max() / 127

    @pytest.mark.parametrize("kind", ["SimpleRNN", "LSTM", "GRU"])
    @pytest.mark.parametrize("options", [{}, {"go_backwards": True}], ids=["forwards", "backwards"])
    def test_models_are_near_and_rows_independent(self, kind, options):
        model = tagger(kind, **options)
        before = model.predict(IDS, verbose=0)
        model.quantize("int8")
        after = model.predict(IDS, verbose=0)
        assert 0 < np.abs(after - before).max() < 0.05
        for _ in range(3):  # the second call prepares, the third runs what is prepared
            assert_same_bits(model(IDS), after)
            assert_same_bits(model.predict_on_batch(IDS), after)
            for row in range(3):
                assert_same_bits(model(IDS[row : row + 1]), after[row : row + 1])
        assert_same_bits(model.predict([row[row > 0] for row in IDS], verbose=0), after)

    def test_what_was_prepared_is_out_of_date(self):
        model = tagger()
        for _ in range(3):
            before = model(IDS)
        model.layers[-1].quantize("int8")
        assert not np.array_equal(model(IDS), before)
        for _ in range(3):
            after = model(IDS)
        model.layers[-1].set_weights([np.zeros_like(w) for w in model.layers[-1].get_weights()[:2]]
                                     + model.layers[-1].get_weights()[2:])
        np.testing.assert_allclose(model(IDS), 1 / 3)
        assert not np.allclose(after, 1 / 3)

    def test_a_stateful_layer_goes_on(self):
        layer = layers.GRU(7, stateful=True)
        x = features(layer)
        layer.quantize("int8")
        for t in range(5):
            last = layer(x[:, t : t + 1])
        layer.reset_states()
        assert_same_bits(layer(x), last)

    @pytest.mark.parametrize("make", [lambda: layers.Dense(4), lambda: layers.GRU(7), lambda: layers.SimpleRNN(3)])
    def test_any_memory(self, make):
        layer = make()
        x = features(layer)
        layer.quantize("int8")
        expected = layer(x)
        shifted = np.frombuffer(b"." + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
        for other in (np.asfortranarray(x), x[::-1].copy()[::-1], x.astype(np.float64), x.astype(">f4"), shifted):
            assert_same_bits(layer(other), expected)

    def test_copies(self):
        model = tagger()
        model.quantize("int8")
        expected = model(IDS)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert_same_bits(other(IDS), expected)


class TestWeights:
    def test_dtypes_and_names(self):
        model = tagger()
        floats = sum(w.value.nbytes for w in model.weights)
        model.quantize("int8")
        layer = model.layers[-2]
        assert [w.dtype.name for w in layer.weights] == ["int8", "int8", "float32", "float32", "float32"]
        assert [w.name for w in layer.weights] == [
            "kernel", "recurrent_kernel", "bias", "kernel_scale", "recurrent_kernel_scale",
        ]
        assert not model.trainable_weights
        assert sum(w.value.nbytes for w in model.weights) < 0.5 * floats
        assert layer.quantization_mode == "int8"
        assert layer.dtype == np.float32

    def test_a_layer_by_policy(self):
        first = layers.LSTM(5)
        x = features(first)
        first.quantize("int8")
        second = layers.LSTM.from_config(first.get_config())
        second.build(x.shape)
        second.set_weights(first.get_weights())
        assert_same_bits(second(x), first(x))
        third = layers.LSTM(5, dtype="int8_from_float32")
        third.build(x.shape)
        assert [w.shape for w in third.weights] == [w.shape for w in first.weights]

    def test_files(self, tmp_path):
        pytest.importorskip("h5py")
        model = tagger("GRU")
        model.quantize("int8")
        expected = model(IDS)
        model.save(tmp_path / "a.keras")
        assert_same_bits(fm.models.load_model(tmp_path / "a.keras")(IDS), expected)
        model.save_weights(tmp_path / "a.weights.h5")
        other = tagger("GRU")
        other.quantize("int8")
        other.load_weights(tmp_path / "a.weights.h5")
        assert_same_bits(other(IDS), expected)
        with pytest.raises(FileFormatError):
            tagger("GRU").load_weights(tmp_path / "a.weights.h5")


class TestRefusals:
    def test_training(self):
        model = tagger()
        model.compile("adam", "sparse_categorical_crossentropy")
        model.quantize("int8")
        weights = model.get_weights()
        with pytest.raises(ValueError, match=r"expected inference, since .* is quantised to int8, got training"):
            model.fit(IDS, np.zeros(3, int), verbose=0)
        for now, before in zip(model.get_weights(), weights, strict=True):
            assert_same_bits(now, before)
        assert np.isfinite(model.evaluate(IDS, np.zeros(3, int), verbose=0))

    def test_dropout(self):
        layer = layers.LSTM(5, recurrent_dropout=0.5)
        x = features(layer)
        layer.quantize("int8")
        with pytest.raises(ValueError, match="expected inference"):
            layer(x, training=True)
        assert np.isfinite(layer(x)).all()

    def test_modes_and_layers(self):
        model = tagger()
        with pytest.raises(ValueError, match=r"^mode: expected"):
            model.quantize("int4")
        with pytest.raises(ValueError, match=r"^mode: .* got none"):
            layers.Dropout(0.5).quantize("int8")
        with pytest.raises(ValueError, match="call build first"):
            layers.Dense(3).quantize("int8")
        model.quantize("int8")
        with pytest.raises(ValueError, match=r"^mode: .* got none"):
            model.quantize("int8")

    def test_float64_stays(self):
        model = fm.Sequential([fm.Input((None, 4)), layers.LSTM(3), layers.Dense(2, dtype="float64", name="wide")])
        with pytest.warns(UserWarning, match="layer 'wide'"):
            model.quantize("int8")
        assert model.layers[0].quantization_mode == "int8"
        assert model.layers[1].quantization_mode is None

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_weights_that_are_not_finite_change_nothing(self, bad):
        model = tagger()
        weights = model.get_weights()
        weights[-2][0, 0] = bad
        model.set_weights(weights)
        with pytest.raises(ValueError, match=r"^kernel of layer .*: expected finite numbers"):
            model.quantize("int8")
        assert all(layer.quantization_mode is None for layer in model.layers)
