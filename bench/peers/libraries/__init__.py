"""One module per library. Each has ``start(threads, variant)`` and makes a `Run` of a case."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from bench.peers.data import Array
from bench.peers.shapes import LayerCase, ModelCase, StreamCase


class UnsupportedError(Exception):
    """A library has no way to do a case; the text says why."""


class Run(NamedTuple):
    """What is timed, and what it computes.

    `call` does the work once and waits until it is done. `check` runs it and returns arrays that must be equal
    from library to library: outputs, and gradients of weights and inputs, in Keras's order.
    """

    call: Callable[[], Any]
    check: Callable[[], dict[str, Array]]


class Library(Protocol):
    """What a module returns from ``start``."""

    def layer(self, case: LayerCase) -> Run: ...

    def model(self, case: ModelCase) -> Run: ...

    def stream(self, case: StreamCase) -> Run: ...


class Entry(NamedTuple):
    """Title in tables, module here, what tells its variants apart, packages whose versions are reported."""

    title: str
    module: str
    variant: str
    packages: tuple[str, ...]


LIBRARIES = {
    "fastmask": Entry("fastmask", "fastmask", "", ("fastmask",)),
    "pytorch-padded": Entry("PyTorch padded", "pytorch", "padded", ("torch",)),
    "pytorch-packed": Entry("PyTorch packed", "pytorch", "packed", ("torch",)),
    "keras-tensorflow": Entry("Keras TensorFlow", "keras", "tensorflow", ("keras", "tensorflow-cpu")),
    "keras-jax": Entry("Keras JAX", "keras", "jax", ("keras", "jax")),
    "keras-torch": Entry("Keras torch", "keras", "torch", ("keras", "torch")),
    "onnxruntime": Entry("ONNX Runtime", "onnx_runtime", "", ("onnxruntime",)),
    "numpy": Entry("NumPy", "plain_numpy", "", ("numpy",)),
}


def start(name: str, threads: int) -> Library:
    """Import a library and tell it how many threads to use."""
    entry = LIBRARIES[name]
    library: Library = import_module(f"{__name__}.{entry.module}").start(threads, entry.variant)
    return library


def per_step(gradient: Array) -> Array:
    """Of the gradient of the inputs (B, T, F) one number per step: enough to compare, and quick to send."""
    return gradient.sum(axis=2)


def losses(step: Callable[[], Any]) -> dict[str, Array]:
    """The losses before and after one training step."""
    import numpy as np

    return {"losses": np.array([float(step()) for _ in range(2)])}
