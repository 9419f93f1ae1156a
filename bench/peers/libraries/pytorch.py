"""PyTorch: ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` on padded batches, or on packed ones.

"padded" runs over the padding and takes the output at the last valid step; "packed" makes a packed sequence
from the padded batch in every call, as users do. Rows whose valid steps do not begin at step 0 are moved there
first, by an index that is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from bench.peers.data import layer_data, model_data, stream_data
from bench.peers.libraries import Array, Run, losses, per_step
from bench.peers.shapes import LayerCase, ModelCase, StreamCase

MODULES = {"SimpleRNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}


def swap_gates(cell: str, weight: Array) -> Array:
    """Exchange the first two gates of a GRU along the last axis: Keras has z, r, h, PyTorch r, z, n."""
    if cell != "GRU":
        return weight
    z, r, h = np.split(weight, 3, axis=-1)
    return np.concatenate([r, z, h], axis=-1)


def to_module(cell: str, module: nn.Module, weights: list[Array]) -> None:
    """Set the weights of a layer or cell from those of Keras; an LSTM's two biases are added, one stays zero."""
    kernel, recurrent, bias = (swap_gates(cell, weight) for weight in weights)
    biases = bias if cell == "GRU" else np.stack([bias, np.zeros_like(bias)])
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), (kernel.T, recurrent.T, *biases), strict=True):
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))


def from_gradients(cell: str, gradients: tuple[Tensor, ...]) -> list[Array]:
    """Gradients in the order and shapes of Keras."""
    kernel, recurrent, bias, recurrent_bias = (swap_gates(cell, gradient.numpy().T) for gradient in gradients)
    return [kernel, recurrent, np.stack([bias, recurrent_bias]) if cell == "GRU" else bias]


class Last(nn.Module):
    """The recurrent layer and what it takes to get the outputs (B, H) at the last valid steps."""

    def __init__(self, cell: str, features: int, units: int, packed: bool) -> None:
        super().__init__()
        self.rnn = MODULES[cell](features, units, batch_first=True)
        self.packed = packed

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        if self.packed:
            ends = torch.full((len(x),), x.shape[1]) if lengths is None else lengths
            states = self.rnn(pack_padded_sequence(x, ends, batch_first=True, enforce_sorted=False))[1]
            h: Tensor = states[0] if isinstance(states, tuple) else states
            return h[0]
        y: Tensor = self.rnn(x)[0]
        return y[:, -1] if lengths is None else y[torch.arange(len(x)), lengths - 1]


class Classifier(nn.Module):
    """Embedding, LSTM and one unit, whose logit comes out."""

    def __init__(self, case: ModelCase, packed: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(case.vocabulary, case.units, padding_idx=0)
        self.last = Last("LSTM", case.units, case.units, packed)
        self.dense = nn.Linear(case.units, 1)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.dense(self.last(self.embedding(ids), (ids != 0).sum(1)))
        return logits

    def set_weights(self, weights: list[Array]) -> None:
        to_module("LSTM", self.last.rnn, weights[1:4])
        with torch.no_grad():
            self.embedding.weight.copy_(torch.from_numpy(weights[0]))
            self.dense.weight.copy_(torch.from_numpy(weights[4].T))
            self.dense.bias.copy_(torch.from_numpy(weights[5]))


def compactor(mask: Array | None) -> Callable[[Tensor], Tensor]:
    """A function that moves the valid steps of every row to its beginning."""
    if mask is None or (np.diff(mask.astype(np.int8), axis=1) <= 0).all():
        return lambda x: x
    longest = int(mask.sum(1).max())
    order = torch.from_numpy(np.argsort(~mask, axis=1, kind="stable")[:, :longest].copy())
    rows = torch.arange(len(mask))[:, None]
    return lambda x: x[rows, order]


class PyTorch:
    def __init__(self, packed: bool) -> None:
        self.packed = packed

    def layer(self, case: LayerCase) -> Run:
        data = layer_data(case)
        module = Last(case.cell, case.units, case.units, self.packed)
        to_module(case.cell, module.rnn, data.weights)
        x, dy = torch.from_numpy(data.x), torch.from_numpy(data.dy)
        lengths = None if data.mask is None else torch.from_numpy(data.mask.sum(1))
        compact = compactor(data.mask)
        inputs = (x.requires_grad_(case.kind != "forward"), *module.parameters())

        def forward() -> Tensor:
            with torch.inference_mode():
                y: Tensor = module(compact(x), lengths)
            return y

        def both() -> tuple[Tensor, tuple[Tensor, ...]]:
            y = module(compact(x), lengths)
            return y, torch.autograd.grad(y, inputs, dy)

        def check() -> dict[str, Array]:
            if case.kind == "forward":
                return {"y": forward().numpy()}
            y, (dx, *gradients) = both()
            named = {f"d_weight_{n}": d for n, d in enumerate(from_gradients(case.cell, tuple(gradients)))}
            return {"y": y.detach().numpy(), "dx": per_step(dx.numpy()), **named}

        return Run(forward if case.kind == "forward" else both, check)

    def model(self, case: ModelCase) -> Run:
        data = model_data(case)
        model = Classifier(case, self.packed)
        model.set_weights(data.weights)
        ids, y = torch.from_numpy(data.ids), torch.from_numpy(data.y)
        if case.kind == "prediction":
            model.eval()

            def predict() -> Array:
                with torch.inference_mode():
                    return torch.sigmoid(model(ids)).numpy()

            return Run(predict, lambda: {"y": predict()})
        # Keras adds epsilon before it corrects the bias, PyTorch after: this one is the same in the first step. Of
        # PyTorch's three implementations of Adam the fused one takes the least time.
        optimizer = torch.optim.Adam(model.parameters(), 0.001, eps=1e-7 / 0.001**0.5, fused=True)
        compute_loss = nn.BCEWithLogitsLoss()

        def step() -> float:
            optimizer.zero_grad()
            loss = compute_loss(model(ids), y)
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        return Run(step, lambda: losses(step))

    def stream(self, case: StreamCase) -> Run:
        """Steps of an ``nn.LSTMCell``, which takes less time here than an ``nn.LSTM`` with one step."""
        data = stream_data(case)
        cell = nn.LSTMCell(case.units, case.units)
        to_module("LSTM", cell, data.weights)
        x = torch.from_numpy(data.x[:, 0])
        state: list[Any] = [None]

        def step(n: int = 0) -> Tensor:
            with torch.inference_mode():
                state[0] = cell(x[n], state[0])
            h: Tensor = state[0][0]
            return h

        return Run(step, lambda: {"y": torch.cat([step(n) for n in range(len(x))]).numpy()})


def start(threads: int, variant: str) -> PyTorch:
    torch.set_num_threads(threads)
    return PyTorch(variant == "packed")
