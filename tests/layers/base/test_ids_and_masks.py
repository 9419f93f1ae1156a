"""Ids and masks as arrays of floats, and the place of an id that is out of range."""

import numpy as np
import pytest

import fastmask as fm
from fastmask import PackedSequence, Packing, layers, ops

IDS = np.array([[1, 2, 0, 0], [3, 1, 4, 2], [4, 0, 0, 0]])
MASK = IDS != 0
X = np.random.default_rng(0).normal(size=(3, 4, 2)).astype("float32")
FRACTIONS = [1.5, np.nan, np.inf, -np.inf, 1e300]


def embedding(**options):
    return layers.Embedding(5, 2, weights=np.arange(10.0).reshape(5, 2), **options)


def tagger():
    return fm.Sequential([layers.Embedding(5, 2, mask_zero=True), layers.LSTM(3, return_sequences=True)])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
class TestWholeFloats:
    def test_as_ids(self, dtype):
        floats, wanted = IDS.astype(dtype), embedding()(IDS)
        np.testing.assert_array_equal(embedding()(floats), wanted)
        np.testing.assert_array_equal(embedding()(PackedSequence.from_padded(floats)).pad(), wanted)
        table = np.eye(5)
        np.testing.assert_array_equal(ops.embedding(floats, table), ops.embedding(IDS, table))

    def test_as_ids_of_several_words(self, dtype):
        documents = np.stack([IDS, IDS], axis=2)
        layer = layers.TimeDistributed(embedding(mask_zero=True))
        np.testing.assert_array_equal(layer(documents.astype(dtype)), layer(documents))

    def test_as_ids_of_a_model(self, dtype):
        model = tagger()
        model.compile("sgd", "mse")
        wanted = model.predict(IDS)
        np.testing.assert_array_equal(model.predict(IDS.astype(dtype)), wanted)
        rows, lists = [row[row > 0] for row in IDS], [[float(i) for i in row if i] for row in IDS]
        for found, row in zip(model.predict(lists), model.predict(rows), strict=True):
            np.testing.assert_array_equal(found, row)
        losses = [model.evaluate(x.astype(dtype), wanted, verbose=0) for x in (IDS, IDS.astype(dtype))]
        assert losses[0] == losses[1]

    def test_as_a_mask(self, dtype):
        floats, lstm = MASK.astype(dtype), layers.LSTM(3)
        np.testing.assert_array_equal(lstm(X, mask=floats), lstm(X, mask=MASK))
        np.testing.assert_array_equal(Packing.from_mask(floats).mask, MASK)
        np.testing.assert_array_equal(ops.pack(X, floats).values, ops.pack(X, MASK).values)
        sums = [ops.merge([X, X], "multiply", [mask, None]) for mask in (floats, MASK)]
        np.testing.assert_array_equal(*sums)


@pytest.mark.parametrize("value", FRACTIONS)
class TestOtherFloats:
    def test_as_ids(self, value):
        ids = IDS.astype("float64")
        ids[1, 1] = value
        for x in (ids, PackedSequence.from_padded(ids)):
            with pytest.raises(TypeError, match="x: expected integer ids, got dtype float64"):
                embedding()(x)
        with pytest.raises(TypeError, match="ids: expected integers, got float64"):
            ops.embedding(ids, np.ones((5, 2)))
        for x in (ids, list(ids)):
            with pytest.raises(TypeError, match="x: expected integer ids"):
                tagger().predict(x)

    def test_as_a_mask(self, value):
        mask = MASK.astype("float64")
        mask[1, 1] = value
        with pytest.raises(TypeError, match=r"mask: expected bool .*got dtype float64"):
            layers.LSTM(3)(X, mask=mask)
        with pytest.raises(ValueError, match=r"mask: expected a bool or integer array .*got float64"):
            Packing.from_mask(mask)
        with pytest.raises(TypeError, match=r"masks\[0\]: expected bool, or 0 and 1, got float64"):
            ops.merge([X, X], "multiply", [mask, None])


def test_integers_are_not_copied():
    ids = np.array([[1, 2]], np.int32)
    assert embedding().check_input(ids) is ids


class TestIllegalIds:
    """The error names the first id that is out of range, row by row, and where it stands."""

    def wrong(self, x, row, *places, model=None):
        words = f"got 9 in row {row} of the batch, position {', '.join(map(str, places))}$"
        with pytest.raises(IndexError, match=words):
            (tagger() if model is None else model).predict_on_batch(x)

    def test_padded(self):
        ids = IDS.copy()
        ids[2, 0] = ids[1, 2] = 9
        self.wrong(ids, 1, 2)
        self.wrong(ids.astype("float32"), 1, 2)
        self.wrong(ids.astype("uint64"), 1, 2)

    def test_among_padding(self):
        ids = np.array([[1, 2, 3, 4], [0, 9, 0, 2], [0, 0, 0, 9]])
        self.wrong(ids, 1, 1)

    def test_in_lists(self):
        self.wrong([[1], [3, 1, 2], [2, 1, 4, 9], [9]], 2, 3)

    def test_of_several_words(self):
        documents = np.stack([IDS, IDS], axis=2)
        documents[1, 3, 1] = 9
        inputs = fm.Input((None, 2))
        model = fm.Model(inputs, layers.TimeDistributed(layers.GlobalMaxPooling1D())(layers.Embedding(5, 2)(inputs)))
        self.wrong(documents, 1, 3, 1, model=model)
        self.wrong(list(documents), 1, 3, 1, model=model)

    @pytest.mark.parametrize("mask_zero", [False, True])
    def test_in_each_step(self, mask_zero):
        documents = np.stack([IDS, IDS], axis=2)
        documents[1, 3, 1] = 9
        embedding = layers.TimeDistributed(layers.Embedding(5, 2, mask_zero=mask_zero))
        chain = [embedding, layers.TimeDistributed(layers.LSTM(2)), layers.LSTM(2)]
        model = fm.Sequential([fm.Input((None, 2)), *chain])
        self.wrong(documents, 1, 3, 1, model=model)
        with pytest.raises(IndexError, match="got 9"):
            model.predict(list(documents))

    def test_larger_than_any_signed_integer(self):
        with pytest.raises(IndexError, match=f"got {2**63} in row 0 of the batch, position 1"):
            ops.embedding(np.array([[1, 2**63]], np.uint64), np.ones((5, 2)))

    def test_in_one_row_of_ids_there_is_no_position(self):
        with pytest.raises(IndexError, match=r"got 9$"):
            ops.embedding([1, 9], np.ones((5, 2)))
