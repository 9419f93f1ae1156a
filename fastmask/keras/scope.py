"""The context in which all recurrent layers run on the kernels."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from types import MethodType
from typing import Any

import keras

from fastmask.keras.acceleration import forget, has_layers_for_kernels, is_accelerated
from fastmask.keras.loop import inner_loop

_CLASSES = (keras.layers.RNN, keras.layers.LSTM, keras.layers.GRU)
_MAKERS = ("make_train_function", "make_test_function", "make_predict_function")

# The models whose functions were made within the scope around the running code, None outside.
_models: ContextVar[list[Any] | None] = ContextVar("fastmask_keras_models", default=None)
_lock = Lock()
_open_scopes = 0
_replaced: list[tuple[type, str, Any]] = []


@contextmanager
def accelerated() -> Iterator[None]:
    """Run all recurrent layers on the kernels of fastmask within a ``with`` block.

    This holds for layers and models made before or within the block, for `fit`, `evaluate`, `predict` and direct
    calls, in the thread that entered it. On the way out, also by an exception, all is as before.

    Notes
    -----
    Keras has no hook for calls of layers. So as long as such a block is open anywhere, the methods `inner_loop` of
    ``keras.layers.RNN``, ``LSTM`` and ``GRU`` and ``make_train_function`` (and its two relatives) of ``keras.Model``
    are replaced by ones that look whether they run within it, and do what Keras does if not. `accelerate` replaces
    nothing in Keras. A ``tf.function`` or ``jax.jit`` of your own stays what it was when it was traced.
    """
    models: list[Any] = []
    _enter()
    token = _models.set(models)
    try:
        yield
    finally:
        _models.reset(token)
        _leave()
        for model in models:
            forget(model)


def _enter() -> None:
    global _open_scopes
    with _lock:
        _open_scopes += 1
        if _open_scopes == 1:
            for cls in _CLASSES:
                _replace(cls, "inner_loop", _loop(cls.inner_loop))
            for name in _MAKERS:
                if hasattr(keras.Model, name):  # NumPy does not train
                    _replace(keras.Model, name, _maker(getattr(keras.Model, name)))


def _leave() -> None:
    global _open_scopes
    with _lock:
        _open_scopes -= 1
        if _open_scopes == 0:
            while _replaced:
                cls, name, own = _replaced.pop()
                if own is None:
                    delattr(cls, name)
                else:
                    setattr(cls, name, own)


def _replace(cls: type, name: str, method: Any) -> None:
    """Replace a method; one that is inherited is hidden."""
    _replaced.append((cls, name, vars(cls).get(name)))
    setattr(cls, name, method)


def _loop(own: Callable[..., Any]) -> Callable[..., Any]:
    def loop(self: Any, sequences: Any, initial_state: Any, mask: Any, training: Any = False) -> Any:
        if _models.get() is None or is_accelerated(self):
            return own(self, sequences, initial_state, mask=mask, training=training)
        # A loop of a class calls that of its parent, which is replaced as well: each falls back to what it replaces.
        return inner_loop(self, MethodType(own, self), sequences, initial_state, mask, training)

    loop.fastmask = True  # type: ignore[attr-defined]
    return loop


def _maker(own: Callable[..., Any]) -> Callable[..., Any]:
    def make(self: Any, force: bool = False) -> Any:
        models = _models.get()
        if models is None:
            return own(self, force)
        if not any(self is model for model in models):
            models.append(self)
            forget(self)
        with _without_xla(self):
            return own(self, force)

    return make


@contextmanager
def _without_xla(model: Any) -> Iterator[None]:
    """Have the functions of a model be made without XLA where that cannot call the kernels."""
    if keras.config.backend() != "tensorflow" or not model.jit_compile or not has_layers_for_kernels(model):
        yield
        return
    model.jit_compile = False
    try:
        yield
    finally:
        model.jit_compile = True
