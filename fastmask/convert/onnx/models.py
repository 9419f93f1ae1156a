"""What models of ONNX files do differently."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmask.batch.data import Layout
from fastmask.batch.packing import PackedSequence
from fastmask.convert.onnx.layers import FileLayer
from fastmask.core.structure import aligned, pack_as
from fastmask.layers.base.symbolic import is_symbolic
from fastmask.models import Model


class OnnxModel(Model):
    """A model with operators of an ONNX file among its layers."""

    def save(self, path: Any, overwrite: bool = True) -> None:
        """Raise NotImplementedError: Keras's files hold layers of Keras alone."""
        own = next((layer.name for layer in self.layers if isinstance(layer, FileLayer)), "time as its first axis")
        raise NotImplementedError(
            f"model {self.name!r}: expected layers of Keras to save, got {own!r} of an ONNX file; save_weights, and "
            "from_onnx of that file with load_weights, keep what was trained"
        )


class WholeBatchModel(OnnxModel):
    """A model some of whose inputs or outputs have another first axis than the batch, such as states or time.

    It takes a batch as it is and gives its outputs as they are; nothing can be split into batches.
    """

    @property
    def layout(self) -> Layout:
        raise NotImplementedError(
            f"model {self.name!r}: expected the batch as the first axis of all inputs and outputs to split and to "
            "train, got another one; call the model, or predict, on one whole batch"
        )

    def __call__(
        self, x: Any, mask: Any = None, initial_state: Any = None, training: bool | None = None, **options: Any
    ) -> Any:
        """Return the outputs for one batch."""
        if is_symbolic(x):
            return super().__call__(x, mask, initial_state, training, **options)
        values = aligned("x", x, pack_as(self.input_structure, self.input_names), required=True)
        outputs = self.run([np.asarray(value) for value in values], mask, training=bool(training))[0]
        return self.pack_outputs([y.pad() if isinstance(y, PackedSequence) else y for y in outputs])

    def predict(self, x: Any, *args: Any, **options: Any) -> Any:
        """Return the outputs for one batch, whatever batch size is asked for."""
        return self(x)

    def predict_on_batch(self, x: Any) -> Any:
        """Return the outputs for one batch."""
        return self(x)
