"""Requests, which go through a chain of layers in one compiled call, get the bits of the layers one by one."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers.numeric import assert_same_bits

import fastmask as fm
from fastmask import kernels, layers
from fastmask.batch.data import as_batch

CELLS = {
    "lstm": layers.LSTM,
    "gru": layers.GRU,
    "gru_reset_before": lambda units, **options: layers.GRU(units, reset_after=False, **options),
    "simple_rnn": layers.SimpleRNN,
}
WORDS = 50


def recurrent(cell, direction, units, return_sequences):
    if direction == "both":
        return layers.Bidirectional(CELLS[cell](units, return_sequences=return_sequences))
    backwards = direction == "back" and not return_sequences
    return CELLS[cell](units, return_sequences=return_sequences, go_backwards=backwards)


def tagger(cell="lstm", direction="both", units=5, mask_zero=True):
    stack = [
        layers.Embedding(WORDS, 7, mask_zero=mask_zero), layers.Dropout(0.3),
        recurrent(cell, direction, units, True), layers.Dense(6, activation="gelu"),
        recurrent(cell, direction, units, True), recurrent(cell, direction, units, False),
        layers.Dense(3, activation="softmax"),
    ]
    return fm.Sequential([fm.Input((None,), dtype="int32"), *stack])


def ids(rows, steps, seed=0):
    found = np.random.default_rng(seed).integers(0, WORDS, (rows, steps))
    found[0, 0] = 3
    return found


def one_by_one(model, x, mask=None):
    (output,), _ = model.run(as_batch(x, None, None, model.layout).x, mask)
    return output


def assert_prepared(model, x, mask=None):
    """From the second call on the answer is prepared, and stays the same."""
    expected = one_by_one(model, x, mask)
    for _ in range(3):
        assert_same_bits(model(x, mask), expected)
    found, tokens = model._prepared.run(x, mask)
    assert_same_bits(found, expected)
    assert 0 < tokens <= x.shape[0] * x.shape[1]


def assert_not_prepared(model, x, mask=None):
    for _ in range(3):
        assert model._prepared.run(x, mask) is None


@pytest.fixture
def floats(request):
    before = fm.config.floatx()
    fm.config.set_floatx(request.param)
    yield request.param
    fm.config.set_floatx(before)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("floats", ["float32", "float64"], indirect=True)
@pytest.mark.parametrize("units", [1, 8, 17])
@pytest.mark.parametrize("direction", ["on", "back", "both"])
@pytest.mark.parametrize("cell", CELLS)
def test_same_bits(cell, direction, units, floats):
    for mask_zero in (True, False):
        model = tagger(cell, direction, units, mask_zero)
        for rows, steps in ((1, 1), (1, 5), (3, 7)):
            assert_prepared(model, ids(rows, steps))
    steps = [recurrent(cell, direction, units, True), recurrent(cell, direction, units, False), layers.Dense(2)]
    model = fm.Sequential([fm.Input((None, 4)), *steps])
    rng = np.random.default_rng(1)
    for rows, length in ((1, 1), (3, 7)):
        x = rng.standard_normal((rows, length, 4)).astype(floats)
        mask = rng.random((rows, length)) < 0.6
        mask[0, 0] = True
        assert_prepared(model, x)
        assert_prepared(model, np.where(mask[..., None], x, np.nan), mask)


@pytest.mark.parametrize("change", [
    lambda x: x.astype(np.int32), lambda x: x[:, ::2], np.asfortranarray, lambda x: x * (np.arange(4) != 2)[:, None],
])  # fmt: skip
def test_forms_of_ids(change):
    assert_prepared(tagger(), change(ids(4, 6)))


def test_views_and_copies_of_features():
    model = fm.Sequential([fm.Input((None, 4)), layers.LSTM(3)])
    x = np.random.default_rng(0).standard_normal((2, 6, 4)).astype(np.float32)
    for form in (np.asfortranarray(x), x[:, ::2], x[::-1]):
        assert_prepared(model, form)


def test_changed_weights_count():
    model = tagger()
    x = ids(2, 6)
    for scale in (1.0, 0.5, 2.0):
        model.set_weights([scale * weight for weight in model.get_weights()])
        assert_prepared(model, x)
    before = model(x)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.train_on_batch(x, np.array([0, 1]))
    assert not np.array_equal(model(x), before)
    assert_prepared(model, x)
    with model.layers[-1].bias.changing() as bias:
        bias += 1
        assert_not_prepared(model, x)
    assert_prepared(model, x)


def test_a_layer_made_stateful_keeps_its_states():
    model = fm.Sequential([fm.Input((None, 4)), layers.LSTM(3)])
    x = np.ones((1, 5, 4), np.float32)
    first = model(x)
    assert_prepared(model, x)
    model.layers[0].stateful = True
    assert_same_bits(model(x), first)
    assert not np.array_equal(model(x), first)


def test_another_instruction_set_has_its_own():
    model, x = tagger(), ids(2, 6)
    for name in (*kernels.available(), *kernels.available()):
        with kernels.use(name):
            assert_prepared(model, x)


def test_layers_of_a_stack_change():
    model, x = tagger(), ids(2, 6)
    assert_prepared(model, x)
    model.pop()
    model.add(layers.Dense(1))
    assert_prepared(model, x)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_have_weights_of_their_own(copied):
    model, x = tagger(), ids(2, 6)
    assert_prepared(model, x)
    other = copied(model)
    other.set_weights([2 * weight for weight in other.get_weights()])
    assert_prepared(other, x)
    assert_prepared(model, x)


def test_many_threads_at_once():
    model = tagger()
    requests = [ids(1, 3 + seed % 5, seed) for seed in range(40)]
    expected = [one_by_one(model, x) for x in requests]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for found, wanted in zip(pool.map(model, requests), expected, strict=True):
                assert_same_bits(found, wanted)


def test_all_ways_to_predict():
    inputs = fm.Input((None,), dtype="int32")
    chain = layers.LSTM(3)(layers.Embedding(WORDS, 4)(inputs))
    model, listed = fm.Model(inputs, chain), fm.Model([inputs], [chain])
    x = ids(3, 5)
    expected = one_by_one(model, x)
    for _ in range(3):
        for found in (model(x), model.predict_on_batch(x), model.predict(x, verbose=0), listed([x])):
            assert_same_bits(found, expected)
    assert model._prepared.run(x)[1] == 15
    assert_not_prepared(listed, [x])


@pytest.mark.parametrize("bad", [-1, WORDS])
def test_bad_ids_have_the_error_of_the_layers(bad):
    model, x = tagger(), ids(2, 6)
    assert_prepared(model, x)
    x[1, 2] = bad
    for _ in range(2):
        with pytest.raises(IndexError, match=rf"ids: expected ids from 0 to {WORDS - 1}, got {bad}"):
            model.predict_on_batch(x)


def test_a_fixed_length_is_that_of_all():
    inputs = fm.Input((5, 4))
    model = fm.Model(inputs, layers.LSTM(3)(inputs))
    assert_prepared(model, np.ones((2, 5, 4), np.float32))
    with pytest.raises(ValueError, match="x"):
        model.predict_on_batch(np.ones((2, 6, 4), np.float32))


class Doubled(layers.Dense):
    """A layer of a user's own."""

    def call(self, x):
        return 2 * super().call(x)

    def vjp(self, x):
        raise NotImplementedError


class Counted(fm.Sequential):
    """A model that does more in a run."""

    def run(self, *arguments, **options):
        return super().run(*arguments, **options)


def made_of(*above, **options):
    return fm.Sequential([fm.Input((None, 4)), layers.LSTM(3, **options), *above])


@pytest.mark.parametrize("model", [
    made_of(layers.LSTM(2, return_sequences=True), return_sequences=True), made_of(stateful=True),
    made_of(layers.GlobalMaxPooling1D(), return_sequences=True), made_of(Doubled(2)),
    made_of(zero_output_for_mask=True), Counted([fm.Input((None, 4)), layers.LSTM(3)]),
    made_of(layers.LSTM(2), return_sequences=True, go_backwards=True),
    fm.Sequential([fm.Input((None, 4)), layers.Bidirectional(layers.LSTM(3), merge_mode="sum")]),
    fm.Sequential([fm.Input((None, 4)), layers.Masking(), layers.LSTM(3)]),
], ids=range(9))  # fmt: skip
def test_what_goes_through_the_layers(model):
    assert_not_prepared(model, np.ones((2, 3, 4), np.float32))


@pytest.mark.parametrize("layer", [layers.Dropout(0.5), layers.Dense(3)])
def test_models_without_a_recurrent_layer(layer):
    model = fm.Sequential([fm.Input((4,)), layer])
    x = np.ones((2, 4), np.float32)
    assert_not_prepared(model, x)
    for _ in range(3):
        assert_same_bits(model.predict_on_batch(x), one_by_one(model, x))


@pytest.mark.parametrize(("x", "mask"), [
    (np.ones((2, 3, 4)), None), (np.ones((2, 3, 4), np.float16), None), (np.ones((2, 3, 5), np.float32), None),
    (np.ones((2, 0, 4), np.float32), None), (np.ones((2, 3), np.float32), None),
    (np.ones((2, 3, 4), np.float32), np.ones((2, 3), np.float32)),
    (np.ones((2, 3, 4), np.float32), np.ones((3, 2), bool)), (np.ones((2, 3, 4), np.float32), [[1, 1, 1]] * 2),
    (np.ones((2, 3, 4), np.float32), np.zeros((2, 3), bool)), (np.ones((9, 20_000, 4), np.float32), None),
], ids=range(10))  # fmt: skip
def test_batches_that_go_through_the_layers(x, mask):
    assert_not_prepared(made_of(), x, mask)
