"""Iterables of batches: of unknown length, of lists in place of tuples, of no rows, of what is no batch."""

import itertools

import numpy as np
import pytest

import fastmask as fm
from fastmask import callbacks, layers

IDS = [[1, 2], [3], [2, 4, 1], [4], [1, 3]]
X = np.random.default_rng(0).normal(size=(6, 2)).astype("float32")
Y = X.sum(axis=1, keepdims=True)
BATCHES = [(X[i : i + 2], Y[i : i + 2]) for i in (0, 2, 4)]


def make(inputs=1):
    fm.utils.set_random_seed(2)
    starts = [fm.Input((2,)) for _ in range(inputs)]
    joined = layers.Add()(starts) if inputs > 1 else starts[0]
    model = fm.Model(starts if inputs > 1 else joined, layers.Dense(1)(joined))
    model.compile("sgd", "mse")
    return model


def tagger(return_sequences=True):
    fm.utils.set_random_seed(2)
    chain = [layers.Embedding(5, 2, mask_zero=True), layers.LSTM(3, return_sequences=return_sequences)]
    model = fm.Sequential([fm.Input((None,)), *chain])
    model.compile("sgd", "mse")
    return model


class Loader:
    """Batches that can be gone through again, whose number is not known."""

    def __init__(self, batches=BATCHES):
        self.items = batches
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        return iter(self.items)


class UnknownLength(Loader):
    def __len__(self):
        raise TypeError("The dataset length is unknown.")


class Seen(callbacks.Callback):
    def __init__(self):
        self.batches = []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(batch)


@pytest.mark.parametrize("kind", [Loader, UnknownLength])
def test_a_loader_of_unknown_length(kind):
    model, loader = make(), kind()
    history = model.fit(loader, epochs=2, validation_data=loader, verbose=0)
    assert history.params["steps"] is None
    assert history.history == make().fit(X, Y, 2, 2, validation_data=(X, Y), shuffle=False, verbose=0).history
    np.testing.assert_array_equal(model.predict(loader), model.predict(X))
    assert model.evaluate(loader, verbose=0) == history.history["val_loss"][-1]


def test_the_first_epoch_tells_the_bar_how_many_there_are(monkeypatch):
    import tqdm

    totals = []
    original = tqdm.tqdm
    monkeypatch.setattr(tqdm, "tqdm", lambda **options: totals.append(options["total"]) or original(**options))
    make().fit(Loader(), epochs=3, validation_data=Loader(), verbose=1)
    assert totals == [None, 3, 3]
    totals.clear()
    make().evaluate(Loader(), verbose=1)
    make().predict(Loader(), verbose=1)
    assert totals == [None, None]


@pytest.mark.parametrize("kind", [Loader, UnknownLength])
def test_epochs_of_some_steps_begin_anew_when_the_batches_are_used_up(kind):
    loader, seen = kind(), Seen()
    with pytest.warns(UserWarning, match="x has run out of batches after 1 of 2 steps"):
        make().fit(loader, epochs=4, steps_per_epoch=2, callbacks=[seen], verbose=0)
    assert seen.batches == [0, 1, 0, 0, 1, 0]
    assert loader.passes == 2


def test_a_generator_that_is_used_up_does_not():
    with (
        pytest.warns(UserWarning, match="x has run out of batches after 1 of 2 steps"),
        pytest.raises(ValueError, match="x: expected batches in every epoch, got none"),
    ):
        make().fit(iter(BATCHES), epochs=3, steps_per_epoch=2, verbose=0)


def test_a_dataset_without_an_end():
    class Endless(fm.utils.PyDataset):
        num_batches = None

        def __getitem__(self, index):
            return BATCHES[index % 3]

    for workers in (0, 2):
        seen = Seen()
        model = make()
        model.fit(Endless(workers=workers), epochs=3, steps_per_epoch=4, callbacks=[seen], verbose=0)
        assert seen.batches == [0, 1, 2, 3] * 3
        wanted = make()
        wanted.fit(itertools.cycle(BATCHES), epochs=3, steps_per_epoch=4, verbose=0)
        np.testing.assert_array_equal(model.get_weights()[0], wanted.get_weights()[0])


class TestListsOfXAndY:
    """Loaders of PyTorch make lists where others make tuples."""

    def test_of_rows(self):
        loader, model = Loader([list(batch) for batch in BATCHES]), make()
        weighted = Loader([[x, y, np.ones(len(x))] for x, y in BATCHES])
        wanted = make().fit(Loader(), validation_data=Loader(), verbose=0).history
        assert model.fit(loader, validation_data=weighted, verbose=0).history == wanted
        np.testing.assert_array_equal(model.predict(loader), model.predict(X))
        assert model.evaluate(loader, verbose=0) == wanted["val_loss"][0]

    def test_of_several_inputs(self):
        model = make(inputs=2)
        wanted = model.predict([X, X])
        for items in ([[x, x], y] for x, y in BATCHES), ([x, x] for x, _ in BATCHES), (([x, x],) for x, _ in BATCHES):
            np.testing.assert_array_equal(model.predict(Loader(list(items))), wanted)
        model.fit(Loader([[[x, x], y] for x, y in BATCHES]), verbose=0)

    @pytest.mark.parametrize("size", [1, 2, 3, 5])
    def test_rows_of_x_alone(self, size):
        model = tagger()
        wanted = model.predict(IDS)
        rows = [np.array(row) for row in IDS]
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        for items in (parts, [(part,) for part in parts], [[row.tolist() for row in part] for part in parts]):
            found = model.predict(Loader(items))
            for row, other in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(row, other)

    def test_lists_of_sequences_in_a_list(self):
        model = tagger()
        targets = model.predict(IDS)
        items = [[IDS[i : i + 2], targets[i : i + 2]] for i in (0, 2, 4)]
        assert model.evaluate(Loader(items), verbose=0) == pytest.approx(0)
        assert len(model.predict(Loader(items))) == 5

    def test_of_a_model_that_is_not_built(self):
        model = fm.Sequential([layers.Dense(1)])
        model.compile("sgd", "mse")
        model.fit(Loader([list(batch) for batch in BATCHES]), verbose=0)
        assert model.input_shape == (None, 2)


class TestNoRows:
    def test_predictions(self):
        model, sequences = make(), tagger()
        assert model.predict(X[:0]).shape == model(X[:0]).shape == model.predict_on_batch(X[:0]).shape == (0, 1)
        assert model.predict([]).shape == (0, 1)
        assert sequences.predict(np.zeros((0, 4), int)).shape == (0, 4, 3)
        assert sequences.predict(np.zeros((0, 0), int)).shape == (0, 0, 3)
        assert len(sequences.predict([])) == len(sequences([])) == len(sequences.predict_on_batch([])) == 0
        assert [part.shape for part in model.predict_batches(X[:0])] == [(0, 1)]
        assert tagger(return_sequences=False).predict([]).shape == (0, 3)
        assert make(inputs=2).predict([X[:0], X[:0]]).shape == (0, 1)

    def test_a_part_of_a_stream(self):
        model, sequences = make(), tagger()
        np.testing.assert_array_equal(model.predict(Loader([X[:2], X[:0], X[2:]])), model.predict(X))
        found = sequences.predict(Loader([IDS[:2], IDS[2:]]))
        for empty_first in ([[], IDS], [IDS, []]):
            for row, other in zip(sequences.predict(Loader(empty_first)), found, strict=True):
                np.testing.assert_array_equal(row, other)

    @pytest.mark.parametrize(
        "call",
        [
            lambda model: model.fit(X[:0], Y[:0], verbose=0),
            lambda model: model.fit(X, Y, validation_data=(X[:0], Y[:0]), verbose=0),
            lambda model: model.fit(Loader([(X[:0], Y[:0])]), verbose=0),
            lambda model: model.evaluate(X[:0], Y[:0], verbose=0),
            lambda model: model.train_on_batch(X[:0], Y[:0]),
            lambda model: model.test_on_batch([], []),
        ],
    )
    def test_there_is_nothing_to_learn_from(self, call):
        with pytest.raises(ValueError, match="x: expected at least one row with targets, got none"):
            call(make())

    def test_a_model_that_is_not_built(self):
        with pytest.raises(ValueError, match="x: expected at least one row to build the model with, got none"):
            fm.Sequential([layers.Dense(1)]).predict([])

    def test_no_batches(self):
        with pytest.raises(ValueError, match="x: expected batches in every epoch, got none"):
            make().fit(Loader([]), verbose=0)


@pytest.mark.parametrize(
    ("item", "got"),
    [
        (None, "NoneType as batch 1"),
        ((), "0 entries"),
        ((X, Y, None, None), "4 entries"),
        (X, "ndarray as batch 1"),
        ((X,), "tuple as batch 1"),
        ({"x": X}, "dict as batch 1"),
        ([X, Y, Y, Y], "list as batch 1"),
        ("text", "str as batch 1"),
    ],
)
def test_what_is_no_batch(item, got):
    for call in (make().fit, make().evaluate, lambda x, verbose: make().fit(X, Y, validation_data=x, verbose=verbose)):
        with pytest.raises(ValueError, match=rf"x: expected batches \(x, y\) or \(x, y, sample_weight\), got {got}"):
            call(Loader([item]), verbose=0)


def test_text():
    for x in ("good film", ["good film"], np.array(["good film"]), [["good", "film"]]):
        for call in (make().predict, make().fit, make(), tagger().predict):
            with pytest.raises(TypeError, match=r"x.*: expected .*, got text such as 'good.*; words and classes"):
                call(x)
    with pytest.raises(TypeError, match=r"y\[0\]: expected numbers, got text such as 'cat'"):
        make().fit(X, ["cat"] * 6)
    with pytest.raises(TypeError, match="x: expected numbers, got text such as 'film'"):
        make().predict(Loader(["film"]))


class TestIllegalIds:
    """The error tells the row in all data, in whatever order the batches have them."""

    IDS = ((1, 2), (3,), (2, 9, 1), (4,), (1, 3))
    Y = np.zeros((5, 3))

    @pytest.mark.parametrize("form", [list, fm.utils.pad_sequences])
    def test_in_rows(self, form):
        model, x, good = tagger(return_sequences=False), form(self.IDS), form(IDS)
        for call in (
            lambda: model.predict(x, batch_size=1),
            lambda: model.fit(x, self.Y, batch_size=2, verbose=0),
            lambda: model.fit(x, self.Y, batch_size=2, shuffle=False, verbose=0),
            lambda: model.fit(x, self.Y, validation_split=0.7, batch_size=1, verbose=0),
            lambda: model.fit(good, self.Y, validation_data=(x, self.Y), batch_size=2, verbose=0),
            lambda: model.evaluate(x, self.Y, batch_size=2, verbose=0),
        ):
            with pytest.raises(IndexError, match="ids: expected ids from 0 to 4, got 9 in row 2 of x, position 1"):
                call()

    def test_in_batches(self):
        with pytest.raises(IndexError, match="got 9 in row 0 of the batch, position 1"):
            tagger().predict(Loader([list(self.IDS[:2]), list(self.IDS[2:])]))
        with pytest.raises(IndexError, match="got 9 in row 2 of the batch, position 1"):
            tagger()(self.IDS)
