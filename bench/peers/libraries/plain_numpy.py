"""NumPy: the functions of ``fastmask.reference`` on padded arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.numpy_model import NumpyModel
from bench.peers.data import layer_data, model_data, stream_data
from bench.peers.libraries import Array, Run, losses, per_step
from bench.peers.shapes import LayerCase, ModelCase, StreamCase
from fastmask import reference

FUNCTIONS = {"SimpleRNN": "simple_rnn", "LSTM": "lstm", "GRU": "gru"}


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
        model = NumpyModel("lstm", data.weights)
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
