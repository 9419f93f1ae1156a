"""Data of other libraries in fit, evaluate and predict: columns of lists, ragged tensors, loaders of any length."""

import subprocess
import sys

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers

pytestmark = pytest.mark.filterwarnings("default")

RNG = np.random.default_rng(7)
TOKENS = [RNG.integers(1, 12, n) for n in (3, 5, 1, 4, 5, 2, 3, 1, 4)]
TAGS = [RNG.integers(0, 3, len(row)) for row in TOKENS]
WEIGHTS = [RNG.random(len(row)) for row in TOKENS]
SOUNDS = [RNG.normal(size=(len(row), 2)).astype("float32") for row in TOKENS]
PADDED = fm.utils.pad_sequences(TOKENS, padding="post")
LABELS = PADDED.sum(axis=1) % 3
SIZE = 4


def lists(rows):
    return [row.tolist() for row in rows]


def pyarrow(rows, make=lambda pa, values: pa.array(values)):
    return make(pytest.importorskip("pyarrow"), lists(rows))


def large(pa, values):
    return pa.array(values).cast(pa.large_list(pa.array(values).type.value_type))


def views(pa, values):
    return pa.array(values, pa.list_view(pa.array(values).type.value_type))


def chunked(pa, values):
    return pa.chunked_array([values[:2], values[2:]])


def polars(rows):
    return pytest.importorskip("polars").Series(lists(rows))


def pandas(rows):
    return pytest.importorskip("pandas").Series(lists(rows))


def ragged(rows):
    tf = pytest.importorskip("tensorflow")
    return tf.RaggedTensor.from_row_lengths(np.concatenate(rows), [len(row) for row in rows])


def nested(rows):
    torch = pytest.importorskip("torch")
    return torch.nested.nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)


def tensors(rows):
    torch = pytest.importorskip("torch")
    return [torch.tensor(row) for row in rows]


def datasets(rows, library=None):
    dataset = pytest.importorskip("datasets").Dataset.from_dict({"column": lists(rows)})
    return dataset.with_format(library)["column"]


COLUMNS = {
    "pyarrow": pyarrow,
    "large lists": lambda rows: pyarrow(rows, large),
    "list views": lambda rows: pyarrow(rows, views),
    "chunks": lambda rows: pyarrow(rows, chunked),
    "scalars": lambda rows: list(pyarrow(rows)),
    "polars": polars,
    "pandas": pandas,
    "tensorflow": ragged,
    "torch": nested,
    "tensors": tensors,
    "datasets": datasets,
    **{f"datasets as {library}": lambda rows, library=library: datasets(rows, library)
       for library in ("numpy", "torch", "tensorflow", "arrow", "polars", "pandas")},
}  # fmt: skip


def classifier():
    fm.utils.set_random_seed(0)
    chain = [layers.Embedding(12, 4, mask_zero=True), layers.LSTM(5), layers.Dense(3, activation="softmax")]
    return compiled(chain, (None,))


def tagger():
    fm.utils.set_random_seed(0)
    chain = [layers.Embedding(12, 4, mask_zero=True), layers.LSTM(5, return_sequences=True), layers.Dense(3, "softmax")]
    return compiled(chain, (None,))


def compiled(chain, shape):
    model = fm.Sequential([fm.Input(shape), *chain])
    model.compile(fm.optimizers.SGD(0.1), "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    return model


def same_rows(found, wanted):
    assert len(found) == len(wanted)
    for row, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(row, other)


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
class TestColumns:
    def test_tokens_tags_and_weights(self, column):
        options = {"batch_size": SIZE, "epochs": 2, "verbose": 0}
        x, y, weights = column(TOKENS), column(TAGS), column(WEIGHTS)
        wanted = tagger()
        first = wanted.fit(TOKENS, TAGS, sample_weight=WEIGHTS, validation_data=(TOKENS, TAGS), **options).history
        model = tagger()
        second = model.fit(x, y, sample_weight=weights, validation_data=(x, y), **options).history
        assert second == first
        assert model.evaluate(x, y, verbose=0) == wanted.evaluate(TOKENS, TAGS, verbose=0)
        same_rows(model.predict(x), wanted.predict(TOKENS))
        same_rows(model.predict_on_batch(x), wanted.predict_on_batch(TOKENS))
        same_rows(model(x), wanted(TOKENS))

    def test_features_of_each_step(self, column):
        chain = [layers.LSTM(5), layers.Dense(3, activation="softmax")]
        model = compiled(chain, (None, 2))
        np.testing.assert_array_equal(model.predict(column(SOUNDS)), model.predict(SOUNDS))

    def test_held_out_rows(self, column):
        options = {"validation_split": 0.3, "verbose": 0}
        first = tagger().fit(TOKENS, TAGS, **options).history
        assert tagger().fit(column(TOKENS), column(TAGS), **options).history == first


def test_columns_of_numbers():
    pa, pd, pl = map(pytest.importorskip, ("pyarrow", "pandas", "polars"))
    table = pytest.importorskip("datasets").Dataset.from_dict({"column": LABELS.tolist()})
    wanted = classifier().fit(PADDED, LABELS, verbose=0).history
    for y in (pa.array(LABELS), pa.chunked_array([LABELS]), pd.Series(LABELS), pl.Series(LABELS), table["column"]):
        assert classifier().fit(PADDED, y, verbose=0).history == wanted


def test_fixed_sizes_of_features():
    pa = pytest.importorskip("pyarrow")
    column = pa.array(lists(SOUNDS), pa.list_(pa.list_(pa.float32(), 2)))
    model = compiled([layers.LSTM(5), layers.Dense(3)], (None, 2))
    np.testing.assert_array_equal(model.predict(column), model.predict(SOUNDS))
    np.testing.assert_array_equal(model.predict(column[2:6]), model.predict(SOUNDS[2:6]))


def test_no_value_is_copied_out_of_arrow():
    pa = pytest.importorskip("pyarrow")
    from fastmask.batch.rows import as_rows

    values = np.arange(12.0)
    steps = pa.FixedSizeListArray.from_arrays(pa.array(values), 2)
    for column in (pa.ListArray.from_arrays([0, 2, 6], steps), pa.ListArray.from_arrays([0, 5, 12], pa.array(values))):
        assert all(np.shares_memory(row, values) for row in as_rows("x", column))


def test_rows_that_are_missing():
    pa, pl = pytest.importorskip("pyarrow"), pytest.importorskip("polars")
    for column in (pa.array([[1], None]), pl.Series([[1], None])):
        with pytest.raises(TypeError, match=r"x\[1\]: expected numbers, got NoneType"):
            classifier().predict(column)


def test_text_in_a_column():
    pd, table = pytest.importorskip("pandas"), pytest.importorskip("datasets").Dataset.from_dict({"text": ["a b", "c"]})
    for x in (pd.Series(["a b", "c"]), table["text"]):
        with pytest.raises(TypeError, match=r"x\[0\]: expected numbers, got text such as 'a b'; words and classes"):
            classifier().predict(x)


@pytest.fixture
def wanted():
    """What training on the padded rows gives, batch by batch in their order."""
    model = classifier()
    history = model.fit(PADDED, LABELS, batch_size=SIZE, epochs=2, shuffle=False, verbose=0).history
    return history, model.predict(PADDED)


def check(wanted, source):
    """A loader of batches gives what the rows themselves give, in every place that takes data."""
    history, outputs = wanted
    model = classifier()
    found = model.fit(source, epochs=2, validation_data=source, shuffle=False, verbose=0).history
    np.testing.assert_allclose(found["loss"], history["loss"], rtol=1e-5)
    np.testing.assert_allclose(model.predict(source), outputs, rtol=1e-5)
    logs = model.evaluate(source, verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(found["val_loss"][-1])


class TestTorchLoaders:
    def test_of_a_tensor_dataset(self, wanted):
        torch = pytest.importorskip("torch")
        rows = torch.utils.data.TensorDataset(torch.tensor(PADDED), torch.tensor(LABELS))
        check(wanted, torch.utils.data.DataLoader(rows, batch_size=SIZE))

    def test_of_lists_of_tensors(self, wanted):
        torch = pytest.importorskip("torch")

        def collate(rows):
            return [torch.nested.nested_tensor([x for x, _ in rows]), torch.tensor([y for _, y in rows])]

        rows = [(torch.tensor(x), y) for x, y in zip(TOKENS, LABELS, strict=True)]
        check(wanted, torch.utils.data.DataLoader(rows, batch_size=SIZE, collate_fn=collate))
        tuples = torch.utils.data.DataLoader(rows, SIZE, collate_fn=lambda part: tuple(zip(*part, strict=True)))
        check(wanted, tuples)

    def test_without_a_length(self, wanted):
        data = pytest.importorskip("torch.utils.data")

        class Stream(data.IterableDataset):
            def __iter__(self):
                return zip(PADDED, LABELS, strict=True)

        check(wanted, data.DataLoader(Stream(), batch_size=SIZE))

    def test_rows_of_x_alone(self):
        torch = pytest.importorskip("torch")
        model = tagger()
        loader = torch.utils.data.DataLoader(tensors(TOKENS), batch_size=2, collate_fn=list)
        same_rows(model.predict(loader), model.predict(TOKENS))

    def test_a_dataset_is_no_loader(self):
        torch = pytest.importorskip("torch")
        rows = torch.utils.data.TensorDataset(torch.tensor(PADDED))
        with pytest.raises(TypeError, match=r"x: expected an array, rows or an iterable of batches, got TensorDataset"):
            classifier().predict(rows)


class TestTensorFlowDatasets:
    def rows(self):
        tf = pytest.importorskip("tensorflow")
        kinds = (tf.TensorSpec([None], tf.int64), tf.TensorSpec([], tf.int64))
        return tf.data.Dataset.from_generator(lambda: zip(TOKENS, LABELS, strict=True), output_signature=kinds)

    def test_padded_batches(self, wanted):
        check(wanted, self.rows().padded_batch(SIZE))

    def test_ragged_batches(self, wanted):
        check(wanted, self.rows().ragged_batch(SIZE))

    def test_buckets(self):
        tf = pytest.importorskip("tensorflow")
        buckets = self.rows().bucket_by_sequence_length(lambda x, y: tf.shape(x)[0], [3, 5], [SIZE] * 3)
        model, batches = classifier(), list(buckets)
        history = model.fit(buckets, epochs=2, verbose=0).history
        assert history == classifier().fit(Again(batches), epochs=2, verbose=0).history
        assert len(model.predict(buckets)) == len(TOKENS)

    @pytest.mark.parametrize("known", [False, True])
    def test_an_epoch_of_some_steps(self, known):
        """Epochs go on where the one before stopped, and end with the data, which then begins anew."""
        source, seen = self.rows().padded_batch(SIZE), []
        source = source.apply(lambda d: d if not known else d.take(3).cache())
        count = fm.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
        with pytest.warns(UserWarning, match="x has run out of batches after 1 of 2 steps"):
            classifier().fit(source, epochs=4, steps_per_epoch=2, callbacks=[count], verbose=0)
        assert seen == [0, 1, 0, 0, 1, 0]


class Again:
    """Batches that can be gone through again, without a length."""

    def __init__(self, batches):
        self.batches_made = batches

    def __iter__(self):
        return iter(self.batches_made)


def test_a_whole_dataset_is_refused():
    dataset = pytest.importorskip("datasets").Dataset.from_dict({"tokens": lists(TOKENS), "y": LABELS.tolist()})
    with pytest.raises(ValueError, match=r"x: expected batches \(x, y\) or .*, got dict as batch 1"):
        classifier().fit(dataset, verbose=0)


def test_nothing_is_imported():
    code = (
        "import sys, fastmask as fm\n"
        "m = fm.Sequential([fm.layers.Embedding(5, 2, mask_zero=True), fm.layers.LSTM(2)])\n"
        "m.compile('sgd', 'mse')\n"
        "m.fit([[1, 2], [3]], [[0.0, 1.0]] * 2, verbose=0), m.predict((x for x in [[[1], [2, 3]]]))\n"
        "print({'torch', 'tensorflow', 'pandas', 'polars', 'pyarrow', 'datasets', 'keras', 'jax'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
