"""The methods of models that write and read files."""

from typing import Any


class Storable:
    """Adds `save`, `save_weights` and `load_weights` to a model."""

    def save(self, path: Any, overwrite: bool = True) -> None:
        """Write the model into a ``.keras`` file; see `fastmask.saving.save_model`."""
        from fastmask import saving

        saving.save_model(self, path, overwrite)

    def save_weights(self, path: Any, overwrite: bool = True) -> None:
        """Write the weights into a ``.weights.h5`` file; see `fastmask.saving.save_weights`."""
        from fastmask import saving

        saving.save_weights(self, path, overwrite)

    def load_weights(self, path: Any, skip_mismatch: bool = False) -> None:
        """Fill the weights from a file; see `fastmask.saving.load_weights`."""
        from fastmask import saving

        saving.load_weights(self, path, skip_mismatch)
