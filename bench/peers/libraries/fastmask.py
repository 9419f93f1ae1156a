"""fastmask, called as a user does: its layers on padded arrays with a mask, its models on padded ids."""

from __future__ import annotations

import numpy as np

import fastmask as fm
from bench.peers.data import layer_data, model_data, stream_data
from bench.peers.libraries import Array, Run, losses, per_step
from bench.peers.shapes import LayerCase, ModelCase, StreamCase


class Fastmask:
    def layer(self, case: LayerCase) -> Run:
        data = layer_data(case)
        layer = getattr(fm.layers, case.cell)(case.units)
        layer.build((None, None, case.units))
        layer.set_weights(data.weights)

        def forward() -> Array:
            return np.asarray(layer(data.x, data.mask))

        def both() -> tuple[Array, fm.layers.Gradients]:
            y, pullback = layer.vjp(data.x, data.mask)
            return y, pullback(data.dy)

        def check() -> dict[str, Array]:
            if case.kind == "forward":
                return {"y": forward()}
            y, gradients = both()
            named = {f"d_weight_{n}": gradient for n, gradient in enumerate(gradients.weights)}
            return {"y": y, "dx": per_step(gradients.inputs), **named}

        return Run(forward if case.kind == "forward" else both, check)

    def model(self, case: ModelCase) -> Run:
        data = model_data(case)
        model = fm.Sequential(
            [
                fm.layers.Embedding(case.vocabulary, case.units, mask_zero=True),
                fm.layers.LSTM(case.units),
                fm.layers.Dense(1, activation="sigmoid"),
            ]
        )
        model.build((None, None))
        model.set_weights(data.weights)
        model.compile("adam", "binary_crossentropy")
        ids = [row[row != 0] for row in data.ids] if case.form == "list" else data.ids
        if case.kind == "prediction":
            return Run(lambda: model.predict_on_batch(ids), lambda: {"y": model.predict_on_batch(ids)})

        def step() -> float:
            return float(model.train_on_batch(ids, data.y))

        return Run(step, lambda: losses(step))

    def stream(self, case: StreamCase) -> Run:
        data = stream_data(case)
        layer = fm.layers.LSTM(case.units, stateful=True)
        layer.build((1, None, case.units))
        layer.set_weights(data.weights)
        x = data.x[0]
        return Run(lambda: layer(x), lambda: {"y": np.concatenate([layer(step) for step in data.x])})


def start(threads: int, variant: str) -> Fastmask:
    fm.set_num_threads(threads)
    return Fastmask()
