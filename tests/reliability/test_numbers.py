"""The same bits for a sequence wherever it stands, whatever its padding holds, for any number of threads."""

import numpy as np
import pytest
from helpers.accuracy import distances
from helpers.masks import make_mask
from helpers.numeric import assert_same_bits
from helpers.recurrent import CELLS, make_problem

import fastmask as fm
from fastmask import layers, ops, reference

RUBBISH = (np.nan, np.inf, -np.inf, 1e-45, -3e38, 1e30)
KINDS = ("SimpleRNN", "LSTM", "GRU", "Bidirectional")
LENGTHS = [7, 1, 4, 7, 2, 5, 3, 6, 1, 7, 4]


def tagger(kind):
    """A compiled model with a mask value that is not zero, and with biases."""
    fm.utils.set_random_seed(7)
    if kind == "Bidirectional":
        recurrent = layers.Bidirectional(layers.LSTM(9, return_sequences=True))
    else:
        recurrent = getattr(layers, kind)(17, return_sequences=True)
    head = [layers.LayerNormalization(), layers.Dense(3, activation="softmax")]
    model = fm.Sequential([fm.Input((None, 5)), layers.Masking(-9.0), recurrent, *head])
    model.compile(fm.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    rng = np.random.default_rng(11)
    model.set_weights([0.4 * rng.standard_normal(w.shape).astype(np.float32) for w in model.weights])
    return model


def sequences():
    """Rows of several lengths and their labels."""
    rng = np.random.default_rng(3)
    rows = [rng.standard_normal((n, 5)).astype(np.float32) for n in LENGTHS]
    return rows, [rng.integers(0, 3, n) for n in LENGTHS]


def padded(rows, side, extra=0, value=-9.0):
    """The rows in one array, padded on a side, by more than it takes."""
    steps = max(map(len, rows)) + extra
    out = np.full((len(rows), steps, *rows[0].shape[1:]), value, rows[0].dtype)
    for target, row in zip(out, rows, strict=True):
        target[slice(steps - len(row), None) if side == "left" else slice(len(row))] = row
    return out


def trained(kind, x, y, epochs=2):
    """Weights after a few steps."""
    model = tagger(kind)
    model.fit(x, y, batch_size=4, epochs=epochs, shuffle=True, verbose=0)
    return model.get_weights()


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("kind", KINDS)
class TestModels:
    def test_alone_or_in_any_batch(self, kind):
        rows, _ = sequences()
        model = tagger(kind)
        for row, together in zip(rows, model.predict(rows, batch_size=len(rows), verbose=0), strict=True):
            (alone,) = model.predict([row], verbose=0)
            assert_same_bits(alone, together)
            assert_same_bits(model.predict(row[None], verbose=0)[0], together)

    @pytest.mark.parametrize("side", ["right", "left"])
    def test_any_padding(self, kind, side):
        rows, _ = sequences()
        model = tagger(kind)
        for extra in (0, 9):
            found = model.predict(padded(rows, side, extra), verbose=0)
            for row, whole, wanted in zip(rows, found, model.predict(rows, verbose=0), strict=True):
                assert_same_bits(whole[-len(row) :] if side == "left" else whole[: len(row)], wanted)

    def test_trained_weights_for_any_padding(self, kind):
        rows, labels = sequences()
        expected = trained(kind, rows, labels)
        for side, extra in (("right", 0), ("left", 0), ("right", 9)):
            x, y = padded(rows, side, extra), padded(labels, side, extra, value=0)
            for actual, wanted in zip(trained(kind, x, y), expected, strict=True):
                assert_same_bits(actual, wanted)

    def test_trained_weights_for_any_number_of_threads(self, kind, set_threads):
        rows, labels = sequences()
        results = []
        for count in range(1, 9):
            set_threads(count)
            results.append(trained(kind, rows, labels, epochs=1))
        for other in results[1:]:
            for actual, wanted in zip(other, results[0], strict=True):
                assert_same_bits(actual, wanted)

    def test_repeated_runs(self, kind):
        rows, labels = sequences()
        for actual, wanted in zip(trained(kind, rows, labels), trained(kind, rows, labels), strict=True):
            assert_same_bits(actual, wanted)


@pytest.mark.usefixtures("instruction_set")
class TestRubbishInPadding:
    @pytest.mark.parametrize("rubbish", RUBBISH)
    @pytest.mark.parametrize("cell", CELLS)
    def test_operations(self, cell, rubbish):
        problem = make_problem(cell, 7, 6, 5, 17, mask="holes", dtype=np.float32)
        results = []
        for value in (0.0, rubbish):
            problem.x[~problem.mask] = value
            packed, unpack = ops.pack_vjp(problem.x, problem.mask)
            function = getattr(ops, problem.cell.function + "_vjp")
            (y, states), pullback = function(packed, *problem.parameters, **problem.options)
            dy = problem.dy.copy()
            dy[~problem.mask] = value
            gradients = pullback(reference.pack(dy, problem.mask), problem.d_states)
            results.append([y.pad(), *states, unpack(gradients.inputs), *gradients[1:4], *gradients.initial_state])
        for actual, wanted in zip(*results, strict=True):
            assert_same_bits(actual, wanted)

    @pytest.mark.parametrize("rubbish", RUBBISH)
    def test_layers(self, rubbish):
        rows, _ = sequences()
        mask = padded([np.ones(n, bool) for n in LENGTHS], "right", value=False)
        x = padded(rows, "right", value=rubbish)
        for layer in (layers.LSTM(5), layers.GlobalAveragePooling1D(), layers.GlobalMaxPooling1D(),
                      layers.Bidirectional(layers.GRU(4)), layers.TimeDistributed(layers.Dense(2))):
            wanted = layer(np.where(mask[..., None], x, 0), mask=mask)
            assert_same_bits(layer(x, mask=mask), wanted)

    @pytest.mark.parametrize("wrong", [-1, 10**6, -(2**62)])
    def test_ids_behind_a_mask(self, wrong):
        mask = make_mask("holes", 4, 6)
        ids = np.random.default_rng(0).integers(0, 9, mask.shape)
        layer, gradients, results = layers.Embedding(9, 4), [], []
        for value in (0, wrong):
            y, pullback = layer.vjp(np.where(mask, ids, value), mask=mask)
            results.append(y)
            gradients.append(pullback(np.where(mask[..., None], y, np.nan)).weights[0].dense())
        assert_same_bits(*results)
        assert_same_bits(*gradients)
        with pytest.raises(IndexError, match=str(wrong)):
            layer(np.where(mask, ids, wrong))


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("cell", ["SimpleRNN", "LSTM", "GRU"])
def test_distance_from_float64_over_long_sequences(cell):
    """bench/accuracy.py compares these figures with PyTorch's, for 10,000 steps too."""
    for name, distance in distances(cell, steps=1000).items():
        assert distance < 3e-6, name


@pytest.mark.parametrize("cell", ["simple_rnn", "lstm", "gru"])
def test_gradients_that_vanish_end_in_zeros(cell):
    rng = np.random.default_rng(5)
    gates = {"simple_rnn": 1, "lstm": 4, "gru": 3}[cell]
    x = fm.PackedSequence.from_padded(rng.standard_normal((2, 600, 4)).astype(np.float32))
    kernel, recurrent_kernel = (0.1 * rng.standard_normal((n, gates * 8)).astype(np.float32) for n in (4, 8))
    _, pullback = getattr(fm.ops, f"{cell}_vjp")(x, kernel, recurrent_kernel)
    d_states = [np.ones((2, 8), np.float32)] + [None] * (cell == "lstm")
    gradients = pullback(None, d_states).inputs
    size = np.abs(gradients)
    assert (size[-2:] > 0).any()
    assert (size[:2] == 0).all()
    assert not ((size > 0) & (size < np.finfo(np.float32).tiny)).any()
    # The caller's arithmetic is as it was.
    assert np.float32(1e-30) * np.float32(1e-10) > 0
