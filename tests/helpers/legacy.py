"""Legacy HDF5 files, written by hand."""

import json

import numpy as np

RNG = np.random.default_rng(11)


def random(*shape):
    """Weights."""
    return RNG.uniform(-0.8, 0.8, shape).astype(np.float32)


def write(path, config, weights, version=None, optimizer=None, training=None):
    """Write a whole-model file: weights by layer name, each a list of arrays or of (name, array)."""
    import h5py

    with h5py.File(path, "w") as root:
        if config is not None:
            root.attrs["model_config"] = json.dumps(config).encode()
        if version is not None:
            root.attrs["keras_version"] = version.encode()
        if training is not None:
            root.attrs["training_config"] = json.dumps(training).encode()
        group = root.create_group("model_weights") if config is not None else root
        group.attrs["layer_names"] = [name.encode() for name in weights]
        for name, arrays in weights.items():
            _arrays(group.create_group(name), name, arrays)
        if optimizer is not None:
            _arrays(root.create_group("optimizer_weights"), "opt", optimizer)


def _arrays(group, prefix, arrays):
    named = [a if isinstance(a, tuple) else (f"{prefix}_{i}:0", a) for i, a in enumerate(arrays)]
    group.attrs["weight_names"] = [name.encode() for name, _ in named]
    for name, array in named:
        group.create_dataset(name, data=array)
