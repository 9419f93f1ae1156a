"""Recurrent layers keep the products of a whole embedding table between predictions, and nobody can tell."""

import numpy as np
import pytest
from helpers.numeric import assert_same_bits

import fastmask as fm
from fastmask import kernels, layers
from fastmask.ops import tuning
from fastmask.ops.rnn.inputs import TableProducts

pytestmark = pytest.mark.usefixtures("packed_weights")
VOCABULARY = 30
LAYERS = {
    "LSTM": lambda **options: layers.LSTM(20, **options),
    "GRU": lambda **options: layers.GRU(20, **options),
    "GRU that resets before": lambda **options: layers.GRU(20, reset_after=False, **options),
    "SimpleRNN": lambda **options: layers.SimpleRNN(20, **options),
    "no bias": lambda **options: layers.LSTM(20, use_bias=False, **options),
    "backwards": lambda **options: layers.GRU(20, go_backwards=True, **options),
    "both directions": lambda **options: layers.Bidirectional(layers.LSTM(20, **options)),
}


@pytest.fixture
def used(monkeypatch):
    """For each look at a table since the last one, whether its products were there or made."""
    found, plain = [], TableProducts.get

    def get(self, source, key, row_bytes, make):
        products = plain(self, source, key, row_bytes, lambda table: (found.append("made"), make(table))[1])
        found.append(products is not None)
        return products

    monkeypatch.setattr(TableProducts, "get", get)
    return found


def batch(seed=0, rows=5):
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, VOCABULARY, (rows, 9))
    return np.where(rng.random((rows, 9)) < 0.7, ids, 0)


def make_model(kind, **options):
    fm.utils.set_random_seed(1)
    table = layers.Embedding(VOCABULARY, 6, mask_zero=True)
    model = fm.Sequential([fm.Input((None,), dtype="int32"), table, LAYERS[kind](**options), layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def predict(model, ids):
    """Take the layers one by one, as the model does itself with batches that are not small."""
    (output,), _ = model.run([ids])
    return output.pad() if isinstance(output, fm.PackedSequence) else output


def predicted_by_a_new_model(kind, model, ids, **options):
    """The first prediction of a model looks up too few rows for the products of the table."""
    other = make_model(kind, **options)
    other.set_weights(model.get_weights())
    return predict(other, ids)


def change_table(model):
    with model.layers[0].embeddings.changing() as array:
        array[3] += 1


CHANGES = {
    "table": change_table,
    "kernel": lambda model: model.layers[1].set_weights([w + 1 for w in model.layers[1].get_weights()]),
    "training": lambda model: model.train_on_batch(batch(), np.ones((5, 1), np.float32)),
}


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_same_bits(kind, sequences, used):
    model = make_model(kind, return_sequences=sequences)
    for seed in range(5):
        assert_same_bits(
            predict(model, batch(seed)),
            predicted_by_a_new_model(kind, model, batch(seed), return_sequences=sequences),
        )
    assert used.count("made") == (2 if kind == "both directions" else 1)
    assert used.count(True) > used.count("made")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", LAYERS)
def test_predictions_follow_the_weights(kind, change, used):
    model = make_model(kind)
    for _ in range(4):
        before = predict(model, batch())
    assert used[-1] is True
    CHANGES[change](model)
    for _ in range(4):
        after = predict(model, batch())
        assert not np.array_equal(after, before)
        assert_same_bits(after, predicted_by_a_new_model(kind, model, batch()))
    assert used[-1] is False  # the last look is that of the new model
    assert used.count("made") == (4 if kind == "both directions" else 2)


def test_products_are_of_the_instruction_set_in_use(used):
    model = make_model("LSTM")
    for name in (*kernels.available(), *kernels.available()):
        with kernels.use(name):
            for _ in range(4):
                found = predict(model, batch())
            assert_same_bits(found, predicted_by_a_new_model("LSTM", model, batch()))
    sets = len(kernels.available())
    assert used.count("made") == (2 * sets if sets > 1 else 1)


def test_large_tables_are_left(used):
    model = make_model("LSTM")
    row = 4 * 20 * 4
    with tuning.override(LARGEST_TABLE=VOCABULARY * row - 1):
        for _ in range(5):
            predict(model, batch())
    assert used
    assert not any(used)


def test_training_makes_none(used):
    model = make_model("LSTM")
    model.fit(np.tile(batch(), (20, 1)), np.ones((100, 1), np.float32), batch_size=10, verbose=0)
    assert used == []


def test_two_tables_before_one_layer(used):
    lstm = layers.LSTM(20)
    tables = [layers.Embedding(VOCABULARY, 6, mask_zero=True) for _ in range(2)]
    ids = fm.Input((None,), dtype="int32")
    models = [fm.Model(ids, lstm(table(ids))) for table in tables]
    first = [predict(model, batch()) for model in models]
    assert not np.array_equal(*first)
    for model, expected in zip(models * 6, first * 6, strict=True):
        assert_same_bits(predict(model, batch()), expected)
    assert not any(used)  # neither table has met enough tokens in a row
    for _ in range(6):
        assert_same_bits(predict(models[1], batch()), first[1])
    assert used[-1] is True


def test_a_batch_without_tokens():
    model = make_model("LSTM")
    for _ in range(4):
        predict(model, batch())
    empty = np.zeros((3, 4), int)
    assert_same_bits(predict(model, empty), predicted_by_a_new_model("LSTM", model, empty))


@pytest.mark.parametrize("kind", LAYERS)
def test_products_of_a_table_of_integers(kind, used):
    model = make_model(kind)
    model.quantize("int8")
    integers, scale = model.layers[0].get_weights()
    for weights in ([integers, scale], [integers[::-1], scale], [integers, 2 * scale]):
        model.layers[0].set_weights(weights)
        first = predict(model, batch())
        used.clear()
        for _ in range(3):
            np.testing.assert_array_equal(predict(model, batch()), first)
        assert "made" in used
        assert used[-1] is True
