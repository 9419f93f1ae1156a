"""Modules of PyTorch as people write them."""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


def zero_states(module, x):
    places = 2 * (2 if module.rnn.bidirectional else 1)
    batch = x.size(0) if module.rnn.batch_first else x.shape[1]
    h = torch.zeros(places, batch, module.rnn.hidden_size, device=x.device)
    return h, torch.zeros(places, batch, module.rnn.hidden_size).to(x.device)


def with_zeros(module, x):
    y, (h, _) = module.rnn(x, zero_states(module, x))
    return module.head(module.rows(h, y))


def over_steps(name):
    def pooled(module, x):
        y, _ = module.rnn(x)
        dim = 1 if module.rnn.batch_first else 0
        if name == "max":
            return module.head(torch.max(y, dim)[0])
        return module.head(y.mean(dim=dim) if name == "mean" else y.amax(dim))

    return pooled


def last_outputs(module, x):
    y, _ = module.rnn(x)
    y = module.drop(module.norm(y))
    return module.head(y[:, -1, :] if module.rnn.batch_first else y[-1])


def turned(module, x):
    """Through modules of both layouts."""
    y = module.rnn(x)[0].transpose(0, 1)
    y = module.other(y)[0].permute(1, 0, 2).contiguous()
    return torch.tanh(module.tail(y))


def residual(module, x):
    y, _ = module.rnn(x)
    y = module.norm(y)
    z = F.relu(module.wide(y))
    z += y
    return F.softmax(module.joined(torch.cat([z, y * z], -1)), dim=-1)


def output_and_state(module, x):
    y, (h, _) = module.rnn(x)
    return torch.cat((y.mean(module.time), h[-1]), 1)


def steps_of_one_number(module, x):
    y, _ = module.rnn(x)
    return module.head(F.dropout(y, training=module.training)).squeeze(-1)


FORWARDS = {
    "steps of one number": steps_of_one_number,
    "values of a maximum": lambda module, x: module.head(module.rnn(x)[0].max(dim=module.time).values),
    "every step": lambda module, x: module.head(module.rnn(x)[0]),
    "last states": lambda module, x: torch.sigmoid(module.rows(module.rnn(x)[1][0])),
    "both directions": lambda module, x: module.head(module.rows(module.rnn(x)[1][0])).squeeze(-1),
    "sum of directions": lambda module, x: (lambda h: h[-2] + h[-1])(module.rnn(x)[1][0]),
    "cells": lambda module, x: module.rnn(x)[1][1][-1, :, :].relu(),
    "the first layer": lambda module, x: module.rnn(x)[1][0][0],
    "output and state": output_and_state,
    "zeros": with_zeros,
    "mean": over_steps("mean"),
    "max": over_steps("max"),
    "amax": over_steps("amax"),
    "last outputs": last_outputs,
    "turned": turned,
    "residual": residual,
}
ONE_WAY = {"last outputs"}
BATCH_FIRST = {"turned"}


class Tagger(nn.Module):
    """An embedding, a recurrent module of two layers, and what a forward makes of them."""

    def __init__(self, forward, words, features, units, batch_first, bidirectional):
        super().__init__()
        width = units * (2 if bidirectional else 1)
        self.body, self.time = forward, 1 if batch_first else 0
        self.embedding = nn.Embedding(words, features)
        self.rnn = nn.LSTM(features, units, 2, batch_first=batch_first, bidirectional=bidirectional, dropout=0.2)
        self.norm, self.drop = nn.LayerNorm(width), nn.Dropout(0.2)
        self.wide, self.joined, self.head = nn.Linear(width, width), nn.Linear(2 * width, width), nn.Linear(width, 1)
        self.other, self.tail = nn.GRU(width, units, batch_first=False), nn.Linear(units, 2)

    def rows(self, h, y=None):
        return torch.cat([h[-2], h[-1]], dim=1) if self.rnn.bidirectional else h[-1]

    def forward(self, ids):
        return self.body(self, self.embedding(ids))


class Translator(nn.Module):
    """Two embeddings, and a decoder that starts from the states of the encoder."""

    def __init__(self, kind, words, features, units, bidirectional):
        super().__init__()
        self.source, self.target = nn.Embedding(words, features), nn.Embedding(words, features)
        self.encoder, self.decoder = (
            kind(features, units, 2, batch_first=True, bidirectional=bidirectional) for _ in range(2)
        )
        self.head = nn.Linear(units * (2 if bidirectional else 1), 3)

    def forward(self, source, target):
        _, states = self.encoder(self.source(source))
        y, _ = self.decoder(self.target(target), states)
        return self.head(y)


class Packing(nn.Module):
    """Packs its sequences by their lengths."""

    def __init__(self, kind, words, features, units, bidirectional, padding):
        super().__init__()
        self.embedding = nn.Embedding(words, features, padding_idx=padding)
        self.rnn = kind(features, units, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(units * (2 if bidirectional else 1), 3)

    def forward(self, ids, lengths):
        packed = pack_padded_sequence(self.embedding(ids), lengths.cpu(), batch_first=True, enforce_sorted=False)
        output, states = self.rnn(packed)
        output, _ = pad_packed_sequence(output, batch_first=True)
        h = states[0] if isinstance(self.rnn, nn.LSTM) else states
        return self.head(torch.cat([h[0], h[1]], -1) if self.rnn.bidirectional else h.squeeze(0))


class Calling(nn.Module):
    """A module, and a function or another module behind it."""

    def __init__(self, inner, then, arguments, first):
        super().__init__()
        self.inner, self.then, self.arguments, self.first = inner, then, arguments, first

    def forward(self, x):
        y = self.inner(x)
        y = y[0] if self.first else y
        return y if self.then is None else self.then(y, *self.arguments)


def calling(inner, then=None, *arguments, first=False):
    return Calling(inner, then, arguments, first)
