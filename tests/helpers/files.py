"""Makers of small files for the tests of saving."""

import h5py

import fastmask as fm
from fastmask import layers


def stack(*made, first=None):
    """A Sequential on features (5, 4), masked, unless `first` says otherwise."""
    return fm.Sequential([*(first or [fm.Input((5, 4)), layers.Masking()]), *made])


def save_small(path, compiled=False):
    """Save a small model and return it."""
    model = stack(layers.GRU(2), layers.Dense(1))
    if compiled:
        model.compile("adam", "mse")
    model.save(path)
    return model


def weights_file(path, change):
    """Save weights and change the open file; return the model."""
    model = save_small(path.with_suffix(".keras"))
    model.save_weights(path)
    with h5py.File(path, "a") as root:
        change(root)
    return model
