"""The methods of models that write and read files, and that lead from and to Keras."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Self

from fastmask import saving


class Storable:
    """Adds `save`, `save_weights`, `load_weights`, `from_keras` and `to_keras` to a model."""

    def save(self, path: Any, overwrite: bool = True) -> None:
        """Write the model into a ``.keras`` file; see `fastmask.saving.save_model`."""
        saving.save_model(self, path, overwrite)

    def save_weights(self, path: Any, overwrite: bool = True) -> None:
        """Write the weights into a ``.weights.h5`` or ``.safetensors`` file; see `fastmask.saving.save_weights`."""
        saving.save_weights(self, path, overwrite)

    def load_weights(self, path: Any, skip_mismatch: bool = False) -> None:
        """Fill the weights from a file; see `fastmask.saving.load_weights`."""
        saving.load_weights(self, path, skip_mismatch)

    def to_json(self, **options: Any) -> str:
        """Return the architecture, and what the model was compiled with, as the JSON text that Keras writes.

        `fastmask.models.model_from_json` and that of Keras make a model of it. `options` are those of `json.dumps`.
        """
        found: str = import_module("fastmask.saving.archive").to_json(self, **options)
        return found

    @classmethod
    def from_keras(cls, model: Any, custom_objects: Mapping[str, Any] | None = None, compile: bool = True) -> Self:
        """Return a model with the layers and weights of a Keras model.

        Parameters
        ----------
        model : keras.Sequential or functional keras.Model
            Of Keras 3 with any backend, built.
        custom_objects : dict of str to class or function, optional
            Your own layers, losses, metrics and optimizers by name.
        compile : bool, default True
            Whether to compile it as the Keras model is, and go on with the state of its optimizer.

        Raises
        ------
        FileFormatError
            If fastmask has no counterpart of something in the model; the message names it.
        TypeError
            If it is no Keras model, or becomes a model of another class than this one.
        ValueError
            If it is not built.
        ImportError
            If Keras is not installed.
        """
        found = _conversion().from_keras(model, custom_objects, compile)
        if not isinstance(found, cls):
            raise TypeError(f"model: expected one that becomes a {cls.__name__}, got a {type(model).__name__}")
        return found

    def to_keras(self, compile: bool = True) -> Any:
        """Return a Keras model with the layers and weights of this one, on the backend that Keras runs on.

        Parameters
        ----------
        compile : bool, default True
            Whether to compile it as this model is, and go on with the state of its optimizer.

        Raises
        ------
        ValueError
            If the model is not built, or Keras has no counterpart of something in it.
        ImportError
            If Keras is not installed.
        """
        return _conversion().to_keras(self, compile)


def _conversion() -> Any:
    """Return the module that converts models, which needs Keras and stands above models."""
    return import_module("fastmask.keras.conversion")
