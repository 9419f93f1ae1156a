"""Masks of more than two axes in models: the words of the sentences of documents."""

import numpy as np
import pytest
from helpers.layers import normal, randomize
from helpers.nested import (
    DOCUMENTS,
    IDS,
    INNER,
    LABELS,
    RNG,
    SENTENCES,
    UNITS,
    VOCABULARY,
    WORDS,
    hierarchy,
    model_of,
    tagger,
)
from helpers.numeric import assert_same_bits, assert_weight_gradient

import fastmask as fm
from fastmask import PackedSequence, layers

pytestmark = pytest.mark.usefixtures("in_float64")


def document_by_document(model, document):
    """The result of `hierarchy` for the words of one document, sentence by sentence, without any padding."""
    table, lstm, gru, dense = (model.layers[i] for i in (1, 2, 3, 4))
    sentences = [sentence[sentence > 0] for sentence in document]
    vectors = [lstm.layer(table.embeddings.numpy()[s][None]) for s in sentences if s.size]
    return dense(gru(np.stack(vectors, axis=1)))[0]


@pytest.mark.parametrize("kind", INNER)
def test_last_outputs_are_those_of_each_sentence_alone(kind):
    model = model_of(lambda e: layers.TimeDistributed(INNER[kind]())(e))
    table, layer = model.layers[1].embeddings.numpy(), model.layers[2].layer
    y = model.predict(IDS)
    for sentence, found in zip(IDS.reshape(-1, WORDS), y.reshape(-1, y.shape[-1]), strict=True):
        words = sentence[sentence > 0]
        expected = layer(table[words][None])[0] if words.size else np.zeros_like(found)
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("kind", INNER)
def test_sequences_are_those_of_each_sentence_alone(kind):
    model = model_of(lambda e: layers.TimeDistributed(INNER[kind](return_sequences=True))(e))
    table, layer = model.layers[1].embeddings.numpy(), model.layers[2].layer
    y = model.run([IDS])[0][0]
    assert y.shape[:3] == IDS.shape
    padded, places = y.pad().reshape(-1, WORDS, y.shape[-1]), IDS.reshape(-1, WORDS) > 0
    for sentence, found, valid in zip(IDS.reshape(-1, WORDS), padded, places, strict=True):
        if valid.any() and kind != "backwards":
            np.testing.assert_allclose(found[valid], layer(table[sentence[valid]][None])[0], atol=1e-12)
    rows = PackedSequence.from_padded(table[IDS].reshape(-1, WORDS, 3), places)
    np.testing.assert_allclose(padded, layer(rows).pad(), atol=1e-12)


def test_a_step_counts_if_anything_within_it_does():
    model = model_of(hierarchy)
    for document, found in zip(IDS, model.predict(IDS), strict=True):
        np.testing.assert_allclose(found, document_by_document(model, document), atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", [hierarchy, tagger])
def test_a_document_has_the_same_bits_alone_and_in_any_padding(make, dtype):
    fm.config.set_floatx(dtype)
    model = model_of(make, (None, None))
    wide = np.zeros((DOCUMENTS, SENTENCES + 2, WORDS + 3), np.int64)
    wide[:, :SENTENCES, 2 : WORDS + 2] = IDS
    together, alone = model.predict(wide), [model.predict(document[None])[0] for document in IDS]
    for row, expected, ids in zip(together, alone, IDS, strict=True):
        if make is tagger:
            row, expected = row[:SENTENCES, 2 : WORDS + 2][ids > 0], expected[ids > 0]
        assert_same_bits(row, expected)


@pytest.mark.parametrize("shape", [(DOCUMENTS,), (DOCUMENTS, SENTENCES), IDS.shape, None])
def test_loss_and_metrics_see_words_only(shape):
    model = model_of(tagger)
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"], weighted_metrics=["accuracy"])
    weights = None if shape is None else RNG.random(shape)
    each = np.ones(IDS.shape)
    if shape is not None:
        each = np.broadcast_to(weights.reshape(*shape, *[1] * (3 - len(shape))), IDS.shape)
    p, valid = model.predict(IDS), IDS > 0
    losses = -np.log(np.take_along_axis(p, LABELS[..., None], -1)[..., 0])
    hits = p.argmax(axis=-1) == LABELS
    found = model.evaluate(IDS, LABELS, sample_weight=weights, verbose=0)
    weighted = (hits * each)[valid].sum() / each[valid].sum()
    np.testing.assert_allclose(found, [(losses * each)[valid].mean(), hits[valid].mean(), weighted], rtol=1e-6)
    rows = None if weights is None else list(weights) if len(shape) > 1 else weights
    assert model.evaluate(list(IDS), list(LABELS), sample_weight=rows, verbose=0) == pytest.approx(found)


def test_loss_of_sentences_leaves_out_empty_ones():
    model = model_of(lambda e: layers.Dense(3, activation="softmax")(layers.TimeDistributed(layers.LSTM(UNITS))(e)))
    model.compile("sgd", "sparse_categorical_crossentropy")
    labels = LABELS[:, :, 0]
    losses = -np.log(np.take_along_axis(model.predict(IDS), labels[..., None], -1)[..., 0])
    found = model.evaluate(IDS, labels, verbose=0)
    assert found == pytest.approx(losses[(IDS > 0).any(axis=-1)].mean())


@pytest.mark.parametrize("make", [hierarchy, tagger])
def test_lists_of_documents_are_the_padded_array(make):
    lengths = [3, 2, 3, 1]
    ids = IDS * (np.arange(SENTENCES)[:, None] < np.array(lengths)[:, None, None])
    rows = [document[:n] for document, n in zip(ids, lengths, strict=True)]
    y = LABELS if make is tagger else normal(DOCUMENTS, 2)
    y_rows = [labels[:n] for labels, n in zip(y, lengths, strict=True)] if make is tagger else y
    results = []
    for x, targets in ((ids, y), (rows, y_rows)):
        model = model_of(make)
        loss = "sparse_categorical_crossentropy" if make is tagger else "mse"
        model.compile(fm.optimizers.Adam(0.01), loss)
        model.fit(x, targets, epochs=2, batch_size=2, shuffle=False, verbose=0)
        score = model.evaluate(x, targets, verbose=0)
        results.append((model.get_weights(), score, model.predict(x, batch_size=3)))
    (weights, score, p), (listed, listed_score, listed_p) = results
    for a, b in zip(weights, listed, strict=True):
        assert_same_bits(a, b)
    assert score == listed_score
    for n, row, found in zip(lengths, p, listed_p, strict=True):
        assert_same_bits(found, row[:n] if make is tagger else row)


def test_lists_without_words_that_are_padding():
    x = fm.Input((None, WORDS), dtype="int32")
    e = layers.Embedding(VOCABULARY, 3)(x)
    model = randomize(fm.Model(x, layers.TimeDistributed(layers.LSTM(UNITS))(e)))
    found = model.predict([document[: i + 1] for i, document in enumerate(IDS[:3])])
    for i, (row, document) in enumerate(zip(found, IDS[:3], strict=True)):
        np.testing.assert_allclose(row, model.predict(document[None, : i + 1])[0], atol=1e-12)
    model.compile("sgd", "mse")
    model.fit([document[: i + 1] for i, document in enumerate(IDS[:3])], [normal(i, UNITS) for i in (1, 2, 3)])


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([IDS[0, 0], IDS[1]], r"\(t, 5\) of ids, got \(5,\)"),
        ([IDS[0], IDS[1, :, :4]], r"\(t, 5\) of ids, got \(3, 4\)"),
        ([np.concatenate([IDS[0]] * 2), IDS[1]], "at most 3 steps"),
    ],
)
def test_lists_of_other_shapes_are_refused(x, words):
    with pytest.raises(ValueError, match=words):
        model_of(tagger).predict(x)


def test_targets_of_a_list_have_an_entry_for_each_word():
    model = model_of(tagger)
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="y: expected one entry for each step of each sequence of x and 5 within it"):
        model.evaluate(list(IDS), list(LABELS[:, :, :4]), verbose=0)
    with pytest.raises(ValueError, match="y: expected one entry per step"):
        model.evaluate(IDS, LABELS[:, :, :4], verbose=0)


@pytest.mark.parametrize("make", [hierarchy, tagger])
def test_gradients_of_models(make):
    model = model_of(make)
    model.compile("sgd", "mse")
    y = normal(*((*IDS.shape, 3) if make is tagger else (DOCUMENTS, 2)))
    _, gradients = model.loss_and_gradients(IDS, y)
    for gradient, variable in zip(gradients, model.trainable_weights, strict=True):
        dense = gradient.dense() if isinstance(gradient, fm.ops.SparseRows) else gradient
        assert_weight_gradient(dense, lambda: model.loss_and_gradients(IDS, y)[0], variable)


def test_gradients_of_features_behind_masking():
    x = fm.Input((SENTENCES, WORDS, 2))
    model = randomize(fm.Model(x, hierarchy(layers.Masking()(x))))
    features = normal(*IDS.shape, 2) * (IDS > 0)[..., None]
    y, pullback = model.vjp(features)
    dy = normal(*y.shape)
    found = np.where((IDS > 0)[..., None], pullback(dy).inputs, 0)
    expected = np.zeros_like(features)
    for place in zip(*np.nonzero(IDS), strict=True):
        entry = features[place].copy()

        def total(place=place):
            return (model(features) * dy).sum()

        part = np.zeros(2)
        for i in range(2):
            ends = []
            for step in (1e-5, -1e-5):
                features[place] = entry
                features[place][i] += step
                ends.append(total())
            features[place] = entry
            part[i] = (ends[0] - ends[1]) / 2e-5
        expected[place] = part
    np.testing.assert_allclose(found, expected, atol=2e-8)


def test_explicit_masks_in_graphs_and_of_models():
    x, ids = fm.Input((SENTENCES, WORDS, 2)), fm.Input((SENTENCES, WORDS), dtype="int32")
    inner = layers.TimeDistributed(layers.LSTM(UNITS))
    model = fm.Model([x, ids], layers.GRU(UNITS)(inner(x, mask=ids != 0)))
    plain = fm.Model(x, layers.GRU(UNITS)(inner(x)))
    plain.set_weights(randomize(model).get_weights())
    features = normal(*IDS.shape, 2)
    features[IDS == 0] = np.nan
    # A mask that is passed to a call of a graph counts in that call alone, one passed to a model in all.
    sentences = fm.Model([x, ids], inner(x, mask=ids != 0)).predict([features, IDS])
    np.testing.assert_allclose(sentences, inner(features, mask=IDS > 0), atol=1e-12)
    found = plain(features, mask=IDS > 0)
    expected = model.layers[-1](sentences, mask=(IDS > 0).any(axis=-1))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(model.predict([features, IDS]), expected, atol=1e-12)


def test_ids_behind_a_mask_are_not_read():
    x = fm.Input((SENTENCES, WORDS), dtype="int32")
    model = randomize(fm.Model(x, hierarchy(layers.Embedding(VOCABULARY, 3)(x))))
    ids = np.where(IDS > 0, IDS, 10**6)
    assert_same_bits(model(ids, mask=IDS > 0), model(IDS, mask=IDS > 0))
    sentences = (IDS > 0).any(axis=-1)
    assert_same_bits(model(np.where(sentences[..., None], IDS, -1), mask=sentences), model(IDS, mask=sentences))


def test_a_mask_made_within_the_steps():
    ids = fm.Input((SENTENCES, WORDS), dtype="int32")
    outside = model_of(hierarchy)
    within = fm.Model(ids, hierarchy(layers.TimeDistributed(layers.Embedding(VOCABULARY, 3, mask_zero=True))(ids)))
    within.set_weights(outside.get_weights())
    assert_same_bits(within.predict(IDS), outside.predict(IDS))
    assert_same_bits(np.array(within.predict(list(IDS))), outside.predict(IDS))
    layer = within.layers[1]
    np.testing.assert_array_equal(layer.compute_mask(IDS), IDS > 0)
    assert_same_bits(layer(IDS), layer.layer.embeddings.numpy()[IDS])
    features = fm.Input((SENTENCES, WORDS, 2))
    masked = [layers.Masking(), layers.TimeDistributed(layers.Masking())]
    models = [randomize(fm.Model(features, hierarchy(layer(features)))) for layer in masked]
    x = normal(*IDS.shape, 2) * (IDS > 0)[..., None]
    assert_same_bits(models[1].predict(x), models[0].predict(x))


@pytest.mark.parametrize("listed", [False, True])
def test_a_mask_made_by_a_model_within_the_steps(listed):
    words = fm.Input((WORDS,), dtype="int32")
    e = layers.Embedding(VOCABULARY, 3, mask_zero=True)(words)
    inner = fm.Model(words, layers.GRU(3, return_sequences=True)(e))
    ids = fm.Input((SENTENCES, WORDS), dtype="int32")
    model = fm.Model(ids, hierarchy(layers.TimeDistributed(inner)(ids)))
    flat = model_of(lambda e: hierarchy(layers.TimeDistributed(layers.GRU(3, return_sequences=True))(e)))
    model.set_weights(flat.get_weights())
    found = np.array(model.predict(list(IDS) if listed else IDS))
    assert_same_bits(found, flat.predict(IDS))
    for m in (model, flat):
        m.compile("sgd", "mse")
        m.fit(list(IDS) if listed else IDS, np.ones((DOCUMENTS, 2)), shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), flat.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_masks_of_four_axes():
    ids = RNG.integers(0, VOCABULARY, (2, 3, 4, 5))
    ids[0, 1] = ids[1, 0, 2:] = 0
    x = fm.Input((3, 4, 5), dtype="int32")
    e = layers.Embedding(VOCABULARY, 3, mask_zero=True)(x)
    words = layers.TimeDistributed(layers.TimeDistributed(layers.LSTM(3)))
    sentences, paragraphs = layers.TimeDistributed(layers.GRU(3)), layers.LSTM(UNITS)
    found = [words(e), sentences(words(e)), paragraphs(sentences(words(e)))]
    assert [tensor.mask_axes for tensor in (e, *found)] == [4, 3, 2, 0]
    model = randomize(fm.Model(x, found[-1]))
    flat = words.layer.layer(model.layers[1].embeddings.numpy()[ids].reshape(-1, 5, 3), mask=ids.reshape(-1, 5) > 0)
    mask = (ids > 0).any(axis=-1)
    inner = sentences.layer(flat.reshape(-1, 4, 3), mask=mask.reshape(-1, 4))
    expected = paragraphs(inner.reshape(2, 3, 3), mask=mask.any(axis=-1))
    np.testing.assert_allclose(model.predict(ids), expected, atol=1e-12)
    assert_same_bits(model.predict(list(ids)), model.predict(ids))


@pytest.mark.parametrize("make", [hierarchy, tagger])
def test_files_and_configs(tmp_path, make):
    model = model_of(make)
    model.save(tmp_path / "model.keras")
    loaded = fm.models.load_model(tmp_path / "model.keras")
    assert len(loaded.operations) == len(model.operations)
    assert_same_bits(loaded.predict(IDS), model.predict(IDS))
    again = fm.Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    assert_same_bits(again.predict(IDS), model.predict(IDS))


def test_models_within_models():
    x = fm.Input((SENTENCES, WORDS, 3))
    inner = fm.Model(x, layers.TimeDistributed(layers.LSTM(UNITS))(layers.Dense(3)(x)))
    model = model_of(lambda e: layers.GRU(UNITS)(inner(e)))
    flat = model_of(lambda e: layers.GRU(UNITS)(layers.TimeDistributed(layers.LSTM(UNITS))(layers.Dense(3)(e))))
    flat.set_weights(model.get_weights())
    assert_same_bits(model.predict(IDS), flat.predict(IDS))
