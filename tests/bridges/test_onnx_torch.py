"""Modules of PyTorch, exported to ONNX and read back."""

import io
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from torch import nn  # noqa: E402
from torch.nn.utils import rnn  # noqa: E402

import fastmask as fm  # noqa: E402


class Cells(nn.Module):
    def __init__(self, cell, last):
        super().__init__()
        self.embedding, self.cell, self.output, self.last = nn.Embedding(20, 6), cell(6, 5), nn.Linear(5, 3), last

    def forward(self, ids):
        x, state, found = self.embedding(ids), None, []
        for t in range(4):
            state = self.cell(x[:, t], state)
            found.append(state[0] if isinstance(state, tuple) else state)
        return self.output(found[-1] if self.last else torch.stack(found, 1))


class Layers(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.layer = kind(6, 5, batch_first=True, **options)
        self.output = nn.Linear(5 * (1 + self.layer.bidirectional), 3)

    def forward(self, ids):
        return torch.softmax(self.output(self.layer(self.embedding(ids))[0]), -1)


class Packed(Layers):
    def forward(self, ids, lengths):
        packed = rnn.pack_padded_sequence(self.embedding(ids), lengths, batch_first=True, enforce_sorted=False)
        y, _ = rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True, total_length=ids.shape[1])
        return self.output(y)


def exported(module, *arguments, axes):
    torch.manual_seed(0)
    names, buffer = ["ids", "lengths"][: len(arguments)], io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), arguments, buffer, dynamo=False, input_names=names, dynamic_axes=axes)
    return fm.convert.from_onnx(buffer.getvalue())


def names(model):
    return [type(layer).__name__ for layer in model.layers[1:]]


def ids(rows, steps=4):
    return np.random.default_rng(rows).integers(0, 20, (rows, steps))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("cell", "layer"), [(nn.LSTMCell, "LSTM"), (nn.GRUCell, "GRU"), (nn.RNNCell, "SimpleRNN")])
def test_traced_loops_over_cells(cell, layer, last):
    module = Cells(cell, last)
    model = exported(module, torch.from_numpy(ids(2)), axes={"ids": {0: "batch"}})
    assert names(model) == ["WrappingEmbedding", layer, "Dense"]
    with torch.no_grad():
        np.testing.assert_allclose(model(ids(9)), module(torch.from_numpy(ids(9))), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_layers(kind, options):
    module = Layers(kind, **options)
    model = exported(module, torch.from_numpy(ids(2)), axes={"ids": {0: "batch", 1: "time"}})
    assert len(names(model)) == 2 + options.get("num_layers", 1)
    assert not any(name in ("ArrayOperation", "Recurrence") for name in names(model))
    for size in ((1, 1), (5, 9)):
        with torch.no_grad():
            expected = module(torch.from_numpy(ids(*size)))
        np.testing.assert_allclose(model.predict(ids(*size)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_packed_sequences_skip_padding(kind):
    module = Packed(kind, bidirectional=True)
    lengths = torch.tensor([4, 2])
    axes = {"ids": {0: "batch", 1: "time"}, "lengths": {0: "batch"}}
    model = exported(module, torch.from_numpy(ids(2)), lengths, axes=axes)
    assert "Recurrence" in names(model)
    x, lengths = ids(5, 9), np.array([1, 9, 3, 5, 9])
    with torch.no_grad():
        expected = module(torch.from_numpy(x), torch.from_numpy(lengths))
    np.testing.assert_allclose(model([x, lengths]), expected, rtol=1e-4, atol=1e-6)
