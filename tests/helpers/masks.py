"""Masks of every kind."""

import numpy as np

MASK_KINDS = ("none", "right", "left", "holes", "empty_row", "all_empty")
MASKED_KINDS = MASK_KINDS[1:]


def make_mask(kind, batch, time, seed=0):
    """Bool [B, T] of the given kind, or None for ``"none"``.

    ``right`` and ``left`` name the side of the padding; the first row has no padding.
    """
    if kind not in MASK_KINDS:
        raise ValueError(f"kind: expected one of {', '.join(MASK_KINDS)}, got {kind!r}.")
    rng = np.random.default_rng(seed)
    if kind == "none":
        return None
    if kind == "all_empty":
        return np.zeros((batch, time), bool)
    if kind in ("right", "left"):
        lengths = rng.integers(1, time + 1, batch)
        lengths[0] = time
        mask = np.arange(time) < lengths[:, None]
        return mask if kind == "right" else mask[:, ::-1].copy()
    mask = rng.random((batch, time)) < 0.6
    mask[0, 0] = mask[0, -1] = True
    if kind == "empty_row":
        mask[batch // 2] = False
    return mask


def full_mask(mask, batch, time):
    """The mask itself, all True for None."""
    return np.ones((batch, time), bool) if mask is None else mask
