"""NumPy: the functions of ``fastmask.reference`` on padded arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bench.peers.data import layer_data, model_data, stream_data
from bench.peers.libraries import Array, Run, losses, per_step
from bench.peers.shapes import LayerCase, ModelCase, StreamCase
from fastmask import reference

FUNCTIONS = {"SimpleRNN": "simple_rnn", "LSTM": "lstm", "GRU": "gru"}


class Slot(NamedTuple):
    """The two running means of Adam for one weight."""

    m: Array
    v: Array


class Model:
    """Embedding, LSTM, one logistic unit and Adam."""

    def __init__(self, weights: list[Array]) -> None:
        self.weights = weights
        self.slots = [Slot(np.zeros_like(weight), np.zeros_like(weight)) for weight in weights]
        self.steps = 0

    def predict(self, ids: Array) -> Array:
        table, kernel, recurrent_kernel, bias, dense_kernel, dense_bias = self.weights
        x = reference.embedding(ids, table)
        _, states = reference.lstm(x, kernel, recurrent_kernel, bias, mask=ids != 0)
        return reference.dense(states[0], dense_kernel, dense_bias, "sigmoid")

    def step(self, ids: Array, y: Array) -> float:
        """Train on one batch; return its loss."""
        table, kernel, recurrent_kernel, bias, dense_kernel, dense_bias = self.weights
        x, pull_table = reference.embedding_vjp(ids, table)
        (_, states), pull_run = reference.lstm_vjp(x, kernel, recurrent_kernel, bias, mask=ids != 0)
        p, pull_dense = reference.dense_vjp(states[0], dense_kernel, dense_bias, "sigmoid")
        loss = -np.mean(np.where(y, np.log(p), np.log(1 - p)))
        dh, d_dense_kernel, d_dense_bias = pull_dense((p - y) / (p * (1 - p)) / len(y))
        d = pull_run(None, (dh, None))
        self._update([pull_table(d.inputs), d.kernel, d.recurrent_kernel, d.bias, d_dense_kernel, d_dense_bias])
        return float(loss)

    def _update(self, gradients: list[Array]) -> None:
        self.steps += 1
        alpha = reference.adam_alpha(0.001, self.steps)
        for n, gradient in enumerate(gradients):
            self.weights[n], m, v, _ = reference.adam_step(self.weights[n], gradient, *self.slots[n], None, alpha)
            self.slots[n] = Slot(m, v)


class PlainNumpy:
    def layer(self, case: LayerCase) -> Run:
        data = layer_data(case)
        run: Callable[..., Any] = getattr(reference, FUNCTIONS[case.cell])
        run_vjp: Callable[..., Any] = getattr(reference, f"{FUNCTIONS[case.cell]}_vjp")

        def forward() -> Array:
            states: tuple[Array, ...] = run(data.x, *data.weights, mask=data.mask)[1]
            return states[0]

        def both() -> tuple[Array, reference.RecurrentGradients]:
            (_, states), pullback = run_vjp(data.x, *data.weights, mask=data.mask)
            return states[0], pullback(None, (data.dy, *(None for _ in states[1:])))

        def check() -> dict[str, Array]:
            if case.kind == "forward":
                return {"y": forward()}
            y, d = both()
            named = {f"d_weight_{n}": gradient for n, gradient in enumerate((d.kernel, d.recurrent_kernel, d.bias))}
            return {"y": y, "dx": per_step(d.inputs), **named}

        return Run(forward if case.kind == "forward" else both, check)

    def model(self, case: ModelCase) -> Run:
        data = model_data(case)
        model = Model(data.weights)
        if case.kind == "prediction":
            return Run(lambda: model.predict(data.ids), lambda: {"y": model.predict(data.ids)})
        return Run(lambda: model.step(data.ids, data.y), lambda: losses(lambda: model.step(data.ids, data.y)))

    def stream(self, case: StreamCase) -> Run:
        data = stream_data(case)
        kept: list[Any] = [None]

        def step(x: Array) -> Array:
            y, kept[0] = reference.lstm(x, *data.weights, kept[0])
            return y[:, -1]

        x = data.x[0]
        return Run(lambda: step(x), lambda: {"y": np.concatenate([step(x) for x in data.x])})


def start(threads: int, variant: str) -> PlainNumpy:
    """The threads of NumPy's matrix products are set in the environment, before it is imported."""
    return PlainNumpy()
