"""Keras on one of its backends: compiled functions on TensorFlow and JAX, eager ones on torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any, ClassVar

import numpy as np

from bench.peers.data import LayerData, layer_data, model_data, stream_data
from bench.peers.libraries import Array, Run, losses, per_step
from bench.peers.shapes import LayerCase, ModelCase, StreamCase


class TensorFlow:
    """Functions of one layer as ``tf.function``."""

    stream_options: ClassVar = {"stateful": True}

    def __init__(self, threads: int) -> None:
        self.tf = import_module("tensorflow")
        self.tf.config.threading.set_intra_op_parallelism_threads(threads)
        self.tf.config.threading.set_inter_op_parallelism_threads(1)

    def forward(self, layer: Any, data: LayerData) -> Callable[[], Any]:
        x, mask = self.tf.constant(data.x), None if data.mask is None else self.tf.constant(data.mask)
        run = self.tf.function(lambda x, mask: layer(x, mask=mask))
        return lambda: run(x, mask)

    def both(self, layer: Any, data: LayerData) -> Callable[[], Any]:
        tf = self.tf
        x, mask = tf.constant(data.x), None if data.mask is None else tf.constant(data.mask)
        dy, variables = tf.constant(data.dy), [weight.value for weight in layer.weights]

        @tf.function
        def run(x: Any, mask: Any, dy: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, mask=mask)
            return y, tape.gradient(y, [x, *variables], dy)

        return lambda: run(x, mask, dy)

    def step(self, layer: Any) -> Callable[[Array], Any]:
        run = self.tf.function(lambda x: layer(x))
        return lambda x: run(x).numpy()


class Jax:
    """Functions of one layer under ``jax.jit``, which the states of a stateful layer would not leave."""

    stream_options: ClassVar = {"return_state": True}

    def __init__(self, threads: int) -> None:
        self.jax = import_module("jax")

    def _values(self, variables: list[Any]) -> list[Any]:
        return [variable.value for variable in variables]

    def _call(self, layer: Any) -> Callable[..., Any]:
        fixed = self._values(layer.non_trainable_variables)
        return lambda weights, x, mask: layer.stateless_call(weights, fixed, x, mask=mask)[0]

    def forward(self, layer: Any, data: LayerData) -> Callable[[], Any]:
        run = self.jax.jit(self._call(layer))
        weights = self._values(layer.trainable_variables)
        x, mask = self.jax.device_put(data.x), self.jax.device_put(data.mask)
        return lambda: run(weights, x, mask).block_until_ready()

    def both(self, layer: Any, data: LayerData) -> Callable[[], Any]:
        call = self._call(layer)

        @self.jax.jit
        def run(weights: Any, x: Any, mask: Any, dy: Any) -> Any:
            y, pullback = self.jax.vjp(lambda weights, x: call(weights, x, mask), weights, x)
            d_weights, dx = pullback(dy)
            return y, [dx, *d_weights]

        weights = self._values(layer.trainable_variables)
        x, mask, dy = (self.jax.device_put(array) for array in (data.x, data.mask, data.dy))
        return lambda: self.jax.block_until_ready(run(weights, x, mask, dy))

    def step(self, layer: Any) -> Callable[[Array], Any]:
        fixed, weights = self._values(layer.non_trainable_variables), self._values(layer.trainable_variables)

        @self.jax.jit
        def run(weights: Any, x: Any, state: Any) -> Any:
            y, *state = layer.stateless_call(weights, fixed, x, initial_state=state)[0]
            return y, state

        kept = [[np.zeros((1, layer.units), np.float32)] * 2]

        def one(x: Array) -> Any:
            y, kept[0] = run(weights, x, kept[0])
            return np.asarray(y)

        return one


class Torch:
    """Functions of one layer, eager."""

    stream_options: ClassVar = {"stateful": True}

    def __init__(self, threads: int) -> None:
        self.torch = import_module("torch")
        self.torch.set_num_threads(threads)

    def _tensors(self, data: LayerData) -> tuple[Any, Any]:
        convert = self.torch.from_numpy
        return convert(data.x), None if data.mask is None else convert(data.mask)

    def forward(self, layer: Any, data: LayerData) -> Callable[[], Any]:
        x, mask = self._tensors(data)

        def run() -> Any:
            with self.torch.no_grad():
                return layer(x, mask=mask)

        return run

    def both(self, layer: Any, data: LayerData) -> Callable[[], Any]:
        x, mask = self._tensors(data)
        dy, inputs = self.torch.from_numpy(data.dy), [x.requires_grad_(), *(weight.value for weight in layer.weights)]

        def run() -> Any:
            y = layer(x, mask=mask)
            return y, self.torch.autograd.grad(y, inputs, dy)

        return run

    def step(self, layer: Any) -> Callable[[Array], Any]:
        def one(x: Array) -> Any:
            with self.torch.no_grad():
                return layer(self.torch.from_numpy(x)).numpy()

        return one


BACKENDS = {"tensorflow": TensorFlow, "jax": Jax, "torch": Torch}


class Keras:
    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.keras = import_module("keras")

    def layer(self, case: LayerCase) -> Run:
        data = layer_data(case)
        self.keras.backend.clear_session()
        layer = getattr(self.keras.layers, case.cell)(case.units)
        layer.build((case.batch, case.steps, case.units))
        layer.set_weights(data.weights)
        make = self.backend.forward if case.kind == "forward" else self.backend.both
        run = make(layer, data)

        def check() -> dict[str, Array]:
            to_numpy = self.keras.ops.convert_to_numpy
            if case.kind == "forward":
                return {"y": to_numpy(run())}
            y, (dx, *gradients) = run()
            named = {f"d_weight_{n}": to_numpy(gradient) for n, gradient in enumerate(gradients)}
            return {"y": to_numpy(y), "dx": per_step(to_numpy(dx)), **named}

        return Run(run, check)

    def model(self, case: ModelCase) -> Run:
        data = model_data(case)
        layers = self.keras.layers
        self.keras.backend.clear_session()
        model = self.keras.Sequential(
            [
                layers.Embedding(case.vocabulary, case.units, mask_zero=True),
                layers.LSTM(case.units),
                layers.Dense(1, activation="sigmoid"),
            ]
        )
        model.build((case.batch, case.steps))
        model.set_weights(data.weights)
        model.compile("adam", "binary_crossentropy")
        if case.kind == "prediction":
            return Run(lambda: model.predict_on_batch(data.ids), lambda: {"y": model.predict_on_batch(data.ids)})

        def step() -> float:
            # The mean over all batches since the last reset would come back without this.
            model.reset_metrics()
            return float(model.train_on_batch(data.ids, data.y))

        return Run(step, lambda: losses(step))

    def stream(self, case: StreamCase) -> Run:
        data = stream_data(case)
        layer = self.keras.layers.LSTM(case.units, **self.backend.stream_options)
        layer.build((1, 1, case.units))
        layer.set_weights(data.weights)
        one = self.backend.step(layer)
        x = data.x[0]
        return Run(lambda: one(x), lambda: {"y": np.concatenate([one(step) for step in data.x])})


def start(threads: int, variant: str) -> Keras:
    """The backend is told in the environment before Keras is imported."""
    os.environ["KERAS_BACKEND"] = variant
    return Keras(BACKENDS[variant](threads))
