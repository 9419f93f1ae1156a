"""How far float32 runs of a recurrent layer are from the reference in float64, on the same data."""

import numpy as np

from fastmask import PackedSequence, ops, reference

OPERATIONS = {"SimpleRNN": ("simple_rnn", 1), "LSTM": ("lstm", 4), "GRU": ("gru", 3)}


def make_arrays(cell, steps, batch=4, features=16, units=32, seed=0):
    """Arguments of a run by name, in float64 but with values that float32 has; the last is the gradient by y."""
    rng = np.random.default_rng([seed, steps, units])
    width = OPERATIONS[cell][1] * units

    def normal(*shape, scale=1.0):
        return (scale * rng.standard_normal(shape)).astype(np.float32).astype(np.float64)

    return {
        "x": normal(batch, steps, features),
        "kernel": normal(features, width, scale=features**-0.5),
        "recurrent_kernel": normal(units, width, scale=0.8 * units**-0.5),
        "bias": normal(*((2, width) if cell == "GRU" else (width,)), scale=0.1),
        "dy": normal(batch, steps, units),
    }


def exact(cell, arrays):
    """Outputs and gradients of the reference in float64, by name."""
    x, kernel, recurrent_kernel, bias, dy = arrays.values()
    (y, _), pullback = getattr(reference, OPERATIONS[cell][0] + "_vjp")(x, kernel, recurrent_kernel, bias)
    return _named(y, pullback(dy, None))


def ours(cell, arrays):
    """The same from the compiled operation in float32."""
    x, kernel, recurrent_kernel, bias, dy = (array.astype(np.float32) for array in arrays.values())
    packed = PackedSequence.from_padded(x)
    (y, _), pullback = getattr(ops, OPERATIONS[cell][0] + "_vjp")(packed, kernel, recurrent_kernel, bias)
    gradients = pullback(PackedSequence.from_padded(dy).values)
    return _named(y.pad(), gradients._replace(inputs=packed.with_values(gradients.inputs).pad()))


def _named(y, gradients):
    names = ("inputs", "kernel", "recurrent_kernel", "bias")
    return {"y": y} | {name: getattr(gradients, name) for name in names}


def distance(actual, expected):
    """The root mean square of the differences over that of the expected numbers."""
    return float(np.sqrt(((actual - expected) ** 2).mean() / (expected**2).mean()))


def distances(cell, steps):
    """Our distance from float64 for the outputs and each gradient."""
    arrays = make_arrays(cell, steps)
    expected = exact(cell, arrays)
    return {name: distance(array, expected[name]) for name, array in ours(cell, arrays).items()}
