"""Whether a layer can be given a mask."""

from fastmask.layers.base.holder import AnyLayer, describe


def require_mask_support(layer: AnyLayer, source: AnyLayer = None, axes: int = 2) -> None:
    """Raise TypeError if `layer` cannot be given a mask of so many axes; the mask comes from `source`."""
    deep = layer.supports_masking and axes > 2 and layer.input_rank is not None
    if layer.supports_masking and not deep:
        return
    origin = "its input" if source is None else f"the output of {describe(source)}"
    if deep:
        raise TypeError(
            f"{describe(layer)} takes masks of two axes (B, T), but {origin} carries one of {axes}. Wrap the layer in "
            "TimeDistributed, or drop the mask with DropMask."
        )
    remedy = "give none (a list of sequences has one)" if source is None else "make none (mask_zero=False, no Masking)"
    raise TypeError(
        f"{describe(layer)} does not support masking, but {origin} carries a mask. Use it up before with a recurrent "
        "layer with return_sequences=False or a masked pooling layer, drop it with DropMask, set "
        f"supports_masking = True on a layer of your own, or {remedy}."
    )
