"""Warnings of models in which padding counts because a merging layer lost a mask."""

import copy
import json
import warnings
import zipfile

import numpy as np
import pytest

import fastmask as fm
from fastmask import layers

ELEMENTWISE = (layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum)
IDS = np.array([[3, 4, 5, 0, 0], [1, 2, 0, 0, 0]])
NUMBERS = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)


@pytest.fixture
def branches():
    """Word ids, numbers, embedded words with a mask, and numbers without one."""
    ids, numbers = fm.Input((None,), dtype="int32", name="ids"), fm.Input((None, 3), name="numbers")
    words = layers.Embedding(9, 3, mask_zero=True, name="words")(ids)
    return ids, numbers, words, layers.Dense(3, name="sizes")(numbers)


def quiet(inputs, outputs):
    """A model that is built without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return fm.Model(inputs, outputs)


@pytest.mark.parametrize("merge", [*ELEMENTWISE, layers.Concatenate])
@pytest.mark.parametrize("order", [1, -1])
def test_a_masked_branch_beside_an_unmasked_one(merge, order, branches):
    ids, numbers, words, sizes = branches
    y = layers.LSTM(2)(merge(name="both")([words, sizes][::order]))
    message = rf"layer 'both' \({merge.__name__}\) loses the mask of 'words', since there is none of 'sizes': .* mask="
    with pytest.warns(UserWarning, match=message) as told:
        model = fm.Model([ids, numbers], y)
    assert len(told) == 1
    assert told[0].filename == __file__
    quiet([ids, numbers], y)
    copy.deepcopy(model)


def test_the_value_is_that_of_keras(branches):
    ids, numbers, words, sizes = branches
    lstm = layers.LSTM(2)
    both = layers.Concatenate()([words, sizes])
    with pytest.warns(UserWarning, match="loses the mask"):
        lossy = fm.Model([ids, numbers], lstm(both))
    unmasked = quiet([ids, numbers], lstm(layers.Concatenate()([layers.DropMask()(words), sizes])))
    np.testing.assert_array_equal(lossy.predict([IDS, NUMBERS]), unmasked.predict([IDS, NUMBERS]))


def test_a_mask_that_is_passed_further_on_makes_up_for_it(branches):
    ids, numbers, words, sizes = branches
    both = layers.Activation("tanh")(layers.Concatenate()([words, sizes]))
    model = quiet([ids, numbers], layers.LSTM(2)(both, mask=ids != 0))
    changed = np.where((IDS == 0)[..., None], 7, NUMBERS)
    np.testing.assert_array_equal(model.predict([IDS, NUMBERS]), model.predict([IDS, changed]))
    with pytest.warns(UserWarning, match="loses the mask"):
        fm.Model([ids, numbers], [layers.LSTM(2)(both, mask=ids != 0), layers.GlobalMaxPooling1D()(both)])


def test_a_loss_goes_on_through_states_and_inner_models(branches):
    ids, numbers, words, sizes = branches
    _, h, c = layers.LSTM(2, return_state=True)(layers.Add()([words, sizes]))
    with pytest.warns(UserWarning, match="loses the mask"):
        fm.Model([ids, numbers], layers.LSTM(2)(sizes, initial_state=[h, c]))
    inside = fm.Input((None, 3))
    inner = fm.Model(inside, layers.GRU(2)(inside))
    with pytest.warns(UserWarning, match="loses the mask"):
        fm.Model([ids, numbers], inner(layers.Add()([words, sizes])))


def test_nothing_is_said_where_nothing_is_lost(branches):
    ids, numbers, words, sizes = branches
    masked = layers.Masking()(numbers)
    vector = layers.GlobalMaxPooling1D()(words)
    for outputs in (
        layers.Concatenate(axis=1)([words, sizes]),
        layers.Concatenate()([words, masked]),
        layers.Add()([sizes, numbers]),
        layers.Add()([words, sizes], mask=[ids != 0, ids != 0]),
        layers.Concatenate(mask_mode="and")([words, sizes]),
        layers.Add(mask_mode="drop")([words, sizes]),
        layers.Concatenate()([layers.DropMask()(words), sizes]),
        layers.DropMask()(layers.Concatenate()([words, sizes])),
        layers.Concatenate()([vector, layers.GlobalMaxPooling1D()(sizes)]),
    ):
        quiet([ids, numbers], outputs)


def test_a_vector_takes_the_mask_of_steps_away(branches):
    ids, numbers, words, sizes = branches
    vector = layers.GlobalMaxPooling1D(name="largest")(sizes)
    with pytest.warns(UserWarning, match="loses the mask of 'words', since there is none of 'largest'"):
        fm.Model([ids, numbers], layers.LSTM(2)(layers.Add()([words, vector])))


def test_files_tell_as_the_keras_that_wrote_them(branches, tmp_path):
    pytest.importorskip("h5py")
    ids, numbers, words, sizes = branches
    with pytest.warns(UserWarning, match="loses the mask"):
        model = fm.Model([ids, numbers], layers.LSTM(2)(layers.Concatenate(name="both")([words, sizes])))
    model.save(tmp_path / "new.keras")
    with pytest.warns(UserWarning, match="layer 'both' .* loses the mask of 'words', since there is none of 'sizes'"):
        fm.models.load_model(tmp_path / "new.keras")
    with zipfile.ZipFile(tmp_path / "new.keras") as new, zipfile.ZipFile(tmp_path / "old.keras", "w") as old:
        for name in new.namelist():
            content = new.read(name)
            if name == "metadata.json":
                content = json.dumps(json.loads(content) | {"keras_version": "2.13.1"}).encode()
            old.writestr(name, content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fm.models.load_model(tmp_path / "old.keras").get_layer("both").mask_mode == "and"
