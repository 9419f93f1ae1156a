"""Modules of PyTorch as models: the same predictions, whatever the module is made of and whatever its forward does."""

import numpy as np
import pytest

import fastmask as fm

torch = pytest.importorskip("torch")

from helpers import torch_modules as made  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

FEATURES, UNITS, WORDS = 4, 3, 11
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, WORDS, (5, 7))
X = RNG.normal(size=(5, 7, FEATURES)).astype(np.float32)


def predicted(module, *inputs):
    with torch.no_grad():
        found = module.eval()(*map(torch.from_numpy, inputs))
    return (found[0] if isinstance(found, tuple) else found).numpy()


def compare(module, *inputs, time_major=False, tolerance=2e-6, **options):
    """The model gives what the module gives; with the time first, from and to arrays with the batch first."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    model = fm.convert.from_torch(module, **options)
    turned = [value.swapaxes(0, 1) for value in inputs] if time_major else inputs
    expected = predicted(module, *map(np.ascontiguousarray, turned))
    found = model.predict(list(inputs) if len(inputs) > 1 else inputs[0], batch_size=2)
    expected = expected.swapaxes(0, 1) if time_major and expected.shape != found.shape else expected
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    assert found.dtype == expected.dtype
    return model


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("number", [1, 3])
def test_recurrent_modules(kind, bidirectional, bias, batch_first, number):
    dropout = 0.5 if number > 1 else 0.0
    module = kind(FEATURES, UNITS, number, bias=bias, batch_first=batch_first, dropout=dropout,
                  bidirectional=bidirectional)
    model = compare(module, X, time_major=not batch_first)
    assert sum(isinstance(layer, fm.layers.Dropout) for layer in model.layers) == (number - 1)
    for dtype in (torch.float32, torch.float64):
        inner = kind(FEATURES, UNITS, number, bias=bias, batch_first=batch_first)
        wide = nn.Sequential(nn.Embedding(WORDS, FEATURES), inner).to(dtype)
        compare(wide, IDS, time_major=not batch_first, tolerance=2e-6 if dtype is torch.float32 else 1e-12)


def test_relu():
    compare(nn.RNN(FEATURES, UNITS, nonlinearity="relu", batch_first=True), X)


ACTIVATIONS = [
    nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.SiLU(), nn.GELU(), nn.ELU(), nn.SELU(), nn.Softplus(), nn.Softsign(),
    nn.Hardsigmoid(), nn.Softmax(-1), nn.Softmax(1), nn.ReLU(inplace=True), nn.Identity(),
]  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_stacks_of_layers(activation):
    inner = nn.Sequential(nn.Linear(6, 5, bias=False), activation, nn.Dropout(0.3))
    module = nn.Sequential(nn.Linear(FEATURES, 6), nn.LayerNorm(6), nn.Sequential(inner, nn.Tanh()), nn.Linear(5, 2))
    compare(module, X[:, 0])
    compare(nn.Sequential(nn.Linear(FEATURES, 6), activation), X[:, 0])
    if not isinstance(activation, nn.Softmax):
        compare(module, X, input_shape=(None, FEATURES))


def test_an_activation_becomes_a_part_of_the_layer_before():
    model = compare(nn.Sequential(nn.Linear(FEATURES, 6), nn.ReLU(), nn.Linear(6, 1), nn.Sigmoid()), X[:, 0])
    assert [layer.name for layer in model.layers[1:]] == ["0", "2"]
    assert [layer.activation for layer in model.layers[1:]] == ["relu", "sigmoid"]


@pytest.mark.parametrize("affine", [False, True])
def test_normalization(affine):
    bare = nn.LayerNorm(FEATURES, elementwise_affine=affine)
    compare(nn.Sequential(bare, nn.LayerNorm(FEATURES, bias=False), nn.Linear(FEATURES, 2)), X[:, 0])
    batch = nn.BatchNorm1d(FEATURES, affine=affine)
    batch.running_mean[:], batch.running_var[:] = torch.randn(FEATURES), torch.rand(FEATURES) + 0.5
    compare(nn.Sequential(batch, nn.Linear(FEATURES, 2)), X[:, 0])


def test_flattened_steps():
    module = nn.Sequential(nn.Embedding(WORDS, FEATURES), nn.Flatten(), nn.Linear(7 * FEATURES, 2))
    compare(module, IDS, input_shape=(7,))


@pytest.mark.parametrize("name", made.FORWARDS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_forwards(name, batch_first, bidirectional):
    forward = made.FORWARDS[name]
    one_way = name in made.ONE_WAY
    if (one_way and bidirectional) or (name in made.BATCH_FIRST and not batch_first):
        pytest.skip("is refused")
    module = made.Tagger(forward, WORDS, FEATURES, UNITS, batch_first, bidirectional)
    compare(module, IDS, time_major=not batch_first)


def test_what_is_not_needed_is_not_computed():
    """Last states are taken as the layers of one's own models give them, so that they are as fast."""
    module = made.Tagger(made.FORWARDS["last states"], WORDS, FEATURES, UNITS, True, False)
    last = fm.convert.from_torch(module).get_layer("rnn_l1")
    assert (last.return_sequences, last.return_state) == (False, False)
    module = made.Tagger(made.FORWARDS["both directions"], WORDS, FEATURES, UNITS, True, True)
    last = fm.convert.from_torch(module).get_layer("rnn_l1")
    assert (last.return_sequences, last.return_state) == (False, False)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_states_from_another_module(kind, bidirectional):
    compare(made.Translator(kind, WORDS, FEATURES, UNITS, bidirectional), IDS, IDS[:, ::-1].copy())


def padded(lengths, padding):
    ids = RNG.integers(padding + 1, WORDS, IDS.shape)
    ids[np.arange(IDS.shape[1]) >= np.array(lengths)[:, None]] = padding
    return ids


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_sequences(kind, padding, bidirectional):
    """The mask takes the place of the lengths; rows may be lists."""
    lengths = np.array([3, 7, 1, 5, 4])
    ids = padded(lengths, padding)
    module = made.Packing(kind, WORDS, FEATURES, UNITS, bidirectional, padding)
    model = fm.convert.from_torch(module)
    assert [tensor.history.layer.name for tensor in model.inputs] == ["ids"]
    expected = predicted(module, ids, lengths)
    np.testing.assert_allclose(model.predict(ids), expected, rtol=0, atol=2e-6)
    rows = [row[:length] for row, length in zip(ids, lengths, strict=True)]
    np.testing.assert_allclose(model.predict(rows), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("padding", [0, 2])
def test_padding_counts_as_in_pytorch_unless_it_is_masked(padding):
    lengths = [3, 7, 1, 5, 4]
    ids = padded(lengths, padding)
    module = nn.Sequential(nn.Embedding(WORDS, FEATURES, padding), nn.LSTM(FEATURES, UNITS, 2, batch_first=True))
    compare(module, ids)
    masked = fm.convert.from_torch(module, mask_padding=True)
    for row, length in zip(ids, lengths, strict=True):
        alone = predicted(module, row[None, :length])
        np.testing.assert_allclose(masked.predict(row[None])[:, :length], alone, rtol=0, atol=2e-6)
    with pytest.raises(ValueError, match="mask_padding: expected an Embedding with a padding_idx"):
        fm.convert.from_torch(nn.Sequential(nn.Embedding(WORDS, FEATURES), nn.GRU(FEATURES, UNITS)), mask_padding=True)


def test_the_module_stays_as_it_is():
    module = made.Tagger(made.FORWARDS["zeros"], WORDS, FEATURES, UNITS, True, False)
    before, flags = {key: value.clone() for key, value in module.state_dict().items()}, vars(module).copy()
    module.rnn.eval()
    fm.convert.from_torch(module)
    assert vars(module) == flags
    assert module.training
    assert not module.rnn.training
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_modules_of_fastmask_and_models_that_are_trained_go_back():
    """The same bits in both directions, and the same predictions after a training here."""
    bridge = pytest.importorskip("fastmask.torch")
    module = nn.Sequential(
        bridge.Embedding(WORDS, FEATURES), nn.LayerNorm(FEATURES),
        bridge.LSTM(FEATURES, UNITS, 2, batch_first=True, bidirectional=True),
    )  # fmt: skip
    model = compare(module, IDS)
    model.compile("adam", "mse")
    model.fit(IDS, RNG.normal(size=(5, 7, 2 * UNITS)), verbose=0)
    trained = model.torch_weights()
    assert trained.keys() == module.state_dict().keys()
    module.load_state_dict({name: torch.from_numpy(value) for name, value in trained.items()})
    np.testing.assert_allclose(model.predict(IDS), predicted(module, IDS), rtol=0, atol=2e-6)
    before = [weight.tobytes() for weight in model.get_weights()]
    model.set_torch_weights(module.state_dict())
    assert [weight.tobytes() for weight in model.get_weights()] == before
    again = model.torch_weights()
    assert all(again[name].tobytes() == value.numpy().tobytes() for name, value in module.state_dict().items())


def test_half_precision_is_widened():
    module = nn.Sequential(nn.Linear(FEATURES, 3), nn.Tanh())
    wide = compare(module, X[:, 0])
    for dtype in (torch.float16, torch.bfloat16):
        rounded = [value.to(dtype).float() for value in module.state_dict().values()]
        model = fm.convert.from_torch(nn.Sequential(nn.Linear(FEATURES, 3), nn.Tanh()).to(dtype))
        wide.set_torch_weights({f"0.{name}": value for name, value in zip(("weight", "bias"), rounded, strict=True)})
        model.set_torch_weights({f"0.{name}": v.to(dtype) for name, v in zip(("weight", "bias"), rounded, strict=True)})
        np.testing.assert_array_equal(model.predict(X[:, 0]), wide.predict(X[:, 0]))


REFUSED = {
    "a module": (nn.Sequential(nn.Linear(4, 2), nn.LogSoftmax(-1)), r"module '1': expected a module .* LogSoftmax"),
    "an argument": (nn.Sequential(nn.Linear(4, 2), nn.ELU(0.5)), r"module '1': expected a module .* ELU\(alpha=0.5\)"),
    "projections": (nn.LSTM(4, 3, proj_size=2), "expected no projections"),
    "dropout that never ends": (made.calling(nn.Linear(4, 2), F.dropout, 0.5), "got the result of dropout"),
    "a cast": (made.calling(nn.Linear(4, 2), lambda x: x.int()), "got the result of int"),
    "cells": (made.calling(nn.LSTMCell(4, 3)), "module 'inner': expected a module that fastmask has a layer for"),
    "a function": (made.calling(nn.Linear(4, 2), torch.cumsum, 1), r"expected a tensor .* got the result of cumsum"),
    "a number": (made.calling(nn.Linear(4, 2), lambda x: x + 1), r"expected a tensor .* got the result of add"),
    "an axis": (made.calling(nn.Linear(4, 2), F.softmax, 0), r"expected a tensor .* got the result of softmax"),
    "a branch": (made.calling(nn.Linear(4, 2), lambda x: x if x.sum() > 0 else -x), "can trace, got TraceError"),
    "in place": (made.calling(nn.Linear(4, 2), lambda x: (x.relu_(), x)[1].tanh()), "in place that is used again"),
    "the first step": (made.calling(nn.GRU(4, 3, batch_first=True), lambda x: x[0][:, 0]), "the result of getitem"),
    "layouts": (
        made.calling(nn.GRU(4, 3, batch_first=True), nn.GRU(3, 2), first=True),
        "module 'then': expected batch_first=True, got False",
    ),
    "no shape": (nn.Sequential(nn.Tanh()), "input_shape: expected the shape of 'input'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_counterpart_is_named(kind):
    module, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        fm.convert.from_torch(module)


def test_hooks_and_what_is_no_module():
    module = nn.Sequential(nn.Linear(4, 2))
    module[0].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="expected no hooks around a forward, got some of '0'"):
        fm.convert.from_torch(module)
    with pytest.raises(TypeError, match=r"module: expected a torch\.nn\.Module, got dict"):
        fm.convert.from_torch({})


def test_an_input_that_is_added():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(FEATURES, 8), nn.Linear(8, FEATURES)

        def forward(self, x):
            return {"sum": x + self.second(F.gelu(self.first(x))), "inner": self.first(x)}

    module = Residual()
    model = fm.convert.from_torch(module)
    found, wanted = model.predict(X[:, 0]), module(torch.from_numpy(X[:, 0]))
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name].detach().numpy(), rtol=0, atol=2e-6)
