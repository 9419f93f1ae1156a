"""Models and weights in Keras's files (extra ``fastmask[keras]``, which brings h5py).

>>> model.save("model.keras")
>>> model = fm.models.load_model("model.keras")
"""

from fastmask.saving.archive import load_model, save_model
from fastmask.saving.errors import FileFormatError
from fastmask.saving.weights import load_weights, save_weights

__all__ = ["FileFormatError", "load_model", "load_weights", "save_model", "save_weights"]
